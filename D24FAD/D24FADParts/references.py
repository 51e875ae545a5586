"""The list of normal references: volumes of the scene, and files that the worker reads itself."""

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import InputError
from D24FADLib.imaging.headers import refuse_segmentation
from D24FADLib.references.suitability import Kind, Level, check_references, refuse
from D24FADLib.references.traits import Traits, traits_of_grid, traits_of_plain, traits_of_tags

from . import geometry, placement, settings, tags, views
from .runrecord import ReferenceOutcome

ADVISED_LEAST, ADVISED_MOST = 2, 8
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class Reference:
    """One row. `key` names it for as long as it is in the list; `weight` and `standsOut` come with a run."""

    key: int
    kind: str  # "node" or "path"
    name: str
    path: str = ""
    seriesUid: str = ""
    modality: str = ""
    slices: int = 0
    use: bool = True
    weight: float = -1.0
    standsOut: bool = False
    dropped: bool = False
    note: str = ""
    # Of a folder, as JSON has them: reading it again takes a while.
    traits: dict = field(default_factory=dict)


class ReferenceList:
    """Kept in the parameter node, so that it is saved and restored with the scene."""

    def __init__(self, parameterNode):
        self._node = parameterNode

    def rows(self):
        return [Reference(**row) for row in settings.getJson(self._node, "References", [])]

    def used(self):
        return [row for row in self.rows() if row.use]

    def nodeOf(self, row):
        """The volume of a row that is one, None where it has been deleted."""
        node = self._node.GetNodeReference(_role(row.key)) if row.kind == "node" else None
        return node if node is not None and node.GetScene() is not None else None

    def addNode(self, volumeNode):
        """Raises InputError where the volume cannot be a reference."""
        requireVolume(volumeNode, _("A reference"))
        name = volumeNode.GetName() or ""
        if volumeNode is self._node.GetNodeReference(settings.QUERY):
            raise InputError(_("{name} is the study itself. Choose other, normal studies.").format(name=name))
        if any(self.nodeOf(row) is volumeNode for row in self.rows()):
            raise InputError(_("{name} is in the list already.").format(name=name))
        study, traits = tags.studyOf(volumeNode), tags.traitsOf(volumeNode)
        row = Reference(
            self._nextKey(),
            "node",
            name,
            modality=study.modality,
            slices=traits.slices,
            seriesUid=study.seriesUid,
        )
        self._node.SetNodeReferenceID(_role(row.key), volumeNode.GetID())
        self._save([*self.rows(), row])
        return row

    def newPath(self, path):
        """The whole path; raises InputError where it is in the list already."""
        path = os.path.abspath(path)
        if any(os.path.normcase(row.path) == os.path.normcase(path) for row in self.rows() if row.path):
            raise InputError(_("{name} is in the list already.").format(name=os.path.basename(path)))
        return path

    def addPath(self, path, name="", modality="", plainTraits=None):
        """A file, or with `plainTraits` a folder with one DICOM series (`folderscan` tells them); raises
        InputError where it cannot be read."""
        path = self.newPath(path)
        traits = traits_of_plain(plainTraits) if plainTraits else fileTraits(path)
        row = Reference(
            self._nextKey(),
            "path",
            name or os.path.basename(path),
            path=path,
            modality=traits.modality or modality,
            slices=traits.slices,
            traits=plainTraits or {},
        )
        self._save([*self.rows(), row])
        return row

    def addMissing(self, entry):
        """A row of a loaded set whose file or series is gone: shown, marked and not used."""
        name = entry.label or _("reference")
        where = {"path": entry.value} if entry.kind == "path" else {"seriesUid": entry.value}
        row = Reference(self._nextKey(), "path", name, **where, use=False)
        self._save([*self.rows(), row])

    def remove(self, keys):
        for key in keys:
            self._node.RemoveNodeReferenceIDs(_role(key))
        self._save([row for row in self.rows() if row.key not in set(keys)])

    def setUsed(self, key, use):
        self._save([replace(row, use=use) if row.key == key else row for row in self.rows()])

    def setOutcome(self, outcomes):
        """{key: runrecord.ReferenceOutcome} of a run; other rows lose theirs."""
        self._save([replace(row, **asdict(outcomes.get(row.key, ReferenceOutcome()))) for row in self.rows()])

    def sourceOf(self, row):
        """Where a row comes from, in a word."""
        if row.kind == "path":
            return _("Folder") if os.path.isdir(row.path) else _("File")
        node = self.nodeOf(row)
        return _("DICOM") if placement.isDicom(node) else _("Scene")

    def problems(self, row, queryNode):
        """Reasons why a row does not fit the study, most telling first; [] where none is known."""
        if row.kind == "node":
            node = self.nodeOf(row)
            if node is None or node.GetImageData() is None:
                return [refuse(Kind.MISSING, reference=_("the volume was deleted"))]
            if node is queryNode:
                return [refuse(Kind.ITSELF)]
            traits = tags.traitsOf(node)
        else:
            if not row.path or not os.path.exists(row.path):
                missing = row.path or _("the series is not in the DICOM database")
                return [refuse(Kind.MISSING, reference=missing)]
            try:
                traits = self._pathTraits(row)
            except InputError as error:
                return [refuse(Kind.MISSING, reference=str(error))]
        if queryNode is None or traits is None:
            return []
        return list(check_references(tags.traitsOf(queryNode), [traits])[0].reasons)

    def _pathTraits(self, row):
        """A folder's are those it was added with; None where it has none, and the detector is to judge."""
        if not os.path.isdir(row.path):
            return fileTraits(row.path)
        return traits_of_plain(row.traits) if row.traits else None

    def _nextKey(self):
        return max((row.key for row in self.rows()), default=0) + 1

    def _save(self, rows):
        settings.putJson(self._node, "References", [asdict(row) for row in rows])


def requireVolume(node, what):
    """Raises InputError where the node cannot be compared; `what` begins the sentence."""
    name = node.GetName() if node is not None else ""
    if node is None or not node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(_("{what} must be a scalar volume; {name} is not.").format(what=what, name=name))
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise InputError(_("{name} has no voxels. Load it again.").format(name=name))
    if image.GetNumberOfScalarComponents() != 1:
        text = _("{name} is a colour image. Only volumes of one value a voxel can be compared.")
        raise InputError(text.format(name=name))
    try:
        geometry.ijkToWorld(node)
    except geometry.GeometryError as error:
        raise InputError(f"{name}: {error}.") from error


_traitsCache = {}


def fileTraits(path):
    """What the header of a file tells; raises InputError where that is no image's."""
    try:
        stamp = (path, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise InputError(_("{name} is gone.").format(name=os.path.basename(path))) from error
    if stamp not in _traitsCache:
        _traitsCache[stamp] = _readTraits(path)
    return _traitsCache[stamp]


def _readTraits(path):
    import numpy as np
    import SimpleITK as sitk

    name = os.path.basename(path)
    try:
        refuse_segmentation(Path(path))
    except OSError as error:
        raise InputError(_("{name} cannot be read.").format(name=name)) from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(_("{name} is no image that can be read.").format(name=name)) from error
    if reader.GetNumberOfComponents() != 1 or reader.GetDimension() not in (2, 3):
        raise InputError(_("{name} is not a volume of one value a voxel.").format(name=name))
    size, spacing = (*reader.GetSize(), 1)[:3], (*reader.GetSpacing(), 1.0)[:3]
    axes = np.diag([-1.0, -1.0, 1.0])
    if reader.GetDimension() == 3:
        axes = axes @ np.array(reader.GetDirection()).reshape(3, 3)
    modality = reader.GetMetaData("0008|0060").strip() if reader.HasMetaDataKey("0008|0060") else ""
    own = traits_of_tags({}, name.split(".")[0])
    return Traits(modality=modality, **traits_of_grid(size, spacing, axes), **own)


def describe(reason):
    """A reason as a sentence."""
    text = {
        Kind.MISSING: _("Missing: {reference}."),
        Kind.CONTENT: _("This is no image series to compare with: {reference}."),
        Kind.GEOMETRY: _("Geometry: {reference}."),
        Kind.FEW_SLICES: _("Slices: {reference} only."),
        Kind.CONSTANT: _("Every voxel has the same value."),
        Kind.NOT_HOUNSFIELD: _("CT values without air: not in Hounsfield units, or cropped to the body."),
        Kind.DERIVED: _("Kind of images: the study is {study}, this is {reference}."),
        Kind.ITSELF: _("This is the study itself, which hides whatever is abnormal in it."),
        Kind.SAME_STUDY: _("From the patient's same examination: it may show the same disease."),
        Kind.MODALITY: _("Modality: the study is {study}, this is {reference}."),
        Kind.MODALITY_UNKNOWN: _("Modality: it is not known of both."),
        Kind.COLOR: _("Colour: the study is {study}, this is {reference}."),
        Kind.SINGLE_IMAGE: _("Slices: the study is {study}, this is {reference}."),
        Kind.SEQUENCE: _("Weighting: the study is {study}, this is {reference}."),
        Kind.CONTRAST_AGENT: _("Contrast agent: the study is {study}, this is {reference}."),
        Kind.KERNEL: _("Kernel: the study is {study}, this is {reference}."),
        Kind.BODY_PART: _("Body part: the study shows {study}, this {reference}."),
        Kind.VIEW: _("View: the study is {study}, this is {reference}."),
        Kind.ECHO_TIME: _("Echo time: the study has {study}, this {reference}."),
        Kind.REPETITION_TIME: _("Repetition time: the study has {study}, this {reference}."),
        Kind.FIELD_STRENGTH: _("Field strength: the study has {study}, this {reference}."),
        Kind.ORIENTATION: _("Orientation: the study is {study}, this is {reference}."),
        Kind.SLICE_DISTANCE: _("Slice distance: the study has {study}, this {reference}."),
        Kind.COVERAGE: _("Field of view: the study covers {study}, this {reference}."),
        Kind.GREY_VALUES: _("Its grey values are distributed otherwise than the study's."),
    }[reason.kind]
    return text.format(study=reason.study, reference=reason.reference)


def isUnusable(reason, anyway=False):
    """Whether a run cannot start with such a reference; the other reasons are warnings. `anyway`: the user
    goes on where a comparison can be made at all."""
    return reason.impossible if anyway else reason.level is Level.REFUSE


def dicomSelection():
    """The series selected in the DICOM browser, whichever of its two looks is in use; [] where the DICOM
    module has not been opened."""
    browser = getattr(getattr(slicer.modules, "DICOMWidget", None), "browserWidget", None)
    if browser is None:
        return []
    if getattr(browser, "useVisualDICOMBrowser", False):
        selected = browser.dicomVisualBrowser.patientView().selectedSeriesInstanceUIDs()
    else:
        selected = browser.dicomBrowser.dicomTableManager().currentSeriesSelection()
    return [str(uid) for uid in selected if uid]


def loadSeries(uid):
    """The scalar volumes of a DICOM series, loaded now unless they are loaded already."""
    loaded = _volumesOfSeries(uid)
    if not loaded:
        from DICOMLib import DICOMUtils

        with views.held():
            ids = DICOMUtils.loadSeriesByUID([uid]) or []
        made = [slicer.mrmlScene.GetNodeByID(nodeId) for nodeId in ids]
        # Some plugins make volumes that do not say which instances they are of.
        loaded = _volumesOfSeries(uid) or [node for node in made if _isVolume(node)]
    return loaded


def _volumesOfSeries(uid):
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if placement.isDicom(node) and tags.studyOf(node).seriesUid == uid]


def _isVolume(node):
    return node is not None and node.IsA("vtkMRMLScalarVolumeNode")


def _role(key):
    return f"Reference{key}"
