"""What a CUDA card sustains: slices a second streamed through the product's comparison, beside the plain
loop on the same card, and where the time goes. Needs torch, numpy and scipy alone."""

from __future__ import annotations

import copy
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from roofline import of_card, roofline
from slices import plain_loop
from torch import Tensor

from D24FADLib.errors import InputError
from D24FADLib.imaging.planes import Plane
from D24FADLib.inference.batches import Batches, Inputs
from D24FADLib.inference.comparison import Comparer, Evidence, compare, inputs_of
from D24FADLib.inference.devices import default_batch, exact_convolutions, sent
from D24FADLib.inference.models import load_model
from D24FADLib.inference.preparation import Prepared
from D24FADLib.inference.resident import Resident
from D24FADLib.inference.runtimes import choose_encoder
from D24FADLib.inference.volumes import VolumeEvidence
from D24FADLib.network.model import D24FADModel

K, SIZE, STUDY = 4, 256, 192  # supports, pixels, slices of a study: 24 studies are streamed by default
_PLAIN = 64  # slices of the plain loop
Row = dict[str, Any]
Voxels = NDArray[np.float32]


def about_card(device: torch.device) -> Row:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "device": torch.cuda.get_device_name(device),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "card_gib": torch.cuda.get_device_properties(device).total_memory / 2**30,
    }


def made(slices: int, seed: int) -> Voxels:
    """Smooth slices (n, SIZE, SIZE) in [0, 1]; supports resemble a query of another seed."""
    coarse = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    own = torch.rand(slices, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    parts = [torch.nn.functional.interpolate(p, (SIZE, SIZE), mode="bicubic") for p in (coarse, own)]
    return (0.7 * parts[0] + 0.3 * parts[1])[:, 0].clamp(0, 1).numpy()


class Stream:
    """`count` slices of queries, study after study, each against the same K supports."""

    def __init__(self, count: int) -> None:
        studies = -(-count // STUDY)
        self.count = studies * STUDY
        self.query = np.concatenate([made(STUDY, 10 + n) for n in range(studies)])
        self.supports = [made(STUDY, 1 + k) for k in range(K)]
        self._again = [np.concatenate([s] * studies) for s in self.supports]
        everywhere = np.broadcast_to(np.ones((1, SIZE, SIZE), bool), self.query.shape)
        self._covered = [everywhere] * K

    def from_host(self, kept: Resident | None) -> Inputs:
        """As a study's slices come: from host memory, by the product's own `inputs_of`."""

        def known(chunk: slice, device: torch.device) -> list[Tensor] | None:
            return None if kept is None else _cyclic(kept, chunk, device)

        box = (slice(0, self.count), slice(0, SIZE), slice(0, SIZE))
        volumes = [self.query, *(() if kept else self._again)]
        return inputs_of(volumes, self._covered, box, (SIZE, SIZE), known)

    def from_device(self, kept: Resident | None, device: torch.device) -> Inputs:
        """All images on the card beforehand."""
        query = torch.from_numpy(self.query).to(device)[None, :, None]
        supports = torch.stack([torch.from_numpy(v).to(device) for v in self.supports])[:, :, None]
        reach = torch.ones(K, 1, SIZE // 4, SIZE // 4, dtype=torch.bool, device=device)
        torch.cuda.synchronize()  # the workers' streams do not wait for this one

        def inputs(chunk: slice, where: torch.device) -> tuple[Tensor, Tensor, list[Tensor] | None]:
            own, known = query[:, chunk], None
            if kept is None:
                places = torch.arange(chunk.start, chunk.stop, device=device) % STUDY
                own = torch.cat([own, supports[:, places]])
            else:
                known = _cyclic(kept, chunk, where)
            return own.expand(-1, -1, 3, -1, -1), reach.expand(-1, own.shape[1], -1, -1), known

        return inputs


def _cyclic(kept: Resident, chunk: slice, device: torch.device) -> list[Tensor]:
    """Slices of the stream -> slices of the supports, which every study repeats."""
    start, left, parts = chunk.start % STUDY, chunk.stop - chunk.start, []
    while left:
        stop = min(STUDY, start + left)
        parts.append(kept(slice(start, stop), device))
        left, start = left - (stop - start), 0
    return parts[0] if len(parts) == 1 else [torch.cat(f, dim=1) for f in zip(*parts, strict=True)]


def kept_features(encoder: Callable[[Tensor], list[Tensor]], supports: Sequence[Voxels]) -> Resident:
    """As `--reference-cache` keeps them for the student's evidence: float16, slices first."""
    stores: list[list[NDArray[np.float16]]] = []
    for support in supports:
        images = torch.from_numpy(support)[:, None].expand(-1, 3, -1, -1)
        with torch.inference_mode():
            parts = [[f.half().cpu().numpy() for f in encoder(part)[3:]] for part in images.split(32)]
        stores.append([np.concatenate(scale) for scale in zip(*parts, strict=True)])
    return Resident([np.stack(scale, axis=1) for scale in zip(*stores, strict=True)])


def sustained(
    comparer: Comparer, inputs: Inputs, count: int, batch: int, workers: int | None = None
) -> float:
    """Slices a second, every result on the host."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    with Batches(comparer, workers) as batches:
        for _ in batches.run(inputs, count, batch):
            pass
        assert not batches.notes, batches.notes
    torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def split(comparer: Comparer, inputs: Inputs, stream: Stream, batch: int, kept: Resident | None) -> Row:
    """Milliseconds of the card for a thousand slices, one step after another, by CUDA events; the transfers
    are those of the images alone, from pinned memory."""
    device, batch = comparer.device, min(batch, stream.count, STUDY)
    voxels = [
        torch.from_numpy(v[:batch]).pin_memory() for v in (stream.query, *(() if kept else stream.supports))
    ]
    images, covered, known = inputs(slice(0, batch), device)
    covered = covered.to(device)
    steps: dict[str, Callable[[], Any]] = {
        "transfer": lambda: [sent(v, device) for v in voxels],
        "encode": lambda: comparer.encode(images),
        "compare": lambda: comparer.compare_features(features, covered, kept is not None),
    }
    features = comparer.encode(images, known)
    row = {}
    for name, step in steps.items():
        step()
        times = []
        for _ in range(5):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        row[f"{name}_ms_per_1000"] = statistics.median(times) / batch * 1e3
    return row


def plain(model: D24FADModel, stream: Stream, repeat: int, device: torch.device) -> tuple[float, Tensor]:
    """Slices a second of the plain loop, as torch runs it by default, and its maps without TF32."""

    def on_device(voxels: Voxels) -> Tensor:
        return torch.from_numpy(voxels[:_PLAIN]).to(device)[:, None].expand(-1, 3, -1, -1).contiguous()

    query, supports = on_device(stream.query), torch.stack([on_device(s) for s in stream.supports])
    with torch.inference_mode():
        with exact_convolutions():
            expected = plain_loop(model, query, supports).cpu()
        plain_loop(model, query, supports)
        times = []
        for _ in range(repeat):
            torch.cuda.synchronize()
            start = time.perf_counter()
            plain_loop(model, query, supports)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return _PLAIN / statistics.median(times), expected


def deviation(comparer: Comparer, inputs: Inputs, expected: Tensor, batch: int) -> float:
    with Batches(comparer) as batches:
        maps = torch.cat([result[0] for _, result, _ in batches.run(inputs, len(expected), batch)])
    return float((maps - expected).abs().max())


def texture(model: D24FADModel, precision: str, stream: Stream, device: torch.device, repeat: int) -> float:
    """Slices a second of a study's comparison as `detect` does it for gray volumes: features of all slices,
    supports encoded in the run, their distances; without the brightness and noise, which numpy works out."""
    encoder = choose_encoder("torch", model, device, None, precision)
    comparer = Comparer(model, Evidence(), device, encoder, None, VolumeEvidence(1.0, 0.0))
    everywhere = np.ones((STUDY, SIZE, SIZE), bool)
    prepared = Prepared(
        None, Plane.AXIAL, "MR", stream.query[:STUDY], tuple(stream.supports), everywhere,
        (everywhere,) * K, (everywhere,) * K, (), (slice(0, STUDY), slice(0, SIZE), slice(0, SIZE)),
        (1.0, 1.0, 1.0), (),
    )  # fmt: skip
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        compare(prepared, comparer, SIZE, default_batch(device, 1 + K))
        times.append(time.perf_counter() - start)
    return STUDY / statistics.median(times[1:])


def _add(rows: list[Row], row: Row) -> None:
    """To the table, and to the log, so that an interrupted run leaves what it has."""
    rows.append(row)
    print(row, file=sys.stderr, flush=True)


def on_card(repeat: int, count: int) -> list[Row]:
    """One row for each model, precision, whether the supports are encoded in the run or kept, and where the
    images are. ratio: to the plain loop of the same model on this card; ratio_to_wide: to that of WRN50-2.
    WRN50-2 streams a twelfth of the slices, from the host alone."""
    device = torch.device("cuda")
    about = about_card(device)
    torch.manual_seed(0)
    models = {
        "WRN50-2 (random weights)": D24FADModel.build("wide_resnet50_2").eval(),
        "d24fad-lite0": load_model("d24fad-lite0")[0],
    }
    rows: list[Row] = []
    wide = 0.0
    for name, model in models.items():
        small = name == "d24fad-lite0"
        stream = Stream(count if small else max(STUDY, count // 12))
        model = copy.deepcopy(model).to(device)
        base, expected = plain(model, stream, repeat, device)
        wide = wide or base
        _add(rows, {"model": name, "mode": "plain loop", "slices_per_s": base, "ratio": 1.0, **about})
        for precision, keep in itertools.product(("f16", "bf16", "f32"), (True, False)):
            case = {"model": name, "K": K, "precision": precision, "supports": "kept" if keep else "run"}
            try:
                encoder = choose_encoder("torch", model, device, None, precision)
                comparer = Comparer(model, Evidence(1.0, 0.0), device, encoder)
                kept = kept_features(encoder, stream.supports) if keep else None
                batch = default_batch(device, 1 if keep else 1 + K)
                for where in ("host", "device") if small else ("host",):
                    on_host = where == "host"
                    inputs = stream.from_host(kept) if on_host else stream.from_device(kept, device)
                    sustained(comparer, inputs, min(stream.count, 4 * batch), batch)
                    torch.cuda.reset_peak_memory_stats()
                    found = [sustained(comparer, inputs, stream.count, batch) for _ in range(repeat)]
                    middle = statistics.median(found)
                    row = {
                        **case, "images": where, "ratio": middle / base, "ratio_to_wide": middle / wide,
                        "slices_per_s": middle, "spread": (max(found) - min(found)) / middle,
                        "slices": stream.count, "batch": batch,
                        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
                        "deviation": deviation(comparer, inputs, expected, batch),
                    }  # fmt: skip
                    _add(rows, {**row, **(split(comparer, inputs, stream, batch, kept) if on_host else {})})
            except (InputError, RuntimeError, MemoryError, AssertionError) as error:  # the others still count
                _add(rows, {**case, "note": f"{type(error).__name__}: {error}"[:300]})
            torch.cuda.empty_cache()
        for precision in ("f16", "f32") if small else ():
            speed = texture(model, precision, stream, device, repeat)
            row = {
                "model": name, "K": K, "precision": precision, "supports": "run",
                "mode": "texture of a study", "slices_per_s": speed, "ratio": speed / base,
                "ratio_to_wide": speed / wide, "slices": STUDY,
            }  # fmt: skip
            _add(rows, row)
    card = of_card(about["device"])
    return [*rows, *roofline(K, SIZE, (card,) if card else ())]
