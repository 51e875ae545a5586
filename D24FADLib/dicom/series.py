"""Reading a series, or one stack of it, as a Volume."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..imaging.volume import Volume, VolumeInfo
from . import headers
from .frames import NOT_IMAGES, SECONDARY_CAPTURE, Frame, frames_of
from .geometry import Arrangement, arrange
from .pixels import decode
from .privacy import identity_words, withhold
from .stacks import Stack, split
from .technical import technical_tags

if TYPE_CHECKING:
    import SimpleITK as sitk
    from pydicom.dataset import Dataset


_SALT = secrets.token_bytes(16)


@dataclass(frozen=True)
class SeriesReading:
    """A volume read from DICOM, the frame behind each of its slices, and what the reader should know.

    `regular` is False where the voxels were resampled (gantry tilt, irregular spacing). `stacks` counts
    the stacks that the series held; the largest is read unless one is asked for.
    """

    volume: Volume
    frames: tuple[Frame, ...]
    notes: tuple[str, ...]
    regular: bool
    stacks: int = 1


def read_files(paths: Iterable[str | os.PathLike[str]], name: str, stack: int | None = None) -> SeriesReading:
    """Read the files of one series; `stack` (from 1, the largest first) chooses where it mixes several.

    Files that cannot be read are left out and named in the notes. Raises InputError where no volume
    comes of it.
    """
    frames: list[Frame] = []
    problems: list[tuple[str, str]] = []
    words: set[str] = set()
    with headers.quiet():
        for path in sorted(str(path) for path in paths):
            try:
                header, pixels = headers.read_header(path)
                words |= identity_words(header)
                found = frames_of(header, path)
            except headers.Unreadable as error:
                words |= identity_words(error.header) if error.header is not None else set()
                problems.append((os.path.basename(path), str(error)))
                continue
            if found and pixels:
                frames.extend(found)
            else:
                problems.append((os.path.basename(path), "holds no image"))
    notes = [f"{withhold(file, words)}: {reason}; it is left out" for file, reason in problems]
    if not frames:
        raise InputError("\n".join([f"{name}: none of its files holds a DICOM image.", *notes[:10]]))
    return read_frames(frames, name, stack, tuple(notes))


def read_frames(
    frames: Sequence[Frame], name: str, stack: int | None = None, problems: Sequence[str] = ()
) -> SeriesReading:
    """Read the frames of one series, as `read_files` does."""
    _require_images(frames, name)
    stacks = split(frames)
    chosen = _choose(stacks, stack, name)
    notes = list(problems)
    if len(stacks) > 1 and stack is None:
        notes.append(
            f"the series holds {len(stacks)} stacks; read the largest, {chosen.label} ({len(chosen)} images)"
        )
    arrangement = arrange(chosen, name)
    notes.extend(arrangement.notes)
    voxels = decode(arrangement.frames, name)
    header, volume_name = _reread(arrangement.frames[0], name), name
    image = _to_image(_on_grid(voxels, arrangement), arrangement)
    behind = arrangement.nearest_frames()
    volume = Volume(image, volume_name, _info(header, arrangement, behind))
    if len(behind) == 2:
        notes.append("the series has two slices only; what lies between and beyond is not seen")
    return SeriesReading(volume, tuple(behind), tuple(notes), not arrangement.resampled, len(stacks))


def _require_images(frames: Sequence[Frame], name: str) -> None:
    kinds = {frame.sop_class_uid for frame in frames}
    for uid, kind in NOT_IMAGES.items():
        if uid in kinds:
            raise InputError(f"{name}: holds {kind}, not images of the patient. Choose the image series.")
    if kinds == {SECONDARY_CAPTURE} and len(frames) > 1 and any(frame.position is None for frame in frames):
        raise InputError(
            f"{name}: {len(frames)} secondary captures (screenshots or scans) without a place in the "
            "patient. "
            "Choose the image series itself."
        )


def _choose(stacks: Sequence[Stack], stack: int | None, name: str) -> Stack:
    if stack is not None and not 1 <= stack <= len(stacks):
        raise InputError(f"{name}: has no stack {stack}; it holds {len(stacks)}. Choose one of these.")
    if stack is not None:
        return stacks[stack - 1]
    first = stacks[0]
    if len(stacks) > 1 and len(first) == len(stacks[1]) and not _placed(first):
        raise InputError(
            f"{name}: holds {len(stacks)} images without positions in the patient. "
            "Give the file of one of them; the frame of a film must be saved as an image first."
        )
    return first


def _placed(stack: Stack) -> bool:
    return stack.frames[0].position is not None and stack.frames[0].orientation is not None


def _reread(frame: Frame, name: str) -> Dataset:
    with headers.quiet():
        try:
            return headers.read_header(frame.path)[0]
        except headers.Unreadable as error:
            raise InputError(
                f"{name}: image {frame.sop_instance_uid}: {error}. Fetch the file again."
            ) from error


def _on_grid(voxels: NDArray[Any], arrangement: Arrangement) -> NDArray[Any]:
    """The voxels on the arrangement's regular grid; untouched where they lie on it already."""
    if not arrangement.resampled:
        return voxels
    kind = voxels.dtype
    if arrangement.shifts is not None:
        voxels = _shifted(voxels, arrangement)
    if arrangement.depths is not None:
        voxels = _interpolated(voxels, arrangement.depths, arrangement.size[2])
    return np.rint(voxels).astype(kind) if kind.kind in "iu" else voxels.astype(kind)


def _shifted(voxels: NDArray[Any], arrangement: Arrangement) -> NDArray[Any]:
    from scipy.ndimage import shift

    assert arrangement.shifts is not None
    columns, rows, _ = arrangement.size
    fill = float(voxels.min())
    result = np.full((len(voxels), rows, columns, *voxels.shape[3:]), fill, dtype=np.float32)
    for target, plane, (along_i, along_j) in zip(result, voxels, arrangement.shifts, strict=True):
        target[: plane.shape[0], : plane.shape[1]] = plane
        by = (along_j, along_i) + (0,) * (plane.ndim - 2)
        target[:] = shift(target, by, order=1, mode="constant", cval=fill)
    return result


def _interpolated(voxels: NDArray[Any], depths: NDArray[np.float64], count: int) -> NDArray[Any]:
    result = np.empty((count, *voxels.shape[1:]), dtype=np.float32)
    for k in range(count):
        upper = int(np.searchsorted(depths, k).clip(1, len(depths) - 1))
        lower = upper - 1
        weight = float(np.clip((k - depths[lower]) / (depths[upper] - depths[lower]), 0, 1))
        result[k] = (1 - weight) * voxels[lower] + weight * voxels[upper]
    return result


def _to_image(voxels: NDArray[Any], arrangement: Arrangement) -> sitk.Image:
    import SimpleITK as sitk

    if voxels.ndim == 4 and (voxels[..., :1] == voxels).all():
        voxels = voxels[..., 0]
    elif voxels.ndim == 4 and voxels.dtype == np.uint16:
        voxels = (voxels // 257).astype(np.uint8)
    if voxels.dtype == np.float64:
        voxels = voxels.astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels), isVector=voxels.ndim == 4)
    image.SetSpacing(arrangement.spacing)
    image.SetOrigin(arrangement.origin.tolist())
    image.SetDirection(arrangement.direction.ravel().tolist())
    return image


def _info(header: Dataset, arrangement: Arrangement, behind: Sequence[Frame]) -> VolumeInfo:
    tags = technical_tags(header)
    tags["SOPInstanceUIDs"] = [frame.sop_instance_uid for frame in behind]
    if any(frame.number for frame in behind):
        tags["FrameNumbers"] = [frame.number for frame in behind]
    return VolumeInfo(
        modality=headers.text(header, "Modality"),
        body_part=headers.text(header, "BodyPartExamined"),
        study_uid=headers.uid(header, "StudyInstanceUID") or "",
        series_uid=headers.uid(header, "SeriesInstanceUID") or "",
        frame_of_reference_uid=arrangement.frames[0].frame_of_reference_uid,
        tags=tags,
        patient_key=_patient_key(header),
    )


def _patient_key(header: Dataset) -> str:
    """A keyed hash of PatientID and its issuer, "" without one. The key is this process's own."""
    own = [headers.text(header, keyword) for keyword in ("PatientID", "IssuerOfPatientID")]
    if not own[0]:
        return ""
    return hashlib.blake2b("\0".join(own).encode("utf-8", "replace"), key=_SALT, digest_size=12).hexdigest()
