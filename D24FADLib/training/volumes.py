"""Slices of normal volumes of one protocol, prepared exactly as detection prepares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from D24FADLib.errors import InputError
from D24FADLib.training.cache import cached
from D24FADLib.training.images import ImageSet

if TYPE_CHECKING:
    from D24FADLib.imaging.alignment import Alignment
    from D24FADLib.imaging.planes import Plane
    from D24FADLib.imaging.volume import Volume
    from D24FADLib.inference.preparation import Prepared

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
# Of a slice's pixels inside the body's box; thinner ends of a body tell nothing.
_MIN_BODY = 0.1


@dataclass(frozen=True)
class VolumeOptions:
    """How volumes become slices.

    aligned: all volumes are brought onto the first one's grid, as detection brings supports onto a query's,
    and supports show the query's own place. Else every volume stays on its grid and supports are random
    slices of the plane. plane None: as acquired. slices: at most so many a volume, evenly spread.
    """

    aligned: bool = True
    align: Alignment | None = None
    plane: Plane | None = None
    slices: int = 32


def find_volumes(folder: Path) -> list[Path]:
    """Volume files and DICOM folders in a folder, sorted by name."""
    from D24FADLib.reading import is_dicom

    def is_series(path: Path) -> bool:
        return path.is_dir() and any(p.is_file() and is_dicom(p) for p in sorted(path.iterdir())[:3])

    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(VOLUME_SUFFIXES) or is_series(p))


def load_slices(
    paths: Sequence[Path],
    task: str,
    size: int,
    options: VolumeOptions,
    cache: Path,
    warn: Callable[[str], None] = lambda text: None,
) -> ImageSet:
    """Slices of at least two volumes, the body's longer side brought to `size` pixels.

    Kept in `cache`, as registration takes seconds a volume. Raises InputError for a volume that cannot be
    used or that is a single image.
    """
    if len(paths) < 2:
        raise InputError(f"{task}: at least two normal volumes are needed")
    key = f"slices {size} {options}"
    for path in paths:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        key += f" {path.resolve()} {stats}"
    stored = cached(cache, key, lambda: _prepare(paths, task, size, options, warn))
    places = stored["places"].numpy() if options.aligned else None
    return ImageSet(task, stored["pixels"], stored["studies"].numpy(), places)


def _prepare(
    paths: Sequence[Path], task: str, size: int, options: VolumeOptions, warn: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    from D24FADLib import reading
    from D24FADLib.imaging.planes import default_plane
    from D24FADLib.inference.comparison import input_size

    first = reading.read_study(paths[0]).volume
    plane = options.plane or default_plane(first)
    shape: tuple[int, int] | None = None
    pixels, studies, places = [], [], []
    for study, path in enumerate(paths):
        volume = first if study == 0 else reading.read_study(path).volume
        if volume.is_single_image:
            raise InputError(f"{path.name}: a single image among volumes; put pictures into their own folder")
        prepared = _pair(first, volume, plane, options, warn)
        if shape is None:
            rows, cols = (part.stop - part.start for part in prepared.box[1:])
            # Multiples of 32 do for every teacher that the network knows.
            shape = input_size(rows * prepared.spacing[1], cols * prepared.spacing[2], size, 32)
        chosen = _slices_with_body(prepared, options.slices)
        pixels.append(_input_pixels(prepared, chosen, shape))
        studies += [study] * len(chosen)
        places += chosen
    channels = max(p.shape[1] for p in pixels)
    stacked = torch.cat([p.expand(-1, channels, -1, -1) for p in pixels])
    if not len(stacked):
        raise InputError(f"{task}: no slice shows enough of a body to train on")
    return {"pixels": stacked, "studies": torch.tensor(studies), "places": torch.tensor(places)}


def _pair(
    first: Volume, volume: Volume, plane: Plane, options: VolumeOptions, warn: Callable[[str], None]
) -> Prepared:
    """The volume as the support in a detection: of the first volume's, or, unaligned, of itself."""
    from D24FADLib.imaging.alignment import Alignment
    from D24FADLib.inference.preparation import prepare_study
    from D24FADLib.references.suitability import check_pair
    from D24FADLib.references.traits import traits_of_volume

    if not options.aligned or volume is first:
        return prepare_study(volume, [volume], plane, Alignment.NONE)
    for reason in check_pair(traits_of_volume(first), traits_of_volume(volume)).reasons:
        if reason.impossible:
            raise InputError(f"{volume.name}: {reason}. Train on volumes of one kind.")
        warn(f"{volume.name}: {reason}.")
    prepared = prepare_study(first, [volume], plane, options.align)
    for text in prepared.warnings:
        warn(text)
    return prepared


def _slices_with_body(prepared: Prepared, limit: int) -> list[int]:
    """Slices of the box that show the body and that the volume reaches, at most `limit`, evenly spread."""
    box = prepared.box
    seen = (prepared.body & prepared.support_bodies[0])[box].mean(axis=(1, 2))
    numbers = np.arange(box[0].start, box[0].stop)
    # The grid's own raster, not a share of those found: aligned volumes then keep the same places.
    raster = np.unique(np.linspace(0, len(numbers) - 1, min(limit, len(numbers))).round().astype(int))
    return [int(numbers[i]) for i in raster if seen[i] >= _MIN_BODY]


def _input_pixels(prepared: Prepared, chosen: Sequence[int], shape: tuple[int, int]) -> torch.Tensor:
    from D24FADLib.inference.comparison import to_input

    _, rows, cols = prepared.box
    picked: NDArray[np.float32] = prepared.supports[0][np.asarray(chosen, dtype=int)][:, rows, cols]
    images = to_input(picked, shape).clamp(0, 1).half()
    return images[:, :1] if picked.ndim == 3 else images
