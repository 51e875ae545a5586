"""The one volume type: voxels, where they lie in the patient, and what is known about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk


_ONE_AT_A_TIME = Lock()


class _ImageBuffer:
    """Hands an image's buffer to numpy and keeps the image alive for as long as an array shows it."""

    def __init__(self, image: sitk.Image) -> None:
        import SimpleITK as sitk

        self.image = image
        # SimpleITK exchanges the buffer of an image that something else holds, a running filter included:
        # two threads in that at once crash. See `Volume.apart` for the rest of it.
        with _ONE_AT_A_TIME:
            self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def array_view(image: sitk.Image) -> NDArray[Any]:
    """A read-only view of an image's voxels, (k, j, i) or (k, j, i, component).

    Unlike SimpleITK's own view it stays valid when nothing else holds the image.
    """
    return np.asarray(_ImageBuffer(image))


@dataclass(frozen=True)
class VolumeInfo:
    """What is known about a volume besides its voxels. No field identifies a patient.

    `modality` is the DICOM Modality (0008,0060) where there is one, else "". `tags` holds further
    technical DICOM attributes by keyword (EchoTime, ContrastBolusAgent, ...). `patient_key` is equal for
    volumes of one patient read by the same process; it means nothing outside it and is not to be written
    anywhere. `doubts`: what of the file's header may be wrong, in words; the run that uses it says so.
    `sized`: False where its pixels have no known size and count as 1 mm.
    """

    modality: str = ""
    body_part: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference_uid: str = ""
    tags: dict[str, Any] = field(default_factory=dict)
    patient_key: str = field(default="", repr=False)
    doubts: tuple[str, ...] = ()
    sized: bool = True


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image on its own grid; a 2D image is a volume of one slice.

    `image` is a 3-dimensional SimpleITK image in LPS millimetres, scalar, or a 3-component vector
    for colour. `name` is what messages call it (a file or folder name).
    """

    image: sitk.Image
    name: str
    info: VolumeInfo = VolumeInfo()

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return tuple(self.image.GetSize())

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along i, j, k."""
        return tuple(self.image.GetSpacing())

    @property
    def is_color(self) -> bool:
        return self.image.GetNumberOfComponentsPerPixel() > 1

    @property
    def is_single_image(self) -> bool:
        """True for one slice: a photograph, a radiograph, one frame."""
        return self.image.GetSize()[2] == 1

    @property
    def voxel_volume_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0

    def array(self) -> NDArray[Any]:
        """A read-only view of the voxels, (k, j, i) or (k, j, i, component)."""
        return array_view(self.image)

    def apart(self) -> Volume:
        """The same for another thread: SimpleITK's images must not be shared between threads that look into
        them. Costs nothing until one of the two does."""
        import SimpleITK as sitk

        return replace(self, image=sitk.Image(self.image))

    def content_hash(self) -> str:
        """sha256 of the voxels, their type and the grid: equal for equal volumes, whatever their file. Worked
        out once: a volume's voxels do not change."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        image = self.image
        header = (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        digest.update(repr((header, image.GetPixelIDTypeAsString())).encode())
        digest.update(np.ascontiguousarray(self.array()).data)
        return digest.hexdigest()

    def with_array(self, array: NDArray[Any], name: str) -> Volume:
        """A volume of these voxels (k, j, i) on exactly this volume's grid."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array)
        image.CopyInformation(self.image)
        return Volume(image, name, self.info)


class VolumeOnDemand(Volume):
    """A volume on the grid of another one whose voxels are made each time that they are looked at, and not
    held: for large ones that are written once and seldom read. `make()` gives them (k, j, i); threads may
    call it."""

    _make: Callable[[], NDArray[Any]]
    _like: Volume

    def __init__(self, make: Callable[[], NDArray[Any]], like: Volume, name: str) -> None:
        for field_name, value in (("_make", make), ("_like", like), ("name", name), ("info", like.info)):
            object.__setattr__(self, field_name, value)

    @property
    def image(self) -> sitk.Image:
        return self._like.with_array(self._make(), self.name).image

    @property
    def size(self) -> tuple[int, int, int]:
        return self._like.size

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self._like.spacing

    def apart(self) -> Volume:
        return self
