"""The host itself: its slice views keep their planes whatever a test did to the scene before."""

import os
import subprocess
import sys

import numpy as np
import pytest

NORMALS = {"Red": (0, 0, 1), "Yellow": (1, 0, 0), "Green": (0, 1, 0)}


def normals():
    import slicer

    manager = slicer.app.layoutManager()
    found = {}
    for name in manager.sliceViewNames():
        matrix = manager.sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        found[name] = tuple(abs(round(matrix.GetElement(row, 2), 3)) for row in range(3))
    return found


def turn(volumes):
    import slicer
    from D24FADParts import views

    node = volumes.add("Turned", volumes.grid(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)))
    for sliceNode in views.sliceNodes():
        sliceNode.SetOrientation("Axial")
        sliceNode.RotateToVolumePlane(node)
    return slicer.mrmlScene


@pytest.mark.parametrize("how", ["turned", "saved"])
def test_a_new_scene_has_its_views_in_their_planes(host, module, volumes, tmp_path, how):
    host.new_scene()
    assert normals() == NORMALS
    scene = turn(volumes)
    assert normals() != NORMALS
    if how == "saved":
        assert scene.WriteToMRB(str(tmp_path / "turned.mrb"), None)
        scene.Clear(False)
        assert scene.ReadFromMRB(str(tmp_path / "turned.mrb"), True)
    host.new_scene()
    assert normals() == NORMALS
    # They are real views of the volume: three planes of one show three pictures.
    import slicer
    from d24fadhost.sliceviews import picture

    node = volumes.add("Study", ball=(14.0, 1.0, 15.0))
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    pictures = [picture(name, 120, 120) for name in NORMALS]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[first].astype(int) - pictures[second]).mean() > 1


def test_a_host_leaves_no_folder_behind(host, tmp_path):
    code = "import d24fadhost; d24fadhost.start(); import slicer; slicer.app.userSettings().setValue('a', 1)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
