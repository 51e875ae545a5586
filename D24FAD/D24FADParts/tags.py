"""What a volume is, as far as its DICOM tags or its place in the subject hierarchy tell."""

from dataclasses import dataclass

import numpy as np
import slicer

from D24FADLib.references.fit import names_an_agent, traits_of_grid, weighting_of

from . import geometry, placement

_TAGS = {
    "modality": "0008,0060",
    "bodyPart": "0018,0015",
    "date": "0008,0020",
    "description": "0008,103e",
    "agent": "0018,0010",
    "seriesUid": "0020,000e",
    "studyUid": "0020,000d",
}


@dataclass(frozen=True)
class Study:
    """Unknown is "". Nothing here says who the patient is; the date is shown only when asked for."""

    modality: str = ""
    bodyPart: str = ""
    date: str = ""
    description: str = ""
    agent: str = ""
    seriesUid: str = ""
    studyUid: str = ""


def studyOf(volumeNode):
    """What is known of the volume's study and series."""
    values = dict.fromkeys(_TAGS, "")
    instances = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if instances and database is not None and database.isOpen:
        values.update(_tagsOf(database, instances[0]))
    _fillFromHierarchy(volumeNode, values)
    return Study(**values)


_tagsCache = {}  # an instance never changes its tags, and the panel asks at every change of the scene


def _tagsOf(database, instance):
    if instance not in _tagsCache:
        found = {name: (database.instanceValue(instance, tag) or "").strip() for name, tag in _TAGS.items()}
        if not any(found.values()):
            return found  # not in the database, as yet
        _tagsCache[instance] = found
    return _tagsCache[instance]


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
    """What `references.fit` compares, of a volume in the scene."""
    study = studyOf(volumeNode)
    shape = volumeNode.GetImageData().GetDimensions()[::-1]
    said = study.description or volumeNode.GetName() or ""
    isMr = study.modality in ("", "MR")
    enhanced = None
    if study.modality:
        enhanced = bool(study.agent) or names_an_agent(study.description)
    return traits_of_grid(
        shape,
        np.asarray(geometry.ijkToLocal(volumeNode)),
        modality=study.modality,
        body_part=study.bodyPart,
        weighting=weighting_of(said) if isMr else "",
        enhanced=enhanced,
    )
