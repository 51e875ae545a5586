"""The module's own colour tables, read from its resources."""

import os

import slicer

ANOMALY = "D24FAD anomaly"
WEIGHT = "D24FAD weight"
FILES = {ANOMALY: "D24FADAnomaly.ctbl", WEIGHT: "D24FADWeight.ctbl"}


def colorTable(name):
    """The colour table node of this name in the scene, made from its file where it is not there yet."""
    found = slicer.mrmlScene.GetFirstNodeByName(name)
    if found is not None and found.IsA("vtkMRMLColorTableNode"):
        return found
    entries = readTable(os.path.join(folder(), FILES[name]))
    node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLColorTableNode")
    node.UnRegister(None)
    node.SetName(name)
    node.SetTypeToUser()
    node.SetNumberOfColors(len(entries))
    for index, (label, rgba) in enumerate(entries):
        node.SetColor(index, label, *rgba)
    node.SetHideFromEditors(False)
    return slicer.mrmlScene.AddNode(node)


def folder():
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "Resources", "Colors")


def readTable(path):
    """[(name, (r, g, b, a) from 0 to 1)] of a Slicer colour table file."""
    entries = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            entries.append((words[1], tuple(int(word) / 255 for word in words[2:6])))
    return entries
