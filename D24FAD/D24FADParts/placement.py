"""The subject hierarchy: results go where the query is, and are found again there."""

import slicer

ROLE = "D24FAD.Role"
RUN = "D24FAD.Run"


def hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def itemOf(node):
    """The node's item, made at the top where it has none yet."""
    tree = hierarchy()
    item = tree.GetItemByDataNode(node)
    return item or tree.CreateItem(tree.GetSceneItemID(), node)


def placeBeside(node, queryNode):
    """Put a result under the query's study (or folder). The study, not a folder of our own in it: DICOM
    export takes an item's direct parent for its study."""
    tree = hierarchy()
    tree.SetItemParent(itemOf(node), tree.GetItemParent(itemOf(queryNode)))


def studyItem(node):
    """The study that the node lies under, 0 where it lies under none."""
    tree = hierarchy()
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy()
    return tree.GetItemAncestorAtLevel(itemOf(node), level)


def isDicom(volumeNode):
    """Whether the volume came from DICOM, so that a DICOM object may refer to it."""
    return bool(volumeNode is not None and volumeNode.GetAttribute("DICOM.instanceUIDs"))
