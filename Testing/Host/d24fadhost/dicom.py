"""A DICOM database, the DICOM browser's selection, loading a series and writing a DICOM SEG, for the host.

Only what the module asks of them, over real files: pydicom reads the tags, ITK the voxels, and dcmqi, the
converter that Slicer itself calls, writes the segmentation. Calls take what Slicer's take and nothing else.
Given `D24FAD_SLICER_PLUGINS`, the folder `DICOMPlugins` of Slicer's sources (`DICOMLib` beside it), the
segmentation is written by Slicer's own plugin instead of the one here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np


class DicomDatabase:
    """As much of ctkDICOMDatabase as the module uses; unknown is "" there, and a path is a `str`."""

    isOpen = True

    def __init__(self) -> None:
        self._headers: dict[str, Any] = {}

    def insert(self, filePath: str) -> None:
        import pydicom

        header = pydicom.dcmread(_text(filePath), stop_before_pixels=True)
        header.filename = filePath
        self._headers[str(header.SOPInstanceUID)] = header

    def filesForSeries(self, seriesUID: str, hits: int = -1) -> tuple[str, ...]:
        found = [h for h in self._headers.values() if h.SeriesInstanceUID == _text(seriesUID)]
        return tuple(str(header.filename) for header in found)[: hits if hits > 0 else None]

    def fileForInstance(self, sopInstanceUID: str) -> str:
        header = self._headers.get(_text(sopInstanceUID))
        return str(header.filename) if header is not None and os.path.exists(header.filename) else ""

    def instanceValue(self, sopInstanceUID: str, tag: str) -> str:
        return _value(self._headers.get(_text(sopInstanceUID)), _text(tag))

    def fileValue(self, fileName: str, tag: str) -> str:
        headers = (h for h in self._headers.values() if str(h.filename) == _text(fileName))
        return _value(next(headers, None), _text(tag))


def _text(value: Any) -> str:
    """PythonQt makes no QString of a path or of None."""
    if not isinstance(value, str):
        raise TypeError(f"a string is wanted, not {value!r}")
    return value


def _value(header: Any, tag: str) -> str:
    group, element = (int(word, 16) for word in tag.split(","))
    found = header.get((group, element)) if header is not None else None
    if found is None or found.value is None:
        return ""
    many = found.value if isinstance(found.value, (list, tuple)) or found.VM > 1 else [found.value]
    return "\\".join(str(value) for value in many)


class DicomBrowser:
    """The browser widget of the DICOM module with these series selected, in its classic or visual look."""

    def __init__(self, selected: list[str], visual: bool = False) -> None:
        self.useVisualDICOMBrowser = visual
        answer = tuple(selected)
        nothing: tuple[str, ...] = ()
        table = types.SimpleNamespace(currentSeriesSelection=lambda: nothing if visual else answer)
        view = types.SimpleNamespace(selectedSeriesInstanceUIDs=lambda: answer if visual else nothing)
        self.dicomBrowser = types.SimpleNamespace(dicomTableManager=lambda: table)
        self.dicomVisualBrowser = types.SimpleNamespace(patientView=lambda: view)


def loadSeriesByUID(seriesUIDs: list[str]) -> list[str]:
    """Load each series as a scalar volume under its patient and study; the IDs of the nodes made."""
    import slicer

    if not isinstance(seriesUIDs, list):
        raise ValueError("SeriesUIDs must contain a list")
    return [nodeId for uid in seriesUIDs for nodeId in _loadSeries(slicer.dicomDatabase, uid)]


def _loadSeries(database: DicomDatabase, uid: str) -> list[str]:
    import slicer
    import vtk

    headers = sorted((h for h in database._headers.values() if h.SeriesInstanceUID == uid), key=_alongNormal)
    if not headers or "PixelSpacing" not in headers[0]:
        return []
    names = vtk.vtkStringArray()
    for header in headers:
        names.InsertNextValue(str(header.filename))
    title = f"{headers[0].SeriesNumber}: {headers[0].SeriesDescription}"
    node = slicer.modules.volumes.logic().AddArchetypeVolume(names.GetValue(0), title, 0, names)
    node.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    node.SetAttribute("DICOM.instanceUIDs", " ".join(str(header.SOPInstanceUID) for header in headers))
    _placeInHierarchy(node, headers[0])
    return [node.GetID()]


def _alongNormal(header: Any) -> float:
    row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.dot(np.cross(row, column), np.array(header.ImagePositionPatient, float)))


def _placeInHierarchy(node: Any, header: Any) -> None:
    import slicer

    names = slicer.vtkMRMLSubjectHierarchyConstants
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = tree.GetItemByUID(names.GetDICOMUIDName(), str(header.StudyInstanceUID))
    if not study:
        patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "Patient")
        study = tree.CreateStudyItem(patient, "Study")
        tree.SetItemUID(study, names.GetDICOMUIDName(), str(header.StudyInstanceUID))
        tree.SetItemAttribute(study, names.GetDICOMStudyDateAttributeName(), str(header.StudyDate))
    item = tree.GetItemByDataNode(node) or tree.CreateItem(study, node)
    tree.SetItemParent(item, study)
    tree.SetItemUID(item, names.GetDICOMUIDName(), str(header.SeriesInstanceUID))
    tree.SetItemAttribute(item, names.GetDICOMSeriesModalityAttributeName(), str(header.Modality))


class Exportable:
    """qSlicerDICOMExportable."""

    def __init__(self) -> None:
        self.name = self.tooltip = self.pluginClass = self.directory = ""
        self.subjectHierarchyItemID, self.confidence = 0, 0.0
        self._tags: dict[str, str] = {}

    def setTag(self, name: str, value: str) -> None:
        self._tags[_text(name)] = _text(value)

    def tag(self, name: str) -> str:
        return self._tags.get(_text(name), "")


class SegmentationPlugin:
    """Writes DICOM SEG, and refuses what Slicer's plugin refuses: empty segments, no terminology, an
    algorithm without a name, a study whose files are not in the database."""

    def examineForExport(self, item: int) -> list[Exportable]:
        node = _tree().GetItemDataNode(item)
        if node is None or not node.IsA("vtkMRMLSegmentationNode"):
            return []
        made = Exportable()
        made.subjectHierarchyItemID = item
        made.setTag("SeriesDescription", node.GetName())
        return [made]

    def export(self, exportables: list[Exportable]) -> str:
        try:
            for exportable in exportables:
                self._write(exportable)
        except ValueError as error:
            return str(error)
        return ""

    def _write(self, exportable: Exportable) -> None:
        import slicer

        node = _tree().GetItemDataNode(exportable.subjectHierarchyItemID)
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if volume is None:
            raise ValueError("Referenced volume is not found for the segmentation.")
        uids = (volume.GetAttribute("DICOM.instanceUIDs") or "").split()
        sources = [slicer.dicomDatabase.fileForInstance(uid) for uid in uids]
        if not sources or not all(sources):
            raise ValueError("Referenced volume files were not found in the DICOM database.")
        with tempfile.TemporaryDirectory() as folder:
            labels, attributes = [], []
            segmentation = node.GetSegmentation()
            for number in range(segmentation.GetNumberOfSegments()):
                segmentId = segmentation.GetNthSegmentID(number)
                attributes.append([_attributesOf(segmentation.GetSegment(segmentId))])
                labels.append(_labelFile(node, segmentId, folder))
            meta = Path(folder) / "meta.json"
            meta.write_text(
                json.dumps(
                    {
                        "SeriesNumber": "100",
                        "InstanceNumber": "1",
                        "SeriesDescription": exportable.tag("SeriesDescription"),
                        "ContentCreatorName": exportable.tag("ContentCreatorName") or "Slicer",
                        "segmentAttributes": attributes,
                    }
                )
            )
            target = os.path.join(exportable.directory, "export.SEG.dcm")
            done = subprocess.run(
                [dcmqi("itkimage2segimage"), "--inputDICOMList", ",".join(sources), "--inputImageList",
                 ",".join(labels), "--inputMetadata", str(meta), "--outputDICOM", target],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode or not os.path.exists(target):
            raise ValueError(f"itkimage2segimage failed: {done.stderr[-300:]}")
        slicer.dicomDatabase.insert(target)


def _tree() -> Any:
    import slicer

    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def _attributesOf(segment: Any) -> dict[str, Any]:
    import slicer
    import vtk

    scalars = segment.GetRepresentation("Binary labelmap").GetPointData().GetArray("ImageScalars")
    if scalars is None or scalars.GetValueRange() == (0, 0):
        raise ValueError("Empty segments found in segmentation.")
    tags = {}
    for name in ("TerminologyEntry", "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
        value = vtk.reference("")
        if not segment.GetTag(name, value):
            raise ValueError(f"Segment {segment.GetName()} has no tag {name}.")
        tags[name] = str(value)
    entry = slicer.vtkSlicerTerminologyEntry()
    slicer.modules.terminologies.logic().DeserializeTerminologyEntry(tags["TerminologyEntry"], entry)
    return {
        "labelID": 1,
        "SegmentLabel": segment.GetName(),
        "SegmentDescription": segment.GetName(),
        "SegmentAlgorithmType": tags["DICOM.SegmentAlgorithmType"],
        "SegmentAlgorithmName": tags["DICOM.SegmentAlgorithmName"],
        "recommendedDisplayRGBValue": [round(255 * part) for part in segment.GetColor()],
        "SegmentedPropertyCategoryCodeSequence": _code(entry.GetCategoryObject()),
        "SegmentedPropertyTypeCodeSequence": _code(entry.GetTypeObject()),
    }


def _code(said: Any) -> dict[str, str]:
    return {
        "CodeValue": said.GetCodeValue(),
        "CodingSchemeDesignator": said.GetCodingSchemeDesignator(),
        "CodeMeaning": said.GetCodeMeaning(),
    }


def _labelFile(node: Any, segmentId: str, folder: str) -> str:
    import slicer
    import vtk

    only = vtk.vtkStringArray()
    only.InsertNextValue(segmentId)
    merged = slicer.vtkOrientedImageData()
    node.GenerateMergedLabelmapForAllSegments(
        merged, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, None, only
    )
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.modules.segmentations.logic().CreateLabelmapVolumeFromOrientedImageData(merged, labels)
    path = os.path.join(folder, f"{segmentId}.nrrd")
    slicer.util.saveNode(labels, path)
    slicer.mrmlScene.RemoveNode(labels)
    return path


def dcmqi(name: str) -> str:
    """The path of one of dcmqi's programs."""
    found = importlib.util.find_spec("dcmqi")
    return str(Path(found.origin).parent / "bin" / name)  # type: ignore[union-attr,arg-type]


def install(monkeypatch: Any) -> DicomDatabase:
    """Give the host a DICOM module for one test; an empty database to insert files into."""
    import slicer

    database = DicomDatabase()
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    monkeypatch.setattr(slicer, "qSlicerDICOMExportable", Exportable, raising=False)
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    terminologies = types.SimpleNamespace(logic=lambda: logic)
    monkeypatch.setattr(slicer.modules, "terminologies", terminologies, raising=False)
    library = types.ModuleType("DICOMLib")
    library.DICOMUtils = types.SimpleNamespace(loadSeriesByUID=loadSeriesByUID)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "DICOMLib", library)
    plugin: Any = types.ModuleType("DICOMSegmentationPlugin")
    plugin.DICOMSegmentationPluginClass = SegmentationPlugin
    own = os.environ.get("D24FAD_SLICER_PLUGINS")
    if own:
        monkeypatch.setitem(sys.modules, "vtkSegmentationCorePython", slicer)
        library.__dict__.update(_executed(Path(own).parent / "DICOMLib" / "DICOMPlugin.py").__dict__)
        plugin = _executed(Path(own) / "DICOMSegmentationPlugin.py")
    monkeypatch.setitem(sys.modules, "DICOMSegmentationPlugin", plugin)
    return database


def _executed(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(found)  # type: ignore[arg-type]
    found.loader.exec_module(module)  # type: ignore[union-attr]
    return module
