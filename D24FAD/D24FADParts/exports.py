"""Results out of Slicer: segmentation, findings, map."""

import csv
import os

import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import InputError, OutputError

from . import placement, results

SEGMENTATION_FILTERS = "NRRD (*.seg.nrrd);;NIfTI (*.nii.gz)"
# As in the command line's findings.csv, and the threshold, which is the reader's here.
FINDING_COLUMNS = (
    "rank", "peak", "mean", "volume_ml", "center_r", "center_a", "center_s", "peak_r", "peak_a", "peak_s",
    "slice", "threshold", "area_mm2", "pixels",
)  # fmt: skip
_SERIES_DESCRIPTION = "D24FAD candidates, research use"
VOLUME_FILTERS = "NRRD (*.nrrd);;NIfTI (*.nii.gz)"


def exportSegmentation(found, path):
    """To .seg.nrrd with names and terminology, or as a label volume to NIfTI; returns the path."""
    node = _require(found.node(results.SEGMENTATION))
    if not str(path).endswith((".nii", ".nii.gz")):
        if not slicer.util.saveNode(node, str(path)):
            raise OutputError(_cannotWrite(path))
        return str(path)
    scene = slicer.mrmlScene
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", node.GetName())
    try:
        logic = slicer.modules.segmentations.logic()
        if not logic.ExportAllSegmentsToLabelmapNode(node, labels, _referenceExtent()):
            raise OutputError(_("There are no candidates to export at this threshold."))
        if not slicer.util.saveNode(labels, str(path)):
            raise OutputError(_cannotWrite(path))
    finally:
        display = labels.GetDisplayNode()
        scene.RemoveNode(labels)
        if display is not None:
            scene.RemoveNode(display)
    return str(path)


def _referenceExtent():
    return slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY


def canExportDicom(found):
    """Whether a DICOM SEG can refer to the study, and this Slicer has what writes one."""
    return placement.isDicom(found.query) and _segmentationPlugin() is not None


def exportDicomSegmentation(found, folder):
    """As DICOM SEG into a folder and the DICOM database, under the query's study."""
    plugin = _segmentationPlugin()
    node = _require(found.node(results.SEGMENTATION))
    query = found.query
    if plugin is None:
        text = _(
            "This Slicer cannot write DICOM SEG. Install the QuantitativeReporting extension, or export NRRD."
        )
        raise OutputError(text)
    if not placement.isDicom(query):
        raise InputError(
            _("The study is not from DICOM, so a DICOM SEG cannot refer to it. Export NRRD or NIfTI.")
        )
    if node.GetSegmentation().GetNumberOfSegments() == 0:
        raise InputError(_("There are no candidates to export at this threshold."))
    if not os.path.isdir(folder):
        raise OutputError(_("The folder to export to is not there. Choose another."))
    node.SetReferenceImageGeometryParameterFromVolumeNode(query)
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), query.GetID())
    placement.placeBeside(node, query)
    item = placement.itemOf(node)
    exportables = plugin.examineForExport(item)
    if not exportables:
        raise OutputError(
            _("Slicer does not offer this segmentation for DICOM export: are the study's files gone?")
        )
    for exportable in exportables:
        exportable.directory = str(folder)
        # The node's own name may be longer than the 64 characters that DICOM allows.
        exportable.setTag("SeriesDescription", _SERIES_DESCRIPTION)
        exportable.setTag("ContentCreatorName", "D24FAD")
    problem = plugin.export(exportables)
    if problem:
        raise OutputError(_("DICOM export failed: {problem}").format(problem=problem))
    return str(folder)


def _segmentationPlugin():
    try:
        from DICOMSegmentationPlugin import DICOMSegmentationPluginClass
    except ImportError:
        return None
    return DICOMSegmentationPluginClass()


def exportFindings(found, path):
    """The findings as CSV; whole or not at all."""
    _require(found.node(results.MAP))
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(FINDING_COLUMNS)
            for finding in found.findings:
                numbers = [f"{value:.4g}" for value in (finding.peak, finding.mean, finding.volumeMl)]
                places = [f"{value:.2f}" for value in (*finding.place, *finding.peakPlace)]
                area = "" if finding.areaMm2 is None else f"{finding.areaMm2:.4g}"
                last = finding.slice, f"{found.threshold:.4g}", area, finding.pixels
                writer.writerow([finding.rank, *numbers, *places, *last])
        os.replace(part, path)
    except OSError as error:
        if os.path.exists(part):
            os.remove(part)
        raise OutputError(_cannotWrite(path)) from error
    return str(path)


def exportMap(found, path):
    """The anomaly map as a volume."""
    if not slicer.util.saveNode(_require(found.node(results.MAP)), str(path)):
        raise OutputError(_cannotWrite(path))
    return str(path)


def _require(node):
    if node is None:
        raise InputError(_("There are no results to export. Run Find anomalies first."))
    return node


def _cannotWrite(path):
    name = os.path.basename(str(path))
    return _("{name} could not be written. Choose another folder, or check the free space.").format(name=name)
