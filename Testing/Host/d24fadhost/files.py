"""`slicer.app.coreIOManager()` for the node types the module loads and saves."""

from __future__ import annotations

import os
from typing import Any


class CoreIOManager:
    def fileType(self, path: str) -> str:
        return "SegmentationFile" if str(path).endswith((".seg.nrrd", ".seg.nhdr")) else "VolumeFile"

    def fileWriterFileType(self, node: Any) -> str:
        return node.GetClassName()

    def loadNodes(self, fileType: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        import slicer

        path = str(properties["fileName"])
        if not os.path.exists(path):
            return False
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        if fileType == "SegmentationFile":
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            storage = slicer.vtkMRMLSegmentationStorageNode()
            storage.SetFileName(path)
            if not storage.ReadData(node):
                return False
        else:
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, 0)
            if node is None:
                return False
        loaded.AddItem(node)
        return True

    def saveNodes(self, fileType: str, properties: dict[str, Any], messages: Any = None) -> bool:
        import slicer

        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(str(properties["fileName"]))
        storage.SetUseCompression(bool(properties.get("useCompression", True)))
        return bool(storage.WriteData(node))
