"""Seconds a slice against a plain implementation of the paper's inference loop with the same weights."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from D24FADLib.inference.batches import Batches, workers_on
from D24FADLib.inference.comparison import Comparer, Evidence
from D24FADLib.inference.devices import default_batch
from D24FADLib.inference.resident import Resident
from D24FADLib.inference.runtimes import choose_encoder
from D24FADLib.network.model import D24FADModel

BATCH = 4  # query slices at a time in the plain loop


def plain_loop(model: D24FADModel, query: Tensor, supports: Tensor) -> Tensor:
    """Sum over scales of the student's residual at stride 4, (n, h, w), written from the paper (section 3).

    query (n, 3, H, W), supports (K, n, 3, H, W): for every batch of queries the supports are encoded
    again, projected, weighed by a softmax of inner products and averaged; eager torch in f32.
    """
    maps = []
    for start in range(0, len(query), BATCH):
        chunk = slice(start, start + BATCH)
        _, embedding = model.teacher(query[chunk])
        own = model.student(embedding)
        others = []
        for support in supports:
            _, embedding = model.teacher(support[chunk])
            others.append(model.student(embedding))
        total = torch.zeros(())
        for scale, feature in enumerate(own):
            stack = torch.stack([o[scale] for o in others])
            projection = model.weighting.get_submodule(f"proj_in{scale + 1}")
            keys = torch.stack([projection(s) for s in stack])
            logits = (feature[None] * keys).sum(dim=(2, 3, 4)) / feature.shape[1] ** 0.5
            if model.weighting.per_position:
                logits = logits / (feature.shape[2] * feature.shape[3])
            mean = (logits.softmax(0)[:, :, None, None, None] * stack).sum(0)
            residual = 1 - F.cosine_similarity(feature, mean, dim=1)
            if scale == 0:
                total = residual
            else:
                total = (
                    total
                    + F.interpolate(residual[:, None], total.shape[-2:], mode="bilinear", align_corners=True)[
                        :, 0
                    ]
                )
        maps.append(total)
    return torch.cat(maps)


def ours(
    model: D24FADModel, precision: str, query: Tensor, supports: Tensor, kept: bool
) -> Callable[[], Tensor]:
    """The product's comparison of the same slices with the student's evidence.

    kept: the supports' features are those of a kept reference set (f16), and the query alone is encoded, as
    with `--reference-cache`. Else the supports are encoded in the same run, and all that the product computes
    besides is computed too (every support against the others).
    """
    device = query.device
    encoder = choose_encoder("auto", model, device, None, precision, workers_on(device))
    comparer = Comparer(model, Evidence(1.0, 0.0), device, encoder)
    batch = default_batch(device, 1 if kept else 1 + len(supports))
    images = torch.cat([query[None], supports])
    height, width = query.shape[-2] // 4, query.shape[-1] // 4
    reach = torch.ones(len(supports), len(query), height, width, dtype=torch.bool)
    known = None
    if kept:
        with torch.inference_mode():
            student = encoder(supports.flatten(0, 1))[3:]
            features = [f.unflatten(0, supports.shape[:2]) for f in student]
        # slices first, on the CPU, as `ReferenceSet` has them
        known = Resident([f.transpose(0, 1).half().cpu().numpy() for f in features])

    def inputs(chunk: slice, device: torch.device) -> tuple[Tensor, Tensor, list[Tensor] | None]:
        own = images[: 1 if known else None, chunk]
        return own, reach[:, chunk], known(chunk, device) if known else None

    def run() -> Tensor:
        with Batches(comparer) as batches:
            return torch.cat([result[0] for _, result, _ in batches.run(inputs, len(query), batch)])

    return run


def seconds(function: Callable[[], Tensor], repeat: int) -> tuple[float, float, Tensor]:
    """Median seconds of the clock, and of all cores together."""
    result = function()  # conversion, compilation and caches
    walls, cores = [], []
    for _ in range(repeat):
        if result.is_cuda:
            torch.cuda.synchronize()
        start, used = time.perf_counter(), time.process_time()
        result = function()
        if result.is_cuda:
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - start)
        cores.append(time.process_time() - used)
    return statistics.median(walls), statistics.median(cores), result


def per_slice(
    slices: int, size: int, repeat: int, supports: tuple[int, ...], device: torch.device
) -> Iterator[dict[str, Any]]:
    """One row for each model, K, precision that the device has, and whether the supports are encoded in the
    run or kept: median ms a slice and the ratio to the plain loop of WRN50-2, side by side in one process."""
    from D24FADLib.errors import InputError
    from D24FADLib.inference.models import load_model

    torch.manual_seed(0)
    models = {
        "WRN50-2 (random weights)": D24FADModel.build("wide_resnet50_2").eval(),
        "d24fad-lite0": load_model("d24fad-lite0")[0],
    }
    for count in supports:
        query = torch.rand(slices, 3, size, size, device=device)
        normals = torch.rand(count, slices, 3, size, size, device=device)
        wide: float | None = None
        for name, model in models.items():
            model = copy.deepcopy(model).to(device)
            with torch.inference_mode():
                plain, plain_cores, expected = seconds(partial(plain_loop, model, query, normals), repeat)
            wide = wide or plain
            for precision, kept in itertools.product(("f32", "bf16", "f16"), (False, True)):
                case = {
                    "model": name,
                    "pixels": size,
                    "K": count,
                    "precision": precision,
                    "supports": "kept" if kept else "run",
                }
                try:
                    run = ours(model, precision, query, normals, kept)
                except InputError as error:
                    yield {**case, "note": str(error)}
                    continue
                own, cores, result = seconds(run, repeat)
                yield {
                    **case, "ratio": plain / own, "ratio_of_cores": plain_cores / cores,
                    "ratio_to_wide": wide / own, "ms": own / slices * 1e3, "plain_ms": plain / slices * 1e3,
                    "deviation": float((result.cpu() - expected.cpu()).abs().max()),
                }  # fmt: skip
