"""The story with the real detector in the real worker process, over the module's own demo subjects."""

import csv
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("D24FADLib.commands.detect") is None,
    reason="the detect command is not there yet",
)


# The whole subjects with all four normals, minutes on a CPU: the pictures of the tutorial.
WHOLE = bool(os.environ.get("D24FAD_WHOLE_DEMO"))

MAKE_MODEL = """
import sys
from pathlib import Path
from pathlib import Path
import torch
from D24FADLib.commands.train import metadata
from D24FADLib.network.checkpoints import imagenet_lite0, save_bundle
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.trainer import TrainingOptions
torch.manual_seed(0)
save_bundle(D24FADModel(imagenet_lite0()), Path(sys.argv[1]), metadata(TrainingOptions(), {}, [128]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The embedded model; an untrained one where there is none yet (torch stays out of the GUI process)."""
    from d24fadhost.fixtures import ROOT

    from D24FADLib.inference.models import embedded_models

    if embedded_models():
        return ""
    folder = tmp_path_factory.mktemp("model") / "untrained"
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(folder)], check=True, cwd=ROOT, timeout=120)
    return str(folder)


def addSlab(name, seed, lesion=False):
    """The middle slices of a demo subject: enough to see, and seconds instead of minutes on a CPU."""
    from D24FADParts import sampledata

    first, last = (0, sampledata.SIZE[0]) if WHOLE else (30, 46)
    matrix = sampledata.ijkToRas()
    matrix[:3, 3] += matrix[:3, 2] * first
    voxels = sampledata.makeSubject(seed, lesion)[first:last]
    return sampledata.addVolume(name, voxels, matrix)


def timeOf(ui):
    """What the progress line says of the time left while slices are compared; "" until it is known."""
    text = ui.progressLabel.text
    return text.rpartition(" · ")[2] if text.startswith("Comparing") else ""


def keepOutput(monkeypatch, folder):
    """Have the run's output copied there before it is removed."""
    from D24FADLib.worker.folder import RunFolder

    empty = RunFolder.empty

    def emptyAfterCopy(self):
        shutil.copytree(self.output, folder)
        yield from empty(self)

    monkeypatch.setattr(RunFolder, "empty", emptyAfterCopy)


def test_the_demo_study_by_clicks(panel, host, temp, screenshot, quiet_log, model, monkeypatch, tmp_path):
    from d24fadhost.fixtures import SCREENSHOTS, left_in
    from d24fadhost.sliceviews import picture
    from D24FADParts import sampledata
    from PIL import Image

    from D24FADLib.worker.commandline import detect_arguments

    nodes = [addSlab("D24FADStudy", 100, lesion=True)]
    nodes += [addSlab(f"D24FADNormal{number}", number) for number in ((1, 2, 3, 4) if WHOLE else (1, 2, 3))]
    panel.logic.workerArguments = detect_arguments
    panel.logic.setQuery(nodes[0])
    for node in nodes[1:]:
        panel.logic.addReferenceNode(node)
    panel.logic.setOption("Device", "cpu")
    panel.logic.setOption("Align", "affine" if WHOLE else "position")
    panel.logic.setOption("Model", model)
    panel.refresh()
    ui = panel.ui
    screenshot(ui.studyButton, "tutorial-1-study")
    screenshot(ui.referencesButton, "tutorial-2-references")
    seen = set()
    told = panel.run.onProgress
    panel.run.onProgress = lambda fraction, step, *rest: (seen.add(step), told(fraction, step, *rest))
    keepOutput(monkeypatch, tmp_path / "output")
    panel.ui.applyButton.click()
    # A quick machine may be done before the time left is known.
    host.process_events(600, until=lambda: "left" in timeOf(ui) or not panel.logic.isRunning())
    screenshot(ui.runButton, "tutorial-3-running")
    assert host.process_events(600, until=lambda: not panel.logic.isRunning())
    host.process_events(0.2)
    print(panel.ui.runMessage.text, panel.ui.countLabel.text, sorted(seen))
    found = panel.logic.results()
    assert found.exist, panel.ui.runMessage.text + panel.ui.runMessage.toolTip
    assert {"align", "compare"} <= seen
    assert len(found.weightNodes()) == len(nodes) - 1
    assert found.node("ExpectedNormal") is not None
    assert all(row.weight >= 0 for row in panel.logic.references())
    assert left_in(temp) == []
    screenshot(panel.parent, "8-real-detector")
    # Volumes pass uncompressed: reading them costs the GUI thread next to nothing.
    written = sorted((tmp_path / "output").glob("*.nrrd"))
    assert all(b"encoding: raw" in path.read_bytes()[:2000] for path in written if ".seg" not in path.name)
    assertSameFindings(panel.logic, tmp_path / "output")
    ui.findingsTable.selectRow(0)
    says, *_ = ui.findingLabel.text.split("\n")
    assert says.startswith("Compared with the references it is ")
    assert "brighter" in says
    assert not ui.countLabel.text.endswith("SD.")  # the fused map has a unit of its own
    screenshot(ui.findingsButton, "tutorial-4-findings")
    panel.logic.showResults()
    for layer, name in (("map", "9-real-views"), ("expected", "tutorial-6-expected"), ("map", "")):
        panel.logic.showLayer(layer)
        panel.logic.setOpacity(0.6 if layer == "map" else 1.0)
        shown = found.node("Segmentation")
        views = [picture(view, segmentation=shown) for view in ("Red", "Yellow", "Green")]
        # Three planes of one place: no two pictures are alike.
        assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in itertools.pairwise(views))
        if name:
            Image.fromarray(np.concatenate(views, 1)).save(SCREENSHOTS / f"{name}.png")
    ui.advancedButton.collapsed = False
    screenshot(ui.advancedButton, "tutorial-7-advanced")
    beside("tutorial-4-findings", "9-real-views").save(SCREENSHOTS / "panel-findings.png")
    # The lesion is in the map: its mean score stands far above that of the rest of the head.
    import slicer
    from D24FADParts import geometry

    array = slicer.util.arrayFromVolume(found.node("Map"))
    i, j, k = np.rint(geometry.toIndex(geometry.ijkToWorld(found.query), sampledata.LESION_RAS)).astype(int)
    inside = array[k - 2 : k + 3, j - 2 : j + 3, i - 2 : i + 3].mean()
    print("score in the lesion, and its rank among voxels:", inside, (array > inside).mean())
    # An untrained model knows little; what is tested then is the way there and back.
    assert (array > inside).mean() < (0.2 if model else 0.05)


def beside(panel, views):
    """The panel with the three views below each other at its side, as high as it is."""
    from d24fadhost.fixtures import SCREENSHOTS
    from PIL import Image

    left, row = (Image.open(SCREENSHOTS / f"{name}.png").convert("RGB") for name in (panel, views))
    side = left.height // 3
    whole = Image.new("RGB", (left.width + side, left.height))
    whole.paste(left, (0, 0))
    for number in range(3):
        view = row.crop((number * row.height, 0, (number + 1) * row.height, row.height))
        whole.paste(view.resize((side, side)), (left.width, number * side))
    return whole


def assertSameFindings(logic, output):
    """What the slider finds at the detector's threshold is what the detector found: labels, voxel by voxel,
    and every number of the table."""
    import SimpleITK as sitk

    found = logic.results()
    with open(output / "findings.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found.count == len(found.findings) > 0
    for row, finding in zip(rows, found.findings, strict=True):
        assert (int(row["rank"]), int(row["slice"])) == (finding.rank, finding.slice)
        places = [float(row[f"{what}_{axis}"]) for what in ("center", "peak") for axis in "ras"]
        assert np.allclose([*finding.place, *finding.peakPlace], places, atol=0.02)
        numbers = [float(row[name]) for name in ("peak", "mean", "volume_ml")]
        assert np.allclose(
            [finding.peak, finding.mean, finding.volumeMl], numbers, rtol=2e-3
        )  # as rounded there
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "findings.seg.nrrd")))
    assert np.array_equal(ranksOf(found), theirs)
    # ... and again after the slider has been elsewhere.
    logic.setThreshold(found.about["threshold"] * 1.2)
    assert not np.array_equal(ranksOf(found), theirs)
    logic.setThreshold(found.about["threshold"])
    assert np.array_equal(ranksOf(found), theirs)


def ranksOf(found):
    """The panel's segmentation as one volume of ranks (k, j, i), 0 outside."""
    import slicer

    ranks = np.zeros(slicer.util.arrayFromVolume(found.node("Map")).shape, int)
    for finding in found.findings:
        arguments = (found.node("Segmentation"), finding.segmentId, found.query)
        ranks[slicer.util.arrayFromSegmentBinaryLabelmap(*arguments) > 0] = finding.rank
    return ranks


DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "volumes"


@pytest.mark.skipif(not WHOLE, reason="minutes on a CPU; set D24FAD_WHOLE_DEMO=1")
@pytest.mark.skipif(not (DATA / "dicom_mr_t1_datalad").is_dir(), reason="../shared/data is not there")
def test_a_real_study_from_dicom(panel, host, temp, screenshot, quiet_log, model, monkeypatch):
    """A healthy head from DICOM against other heads from files: pictures of panel and views to look at."""
    import slicer
    from d24fadhost import dicom
    from d24fadhost.fixtures import SCREENSHOTS, left_in
    from d24fadhost.sliceviews import picture
    from PIL import Image

    from D24FADLib.worker.commandline import detect_arguments

    database = dicom.install(monkeypatch)
    for path in sorted((DATA / "dicom_mr_t1_datalad").glob("*.dcm")):
        database.insert(str(path))
    (uid,) = {str(header.SeriesInstanceUID) for header in database._headers.values()}
    query = slicer.mrmlScene.GetNodeByID(dicom.loadSeriesByUID([uid])[0])
    ui = panel.ui
    ui.querySelector.setCurrentNode(query)
    for name in ("chris_t1", "colin27_ch2", "mni152_t1"):
        for path in sorted((DATA / name).glob("*.nii*"))[:1]:
            panel.logic.addReferencePath(str(path))
    panel.logic.workerArguments = detect_arguments
    panel.logic.setOption("Device", "cpu")
    panel.logic.setOption("Model", model)
    panel.refresh()
    ui.applyButton.click()
    assert host.process_events(600, until=lambda: not panel.logic.isRunning())
    host.process_events(0.3)
    found = panel.logic.results()
    assert found.exist, ui.runMessage.text + ui.runMessage.toolTip
    assert left_in(temp) == []
    if found.count:
        ui.findingsTable.selectRow(0)
    screenshot(panel.parent, "12-real-study")
    panel.logic.setOpacity(0.6)
    views = [picture(view, segmentation=found.node("Segmentation")) for view in ("Red", "Yellow", "Green")]
    Image.fromarray(np.concatenate(views, 1)).save(SCREENSHOTS / "12-real-study-views.png")
