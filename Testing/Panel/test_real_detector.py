"""The story with the real detector in the real worker process, over the module's own demo subjects."""

import importlib.util

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("D24FADLib.commands.detect") is None,
    reason="the detect command is not there yet",
)


def test_the_demo_study_by_clicks(panel, host, temp, screenshot, quiet_log):
    from d24fadhost.fixtures import SCREENSHOTS, left_in
    from d24fadhost.sliceviews import picture
    from D24FADParts import sampledata
    from PIL import Image

    from D24FADLib.worker.commandline import detect_arguments

    nodes = sampledata.load()
    panel.logic.workerArguments = detect_arguments
    panel.logic.setQuery(nodes[0])
    for node in nodes[1:]:
        panel.logic.addReferenceNode(node)
    panel.logic.setOption("Device", "cpu")
    panel.refresh()
    seen = set()
    told = panel.run.onProgress
    panel.run.onProgress = lambda fraction, step, *rest: (seen.add(step), told(fraction, step, *rest))
    panel.ui.applyButton.click()
    assert host.process_events(180, until=lambda: not panel.logic.isRunning())
    host.process_events(0.2)
    print(panel.ui.runMessage.text, panel.ui.countLabel.text, sorted(seen))
    found = panel.logic.results()
    assert found.exist, panel.ui.runMessage.text
    assert {"align", "compare"} <= seen
    assert len(found.weightNodes()) == 4
    assert found.node("ExpectedNormal") is not None
    assert all(row.weight >= 0 for row in panel.logic.references())
    assert left_in(temp) == []
    screenshot(panel.parent, "8-real-detector")
    panel.logic.showResults()
    views = [picture(name, segmentation=found.node("Segmentation")) for name in ("Red", "Yellow", "Green")]
    Image.fromarray(np.concatenate(views, 1)).save(SCREENSHOTS / "9-real-views.png")
    # The lesion is in the map: its mean score stands far above that of the rest of the head.
    import slicer
    from D24FADParts import geometry

    array = slicer.util.arrayFromVolume(found.node("Map"))
    i, j, k = np.rint(geometry.toIndex(geometry.ijkToWorld(found.query), sampledata.LESION_RAS)).astype(int)
    inside = array[k - 2 : k + 3, j - 2 : j + 3, i - 2 : i + 3].mean()
    print("score in the lesion, and its rank among voxels:", inside, (array > inside).mean())
    assert (array > inside).mean() < 0.05
