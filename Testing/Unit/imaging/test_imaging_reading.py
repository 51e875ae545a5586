"""Files of each accepted format, and every bad input that has its own answer."""

from __future__ import annotations

import gzip
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from D24FADLib.errors import InputError
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume
from D24FADLib.imaging.writing import SegmentDescription, write_segmentation
from D24FADLib.reading import read_study


def an_image(dtype: type = np.int16, size: tuple[int, int, int] = (6, 5, 4)) -> sitk.Image:
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.integers(0, 120, size[::-1]).astype(dtype))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((-10.0, 20.0, 3.5))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    return image


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_volume_formats_keep_voxels_type_and_grid(tmp_path: Path, ending: str, dtype: type) -> None:
    image = an_image(dtype)
    sitk.WriteImage(image, str(tmp_path / f"image{ending}"))
    volume = read_volume(tmp_path / f"image{ending}")
    assert volume.name == f"image{ending}"
    assert volume.array().dtype == dtype
    np.testing.assert_array_equal(volume.array(), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.image.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(volume.image.GetOrigin(), image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(volume.image.GetDirection(), image.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64])
def test_64_bit_voxels_become_float32(tmp_path: Path, dtype: type) -> None:
    sitk.WriteImage(an_image(dtype), str(tmp_path / "a.nrrd"))
    volume = read_volume(tmp_path / "a.nrrd")
    assert volume.array().dtype == np.float32
    np.testing.assert_array_equal(volume.array(), sitk.GetArrayFromImage(an_image()))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_of_one_is_dropped(tmp_path: Path, ending: str) -> None:
    sitk.WriteImage(sitk.JoinSeries([an_image()]), str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    assert volume.size == (6, 5, 4)
    np.testing.assert_allclose(volume.image.GetSpacing(), (0.5, 0.75, 2.0))


def test_a_2d_volume_file_is_one_slice(tmp_path: Path) -> None:
    sitk.WriteImage(an_image()[:, :, 1], str(tmp_path / "a.mha"))
    volume = read_volume(tmp_path / "a.mha")
    assert volume.size == (6, 5, 1)
    assert volume.is_single_image


def pixels(channels: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(2)
    shape = (9, 12, channels) if channels > 1 else (9, 12)
    return rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_pictures_keep_gray_and_colour(tmp_path: Path, ending: str) -> None:
    gray, colour = pixels(1), pixels(3)
    Image.fromarray(gray).save(tmp_path / f"gray{ending}", dpi=(300, 300))
    Image.fromarray(colour).save(tmp_path / f"colour{ending}", dpi=(300, 300))
    read = read_volume(tmp_path / f"gray{ending}")
    assert read.size == (12, 9, 1)
    assert read.spacing == (1.0, 1.0, 1.0)  # dots per inch of a print are no size in a patient
    np.testing.assert_array_equal(read.array()[0], gray)
    read = read_volume(tmp_path / f"colour{ending}")
    assert read.is_color
    np.testing.assert_array_equal(read.array()[0], colour)


def test_jpeg_keeps_colour_and_gray(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (16, 1))
    Image.fromarray(smooth).save(tmp_path / "gray.jpg", quality=95)
    Image.fromarray(np.dstack([smooth, smooth[::-1], smooth[:, ::-1]])).save(
        tmp_path / "colour.JPEG", quality=95
    )
    assert np.abs(read_volume(tmp_path / "gray.jpg").array()[0].astype(int) - smooth).max() <= 4
    assert read_volume(tmp_path / "colour.JPEG").array().shape == (1, 16, 32, 3)


def test_colour_without_colour_becomes_scalar(tmp_path: Path) -> None:
    gray = pixels(1)
    Image.fromarray(np.dstack([gray] * 3)).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    assert not volume.is_color
    np.testing.assert_array_equal(volume.array()[0], gray)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    rgba = pixels(4)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "rgba.png").array()[0], rgba[..., :3])


def test_palette_shows_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(3)).quantize(8)
    picture.save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    np.testing.assert_array_equal(volume.array()[0], np.asarray(picture.convert("RGB")))


def test_16_bit_gray_stays_16_bit(tmp_path: Path) -> None:
    gray = pixels(1, np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(gray), str(tmp_path / "a.png"))
    volume = read_volume(tmp_path / "a.png")
    assert volume.array().dtype == np.uint16
    np.testing.assert_array_equal(volume.array()[0], gray)


def _patched(path: Path, offset: int, layout: str, *values: float) -> None:
    sitk.WriteImage(an_image(), str(path))
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, *values)
    path.write_bytes(data)


def _replaced(path: Path, old: bytes, new: bytes) -> None:
    image = an_image()
    image.SetDirection(np.eye(3).ravel().tolist())
    image.SetSpacing((1, 1, 1))
    sitk.WriteImage(image, str(path), useCompression=False)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def _cut(path: Path, keep: float, compress: bool) -> None:
    sitk.WriteImage(an_image(size=(40, 30, 20)), str(path), useCompression=compress)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _cut_picture(path: Path, keep: float) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def _flipped_bit(path: Path) -> None:
    sitk.WriteImage(an_image(size=(40, 30, 20)), str(path), useCompression=True)
    held = path.with_suffix(".zraw") if path.suffix == ".mhd" else path
    data = bytearray(held.read_bytes())
    data[len(data) // 2] ^= 0x55
    held.write_bytes(data)


def _spaced(path: Path, spacing: str, sizes: str = "4 5 6") -> Path:
    """A NRRD file whose header says this of its spacing."""
    space = "space: left-posterior-superior\n" if "directions" in spacing else ""
    count = int(np.prod([int(word) for word in sizes.split()]))
    spacing += "\n" if spacing else ""
    header = f"NRRD0004\ntype: uchar\ndimension: {len(sizes.split())}\n{space}sizes: {sizes}\n{spacing}"
    header += "encoding: raw\n\n"
    path.write_bytes(header.encode() + bytes(i % 251 for i in range(count)))
    return path


def _huge(path: Path, value: float = 1e200) -> None:
    array = sitk.GetArrayFromImage(an_image(np.float64))
    array[0, 0, 0] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def _nifti(path: Path) -> bytes:
    sitk.WriteImage(an_image(), str(path))
    return path.read_bytes()


def _with_values(path: Path, value: float, count: int) -> None:
    array = sitk.GetArrayFromImage(an_image(np.float32))
    array.reshape(-1)[:count] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def _vector(path: Path, components: int, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 5, 6, components)).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(path))


def _complex(path: Path) -> None:
    image = an_image(np.float32)
    sitk.WriteImage(sitk.RealAndImaginaryToComplex(image, image), str(path))


def _pages(path: Path) -> None:
    pages = [Image.fromarray(pixels(1)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def _segmentation(path: Path) -> None:
    """As the detector and 3D Slicer write one, under a name that does not say so."""
    image, made = an_image(), path.with_name("a.seg.nrrd")
    labels = sitk.GetArrayFromImage(image > 5)
    write_segmentation(labels, Volume(image, "a"), [SegmentDescription("A", 1)], made)
    made.rename(path)


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing.nii.gz", lambda p: None, "no such file"),
    ("fifo.nii", lambda p: os.mkfifo(p), "not a file"),
    ("empty.nii.gz", lambda p: p.write_bytes(b""), "is empty"),
    ("note.txt", lambda p: p.write_text("hello"), "not an image that can be read. Accepted: NIfTI"),
    ("noise", lambda p: p.write_bytes(os.urandom(3000)), "not an image that can be read"),
    ("text.nii.gz", lambda p: p.write_text("hello world"), "not a NIfTI image"),
    ("zipped text.nii.gz", lambda p: p.write_bytes(gzip.compress(b"x" * 999)), "not a NIfTI image"),
    (
        "two.nii",
        lambda p: p.write_bytes(struct.pack("<i", 540) + b"n+2\0" + bytes(999)),
        "NIfTI-2 is not read",
    ),
    ("text.nrrd", lambda p: p.write_text("hello"), "not a Nrrd image"),
    ("text.mha", lambda p: p.write_text("hello"), "not a Meta image"),
    ("la.png", lambda p: Image.new("LA", (9, 9)).save(p), "plain gray or RGB"),
    ("cut.jpg", lambda p: _cut_picture(p, 0.6), "cut off"),
    ("cut.png", lambda p: _cut_picture(p, 0.6), "cut off"),
    ("cut.tif", lambda p: _cut_picture(p, 0.6), "damaged"),
    ("cut.bmp", lambda p: _cut_picture(p, 0.6), "cut off"),
    ("text.png", lambda p: p.write_text("hello"), "not a PNG image"),
    ("cut.nii", lambda p: _cut(p, 0.7, False), "cut off"),
    ("cut.nii.gz", lambda p: _cut(p, 0.7, True), "cut off"),
    ("cut head.nii", lambda p: _cut(p, 0.004, False), "not a NIfTI image"),
    ("bit.nii.gz", _flipped_bit, "damaged"),
    ("bit.nrrd", _flipped_bit, "damaged"),
    ("bit.mha", _flipped_bit, "damaged"),
    ("bit.mhd", _flipped_bit, "damaged"),
    ("cut.nrrd", lambda p: _cut(p, 0.7, False), "cut off"),
    ("cut zipped.nrrd", lambda p: _cut(p, 0.7, True), "cut off"),
    ("cut.mha", lambda p: _cut(p, 0.7, False), "cut off"),
    ("cut zipped.mha", lambda p: _cut(p, 0.7, True), "cut off"),
    ("time.nii.gz", lambda p: sitk.WriteImage(sitk.JoinSeries([an_image()] * 3), str(p)), "holds 3 volumes"),
    ("time.nrrd", lambda p: sitk.WriteImage(sitk.JoinSeries([an_image()] * 3), str(p)), "Sequences module"),
    ("time.mha", lambda p: sitk.WriteImage(sitk.JoinSeries([an_image()] * 3), str(p)), "NIfTI, NRRD or Meta"),
    ("nan.nii.gz", lambda p: _with_values(p, np.nan, 7), "7 voxels are not numbers"),
    ("inf.nrrd", lambda p: _with_values(p, np.inf, 2), "2 voxels are not numbers"),
    ("flat.nrrd", lambda p: sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkUInt8) + 7, str(p)), "same value"),
    ("huge.nrrd", lambda p: _huge(p), "1 voxel beyond 3.4e38"),
    ("inf.mha", lambda p: _huge(p, np.inf), "1 voxel is not a number (NaN"),
    (
        "zipped.nii",
        lambda p: p.write_bytes(gzip.compress(_nifti(p.with_name("b.nii")))),
        "Rename it to zipped.nii.gz",
    ),
    ("pixdim0.nii", lambda p: _patched(p, 76 + 12, "<f", 0.0), "voxel spacing of 0.5 x 0.75 x 0 mm"),
    ("pixdim negative.nii", lambda p: _patched(p, 76 + 12, "<f", -2.0), "must be positive"),
    ("pixdim nan.nii", lambda p: _patched(p, 76 + 4, "<f", np.nan), "must be positive"),
    ("size0.nii", lambda p: _patched(p, 40, "<4h", 3, 6, 0, 4), "impossible sizes"),
    ("gap.nrrd", lambda p: _spaced(p, "spacings: 2 nan 2"), "voxel spacing of 2 x nan x 2 mm"),
    (
        "none.nrrd",
        lambda p: _spaced(p, "space directions: (1,0,0) none (0,0,1)"),
        "spacing of 1 x nan x 1 mm",
    ),
    ("zero.nrrd", lambda p: _replaced(p, b"(0,0,1)", b"(0,0,0)"), "must be positive"),
    ("sheared.nrrd", lambda p: _replaced(p, b"(0,1,0)", b"(0,1,1)"), "perpendicular"),
    ("zero.mha", lambda p: _replaced(p, b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 0"), "positive"),
    ("negative.mha", lambda p: _replaced(p, b"Spacing = 1 1 1", b"Spacing = 1 -1 1"), "positive"),
    (
        "sheared.mha",
        lambda p: _replaced(p, b"0 0 1 0 0 0 1\n", b"0 0 1 1 0 0 1\n"),
        "perpendicular",
    ),
    ("flow.nrrd", lambda p: _vector(p, 3, np.float32), "values that are not a colour"),
    ("five.nrrd", lambda p: _vector(p, 5, np.uint8), "holds 5 values"),
    ("complex.nrrd", _complex, "complex numbers"),
    ("pages.tif", _pages, "several pages"),
    ("labels.seg.nrrd", lambda p: _cut(p, 1, False), "a segmentation, not an image"),
    ("labels.Seg.nii.gz", lambda p: _cut(p, 1, True), "a segmentation, not an image"),
    ("renamed.nrrd", _segmentation, "a segmentation, not an image"),
    ("intent.nii", lambda p: _patched(p, 68, "<h", 1002), "a segmentation, not an image"),
    ("empty folder", lambda p: p.mkdir(), "no files in it"),
]


@pytest.mark.parametrize(("name", "make", "text"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_input_gets_a_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, make: Callable[[Path], object], text: str
) -> None:
    path = tmp_path / name
    make(path)
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        read_study(path)
    message = str(caught.value)
    assert text in message
    assert name in message
    assert str(tmp_path) not in message  # the folder may be named after a patient
    assert message.rstrip().endswith((".", "SimpleITK", "')."))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no name is without encoding")
def test_a_name_in_an_older_encoding(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"head M\xfc.nrrd")
    path.write_bytes(b"NRRD")
    with pytest.raises(InputError, match=r"head M\?\.nrrd: its name.* is not in UTF-8\. Rename it\."):
        read_study(path)


def _doubts(path: Path) -> str:
    return " ".join(read_volume(path).info.doubts)


@pytest.mark.parametrize(("scale", "said"), [(1.0, False), (1.005, False), (2.0, True), (0.97, True)])
def test_two_voxel_sizes_of_a_nifti_are_told(tmp_path: Path, scale: float, said: bool) -> None:
    path = tmp_path / "a.nii"
    sitk.WriteImage(an_image(), str(path))
    data = bytearray(path.read_bytes())
    rows = np.frombuffer(data, "<f4", 12, 280).reshape(3, 4) * np.array([scale, scale, scale, 1], np.float32)
    data[280:328] = rows.astype("<f4").tobytes()
    path.write_bytes(data)
    assert read_volume(path).spacing == pytest.approx((0.5, 0.75, 2.0))
    wanted = f"two voxel sizes, 0.5 x 0.75 x 2 mm (pixdim), which was taken, and {0.5 * scale:.4g} x"
    assert (wanted in _doubts(path)) == said
    data[254:256] = b"\0\0"  # the matrix does not count
    path.write_bytes(data)
    assert _doubts(path) == ""


def test_a_volume_without_a_spacing_is_told(tmp_path: Path) -> None:
    assert "no voxel spacing; 1 mm is assumed" in _doubts(_spaced(tmp_path / "a.nrrd", ""))
    assert _doubts(_spaced(tmp_path / "b.nrrd", "spacings: 2 2 3")) == ""
    assert _doubts(_spaced(tmp_path / "c.nrrd", "", "4 5 1")) == ""  # a single image
    assert (
        _doubts(_spaced(tmp_path / "d.nrrd", "spacings: nan 1 1\nkinds: RGB-color space space", "3 5 6"))
        == ""
    )
    sitk.WriteImage(an_image(), str(tmp_path / "e.mha"))
    assert _doubts(tmp_path / "e.mha") == ""
    data = (tmp_path / "e.mha").read_bytes()
    (tmp_path / "e.mha").write_bytes(data.replace(b"ElementSpacing = 0.5 0.75 2\n", b""))
    assert "no voxel spacing" in _doubts(tmp_path / "e.mha")


def test_detached_data_missing(tmp_path: Path) -> None:
    sitk.WriteImage(an_image(), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink(missing_ok=True)
    (tmp_path / "a.zraw").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"a\.mhd: the voxels cannot be read"):
        read_volume(tmp_path / "a.mhd")


@pytest.mark.skipif(os.name != "posix", reason="file permissions work otherwise there")
def test_no_permission(tmp_path: Path) -> None:
    path, folder = tmp_path / "locked.nrrd", tmp_path / "locked"
    sitk.WriteImage(an_image(), str(path))
    path.chmod(0)
    folder.mkdir(mode=0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything, nobody may not
    try:
        with pytest.raises(InputError, match=r"locked\.nrrd: no permission"):
            read_volume(path)
        with pytest.raises(InputError, match=r"locked: no permission"):
            read_study(folder)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(InputError, match="no DICOM images in it"):
        read_study(tmp_path)


def test_big_endian_nifti(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    array = sitk.GetArrayFromImage(an_image()).T
    swapped = nib.Nifti1Image(array.astype(">i2"), np.diag([1, 1, 2, 1]), nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(read_volume(tmp_path / "big.nii").array(), array.T)


def test_the_array_outlives_its_volume(tmp_path: Path) -> None:
    sitk.WriteImage(an_image(), str(tmp_path / "a.nrrd"))
    array = read_volume(tmp_path / "a.nrrd").array()  # nothing else holds the volume now
    for _ in range(20):
        sitk.Image([6, 5, 4], sitk.sitkInt16)
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(an_image()))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


def test_real_volumes_read_quietly(volumes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slab = read_volume(volumes / "ptbp_t1_slabs" / "sub01_t1slab.nii.gz")
    assert slab.size == (217, 18, 182)
    tumour = read_volume(volumes / "pyradiomics_brain1" / "brain1_image.nrrd")
    assert tumour.spacing == pytest.approx((0.78125, 0.78125, 6.5))
    assert capfd.readouterr() == ("", "")
