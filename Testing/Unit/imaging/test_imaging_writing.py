from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from D24FADLib.errors import OutputError
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume
from D24FADLib.imaging.writing import SegmentDescription, write_segmentation, write_volume


@pytest.fixture
def volume() -> Volume:
    values = np.zeros((20, 30, 40), np.int16)
    values[5:9, 10:20, 3:30] = np.arange(27)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((-3.0, 4.0, 5.5))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    return Volume(image, "test")


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_what_is_written_reads_back(volume: Volume, tmp_path: Path, ending: str) -> None:
    path = write_volume(volume, tmp_path / f"map{ending}")
    back = read_volume(path)
    np.testing.assert_array_equal(back.array(), volume.array())
    np.testing.assert_allclose(back.image.GetDirection(), volume.image.GetDirection(), atol=1e-6)
    assert back.spacing == pytest.approx(volume.spacing)
    assert path.stat().st_size < volume.array().nbytes / 3  # compressed
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(volume: Volume, tmp_path: Path) -> None:
    target = tmp_path / "map.nrrd"
    target.mkdir()  # cannot be replaced by a file
    with pytest.raises(OutputError, match=r"map\.nrrd: cannot be written"):
        write_volume(volume, target)
    with pytest.raises(OutputError, match=r"map\.xyz: cannot be written"):
        write_volume(volume, tmp_path / "map.xyz")
    with pytest.raises(OutputError, match="its folder does not exist"):
        write_volume(volume, tmp_path / "nowhere" / "map.nrrd")
    assert [file.name for file in tmp_path.iterdir()] == ["map.nrrd"]


def test_segments_and_their_extents_are_in_the_header(volume: Volume, tmp_path: Path) -> None:
    labels = np.zeros(volume.array().shape, np.uint16)
    labels[2:5, 3:7, 4:10] = 300
    segments = [SegmentDescription("One", 300, (1, 0.5, 0)), SegmentDescription("None", 7)]
    path = write_segmentation(labels, volume, segments, tmp_path / "a.seg.nrrd")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    assert reader.GetMetaData("Segment0_Extent") == "4 9 3 6 2 4"
    assert reader.GetMetaData("Segment0_LabelValue") == "300"
    assert reader.GetMetaData("Segment0_Color") == "1 0.5 0"
    assert reader.GetMetaData("Segment1_Extent") == "0 -1 0 -1 0 -1"
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels)
    assert image.GetOrigin() == pytest.approx(volume.image.GetOrigin())


@pytest.mark.parametrize(
    ("labels", "segments", "text"),
    [
        (np.zeros((2, 2, 2), np.uint8), [], "the reference is"),
        (np.zeros((20, 30, 40), np.int32), [], "labels are int32"),
        (np.ones((20, 30, 40), np.uint8), [], r"labels without a segment: \[1\]"),
        (np.zeros((20, 30, 40), np.uint8), [SegmentDescription("a", 0)], "different label values"),
        (np.zeros((20, 30, 40), np.uint8), [SegmentDescription("a", 1)] * 2, "different label values"),
    ],
)
def test_labels_that_do_not_fit(
    volume: Volume, tmp_path: Path, labels: np.ndarray, segments: list[SegmentDescription], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        write_segmentation(labels, volume, segments, tmp_path / "a.seg.nrrd")
    assert not list(tmp_path.iterdir())


def test_importing_the_volume_type_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, D24FADLib.imaging.volume, D24FADLib.imaging.planes, D24FADLib.imaging.alignment; "
    code += "print([m for m in ('SimpleITK', 'scipy', 'pydicom', 'torch') if m in sys.modules])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
