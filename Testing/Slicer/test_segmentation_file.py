"""The segmentation files we write, read by Slicer's own storage node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
sitk = pytest.importorskip("SimpleITK")

from D24FADLib.imaging.volume import Volume  # noqa: E402
from D24FADLib.imaging.writing import SegmentDescription, write_segmentation  # noqa: E402

SEGMENTS = [
    SegmentDescription("Finding 1", 1, (0.9, 0.3, 0.2)),
    SegmentDescription("Finding 2", 3, (0.1, 0.5, 0.75)),
]


@pytest.fixture
def reference() -> Volume:
    image = sitk.Image([20, 16, 12], sitk.sitkInt16)
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((-30.0, 12.5, 7.0))
    tilt = sitk.Euler3DTransform()
    tilt.SetRotation(0.2, -0.1, 0.3)
    image.SetDirection(tilt.GetMatrix())
    return Volume(image, "reference")


SCENES: list[Any] = []  # kept alive as long as the nodes are looked at; the host's own scene stays untouched


def _load(path: Path) -> Any:
    SCENES[:] = [slicer.vtkMRMLScene()]
    node = SCENES[0].AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = SCENES[0].AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    return node


def _tag(segment: Any, name: str) -> str:
    import vtk

    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return str(value)


def test_slicer_reads_names_colours_labels_and_tags(reference: Volume, tmp_path: Path) -> None:
    labels = np.zeros((12, 16, 20), np.uint8)
    labels[2:5, 3:7, 4:10] = 1
    labels[7, 8, 9] = 3
    node = _load(write_segmentation(labels, reference, SEGMENTS, tmp_path / "findings.seg.nrrd"))
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    for index, expected in enumerate(SEGMENTS):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == expected.name
        assert segment.GetColor() == pytest.approx(expected.color)
        assert segment.GetLabelValue() == expected.label_value
        terminology = _tag(segment, "TerminologyEntry").split("~")
        assert terminology[1:3] == ["SCT^49755003^Morphologically Abnormal Structure", "SCT^4147007^Mass"]
        assert len(terminology) == 7
        assert _tag(segment, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
        assert _tag(segment, "DICOM.SegmentAlgorithmName") == "D24FAD"
        assert _tag(segment, "Segmentation.Status") == "inprogress"


def test_slicer_places_the_voxels_where_the_reference_has_them(reference: Volume, tmp_path: Path) -> None:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    labels = np.zeros((12, 16, 20), np.uint8)
    labels[7, 8, 9] = 3
    node = _load(write_segmentation(labels, reference, SEGMENTS, tmp_path / "findings.seg.nrrd"))
    labelmap = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation("Finding_3", labelmap)
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars())
    hits = np.flatnonzero(voxels)
    assert len(hits) == 1
    hit = int(hits[0])
    extent = labelmap.GetExtent()
    columns, rows = extent[1] - extent[0] + 1, extent[3] - extent[2] + 1
    ijk = (extent[0] + hit % columns, extent[2] + hit // columns % rows, extent[4] + hit // (columns * rows))
    to_world = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(to_world)
    ras = to_world.MultiplyPoint((*ijk, 1.0))[:3]
    lps = reference.image.TransformIndexToPhysicalPoint((9, 8, 7))
    assert ras == pytest.approx((-lps[0], -lps[1], lps[2]), abs=1e-4)


@pytest.mark.parametrize("segments", [[], SEGMENTS], ids=["no segments", "segments without voxels"])
def test_slicer_reads_an_empty_segmentation(
    reference: Volume, tmp_path: Path, segments: list[SegmentDescription]
) -> None:
    labels = np.zeros((12, 16, 20), np.uint8)
    node = _load(write_segmentation(labels, reference, segments, tmp_path / "empty.seg.nrrd"))
    assert node.GetSegmentation().GetNumberOfSegments() == len(segments)
