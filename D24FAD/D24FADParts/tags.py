"""What a volume is, as far as its DICOM tags or its place in the subject hierarchy tell."""

from dataclasses import dataclass

import numpy as np
import slicer

from D24FADLib.references.traits import Traits, tags_of_text, traits_of_grid, traits_of_tags, voxels_of

from . import geometry, placement

_TAGS = {
    "modality": "0008,0060",
    "bodyPart": "0018,0015",
    "date": "0008,0020",
    "description": "0008,103e",
    "seriesUid": "0020,000e",
    "studyUid": "0020,000d",
}
# What tells the protocol, by DICOM keyword as `D24FADLib.references.kinds` takes it.
_TECHNICAL = {
    "ImageType": "0008,0008",
    "ContrastBolusAgent": "0018,0010",
    "ScanningSequence": "0018,0020",
    "RepetitionTime": "0018,0080",
    "EchoTime": "0018,0081",
    "InversionTime": "0018,0082",
    "MagneticFieldStrength": "0018,0087",
    "ConvolutionKernel": "0018,1210",
    "ViewPosition": "0018,5101",
    "DiffusionBValue": "0018,9087",
    "Laterality": "0020,0060",
}
_ALL_TAGS = (*_TAGS.values(), *_TECHNICAL.values())


@dataclass(frozen=True)
class Study:
    """Unknown is "". Nothing here says who the patient is; the date is shown only when asked for."""

    modality: str = ""
    bodyPart: str = ""
    date: str = ""
    description: str = ""
    seriesUid: str = ""
    studyUid: str = ""


def studyOf(volumeNode):
    """What is known of the volume's study and series."""
    values = _tagsOf(volumeNode, _TAGS)
    _fillFromHierarchy(volumeNode, values)
    return Study(**values)


_tagsCache = {}  # an instance never changes its tags, and the panel asks at every change of the scene


def _tagsOf(volumeNode, tags):
    """{name: text} of {name: tag}, "" for what the DICOM database does not know of the volume."""
    instances = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not instances or database is None or not database.isOpen:
        return dict.fromkeys(tags, "")
    instance = instances[0]
    if instance not in _tagsCache:
        known = {tag: (database.instanceValue(instance, tag) or "").strip() for tag in _ALL_TAGS}
        if not any(known.values()):
            return dict.fromkeys(tags, "")  # not in the database, as yet
        _tagsCache[instance] = known
    return {name: _tagsCache[instance][tag] for name, tag in tags.items()}


def _fillFromHierarchy(volumeNode, values):
    tree, constants = placement.hierarchy(), slicer.vtkMRMLSubjectHierarchyConstants
    item = tree.GetItemByDataNode(volumeNode)
    if not item:
        return
    study = tree.GetItemAncestorAtLevel(item, constants.GetDICOMLevelStudy())
    for name, owner, attribute in (
        ("modality", item, constants.GetDICOMSeriesModalityAttributeName()),
        ("date", study, constants.GetDICOMStudyDateAttributeName()),
    ):
        if not values[name] and owner:
            values[name] = tree.GetItemAttribute(owner, attribute) or ""
    if not values["seriesUid"]:
        values["seriesUid"] = tree.GetItemUID(item, constants.GetDICOMUIDName()) or ""
    if not values["studyUid"] and study:
        values["studyUid"] = tree.GetItemUID(study, constants.GetDICOMUIDName()) or ""


def traitsOf(volumeNode):
    """What the suitability check compares, of a volume in the scene."""
    study = studyOf(volumeNode)
    columns = np.asarray(geometry.ijkToLocal(volumeNode))[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    size = volumeNode.GetImageData().GetDimensions()
    said = study.description or volumeNode.GetName() or ""
    own = traits_of_tags(tags_of_text(_tagsOf(volumeNode, _TECHNICAL)), said)
    return Traits(
        series_uid=study.seriesUid,
        study_uid=study.studyUid,
        modality=study.modality,
        body_part=study.bodyPart,
        voxels=_voxelsOf(volumeNode),
        **traits_of_grid(size, spacing, columns / spacing),
        **own,
    )


_voxelsCache = {}


def _voxelsOf(volumeNode):
    image = volumeNode.GetImageData()
    stamp = (image.GetMTime(), volumeNode.GetID())
    cached = _voxelsCache.get(volumeNode.GetID())
    if cached is None or cached[0] != stamp:
        cached = _voxelsCache[volumeNode.GetID()] = (
            stamp,
            voxels_of(slicer.util.arrayFromVolume(volumeNode)),
        )
    return cached[1]
