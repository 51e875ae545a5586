"""Reading image files of any accepted format but DICOM into a `Volume`, and refusing what cannot be used.

`D24FADLib.reading.read_study` reads DICOM as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..wording import counted
from . import headers
from .volume import Volume, VolumeInfo, array_view

if TYPE_CHECKING:
    import SimpleITK as sitk

ACCEPTED = "NIfTI (.nii, .nii.gz), NRRD, MetaImage (.mha, .mhd), DICOM, PNG, JPEG, TIFF, BMP"

_VOLUME_IO = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
_PICTURE_IO = {
    ".png": "PNGImageIO",
    ".jpg": "JPEGImageIO",
    ".jpeg": "JPEGImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
    ".bmp": "BMPImageIO",
}
_HEADER_CHECKS = {
    "NiftiImageIO": headers.check_nifti,
    "NrrdImageIO": headers.check_nrrd,
    "MetaImageIO": headers.check_meta,
}
_PICTURE_CHECKS = {
    "JPEGImageIO": headers.check_jpeg,
    "BMPImageIO": headers.check_bmp,
}


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name ends like that of an image file."""
    suffix = _suffix(Path(path))
    return suffix in _VOLUME_IO or suffix in _PICTURE_IO


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read one image file.

    Voxels are as on disk, except that 64-bit types become float32 and a colour picture without colour becomes
    scalar. Pictures have no physical size: their pixels count as 1 mm. Raises InputError for whatever cannot
    be used as it is.
    """
    path = Path(path)
    name = path.name or path.resolve().name
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # a name in an older encoding would bring ITK down
        raise InputError(
            f"{name.encode(errors='replace').decode()}: its name, or that of a folder that it lies in, is "
            "not in UTF-8. Rename it."
        ) from error
    try:
        _require_readable_file(path)
        volume = _read_file(path)
    except PermissionError as error:
        raise InputError(f"{name}: no permission to read it. Ask for read access, or copy it.") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or 'input/output error'}).") from error
    return _usable(volume)


def _require_readable_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path.name}: no such file or folder. Check the path.")
    if not path.is_file():
        raise InputError(f"{path.name}: not a file. Give an image file or a folder of DICOM files.")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name}: the file is empty. Copy or export it again.")
    with path.open("rb"):
        pass


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def _read_file(path: Path) -> Volume:
    suffix = _suffix(path)
    if suffix in _VOLUME_IO:
        image, doubts = _read_volume_file(path, _VOLUME_IO[suffix])
        volume = Volume(image, path.name)
        sized = headers.NO_SPACING not in doubts
        # Of a picture nobody expects a size.
        kept = () if volume.is_single_image and not sized else doubts
        return Volume(image, path.name, VolumeInfo(doubts=kept, sized=sized))
    if suffix in _PICTURE_IO:
        return Volume(_read_picture(path, _PICTURE_IO[suffix]), path.name, VolumeInfo(sized=False))
    raise InputError(f"{path.name}: not an image that can be read. Accepted: {ACCEPTED}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """ITK prints warnings about headers on stderr; what matters in them is checked here."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _open(path: Path, image_io: str) -> sitk.ImageFileReader:
    """A reader that has read the header; raises InputError where there is none."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        with _quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        if "Unknown PixelType" in str(error):
            raise InputError(
                f"{path.name}: its kind of pixels is not read (such as gray with transparency). Save it as "
                "plain gray or RGB."
            ) from error
        raise InputError(
            f"{path.name}: not a {image_io.removesuffix('ImageIO')} image, or its header is damaged. "
            f"Export the image again. Accepted: {ACCEPTED}."
        ) from error
    return reader


def _execute(path: Path, reader: sitk.ImageFileReader) -> sitk.Image:
    try:
        with _quiet():
            return reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise InputError(
            f"{path.name}: the voxels cannot be read; the file is damaged, cut off before its end or too "
            "large for this computer's memory. Copy or export it again."
        ) from error


def _read_volume_file(path: Path, image_io: str) -> tuple[sitk.Image, tuple[str, ...]]:
    import SimpleITK as sitk

    headers.refuse_segmentation(path)
    doubts = _HEADER_CHECKS[image_io](path)
    reader = _open(path, image_io)
    size = reader.GetSize()
    if any(count > 1 for count in size[3:]):
        raise InputError(
            f"{path.name}: holds {int(np.prod(size[3:]))} volumes (time points or channels), and one is "
            "needed. Save one of them as a 3D file (NIfTI, NRRD or MetaImage), for example in Slicer with "
            "the Sequences module, or with SimpleITK: WriteImage(ReadImage(file)[..., 0], 'one.nrrd')."
        )
    if reader.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(f"{path.name}: holds complex numbers. Save the magnitude image and use that.")
    image = _execute(path, reader)
    while image.GetDimension() > 3:
        image = image[..., 0]
    if image.GetDimension() == 2:
        image = sitk.JoinSeries([image])
    headers.check_spacing(path.name, list(image.GetSpacing()))
    headers.check_direction(path.name, np.array(image.GetDirection()).reshape(3, 3))
    return image, doubts


def _read_picture(path: Path, image_io: str) -> sitk.Image:
    import SimpleITK as sitk

    if image_io in _PICTURE_CHECKS:
        _PICTURE_CHECKS[image_io](path)
    reader = _open(path, image_io)
    if any(count > 1 for count in reader.GetSize()[2:]):
        raise InputError(f"{path.name}: holds several pages. Save one as a picture, or the stack as NRRD.")
    image = _execute(path, reader)
    columns, rows = image.GetSize()[:2]
    components = image.GetNumberOfComponentsPerPixel()
    array = array_view(image).reshape(rows, columns, components)
    if components == 4:
        array = array[..., :3]  # the fourth is transparency
    if array.shape[-1] == 1:
        return sitk.GetImageFromArray(array[None, ..., 0])
    return sitk.GetImageFromArray(array[None], isVector=True)


def _usable(volume: Volume) -> Volume:
    """The volume in an accepted voxel type; raises InputError where its values cannot be used."""
    import SimpleITK as sitk

    image, name = volume.image, volume.name
    components = image.GetNumberOfComponentsPerPixel()
    if components > 1:
        image = _colour_image(image, name)
    elif image.GetPixelID() in (sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64):
        image = sitk.Cast(image, sitk.sitkFloat32)
    array = array_view(image)
    if array.dtype.kind == "f":
        bad = int(array.size - np.isfinite(array).sum())
        if bad and np.isfinite(array_view(volume.image)).all():
            raise InputError(
                f"{name}: {counted(bad, 'voxel')} beyond 3.4e38, the largest value that is computed with. "
                "Divide the image by a constant, or mend such voxels, and save it again."
            )
        if bad:
            raise headers.not_numbers(name, bad)
    if array.min() == array.max():
        raise InputError(
            f"{name}: every voxel has the same value, so there is nothing to see. Check the export."
        )
    return Volume(image, name, volume.info)


def _colour_image(image: sitk.Image, name: str) -> sitk.Image:
    """Colour as 3 x uint8, or scalar where the channels are equal."""
    import SimpleITK as sitk

    array: np.ndarray[Any, Any] = array_view(image)
    if array.shape[-1] not in (3, 4) or array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{name}: each voxel holds {array.shape[-1]} values that are not a colour (a vector or "
            "multi-channel image). Save one channel as a scalar image and use that."
        )
    array = array[..., :3]
    if (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        result = sitk.GetImageFromArray(np.ascontiguousarray(array[..., 0]))
    else:
        shown = array if array.dtype == np.uint8 else (array // 257).astype(np.uint8)
        result = sitk.GetImageFromArray(np.ascontiguousarray(shown), isVector=True)
    result.CopyInformation(image)
    return result
