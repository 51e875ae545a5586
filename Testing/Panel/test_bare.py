"""The module in a Python that has only what a bare Slicer surely has: the standard library, numpy, SimpleITK
and VTK. Everything up to the run works, Find anomalies asks for what is missing, and results are shown."""

import subprocess
import sys

CODE = """
import importlib.machinery, importlib.util, sys, types
ROOT, TEMP = sys.argv[1:]
HOST = {"PySide6", "shiboken6", "py", "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"}
MODULE = {"d24fadhost", "D24FAD", "D24FADParts", "D24FADLib"}
THERE = {"numpy", "SimpleITK", "slicer", "vtk", "vtkmodules", *HOST, *MODULE}

class OnlyThese(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in sys.stdlib_module_names or top.startswith(("slicer", "vtk")) or top in THERE
        return super().find_spec(name, path, target) if known else None

sys.meta_path[:] = [OnlyThese if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
assert importlib.util.find_spec("scipy") is None and importlib.util.find_spec("pydicom") is None
sys.path[:0] = [ROOT, ROOT + "/D24FAD", ROOT + "/Testing/Host"]
from pathlib import Path
from d24fadhost import start
from d24fadhost.fixtures import behaving
host = start()
import slicer, qt
slicer.modules.add("D24FAD", Path(ROOT, "D24FAD", "D24FAD.py"))
slicer.app.layoutManager()
import D24FAD
D24FAD.D24FAD(types.SimpleNamespace(path=D24FAD.__file__))
D24FAD.registerSampleData()
(source,) = slicer.modules.sampleDataSources["D24FAD"]
panel = D24FAD.D24FADWidget()
panel.logic.tempFolder = panel.logic.referenceSetFolder = TEMP
source.customDownloader(source)
assert host.process_events(60, until=lambda: slicer.mrmlScene.GetFirstNodeByName("D24FADNormal4"))
host.process_events(0.1)
nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
assert slicer.util.saveNode(nodes[1], TEMP + "/normal.nrrd")
panel.logic.addReferencePath(TEMP + "/normal.nrrd")
for node in nodes[2:]:
    panel.logic.addReferenceNode(node)
panel.refresh()
assert panel.logic.query() is nodes[0]
assert [panel.ui.referencesTable.item(row, 5).text() for row in range(4)] == ["Fits"] * 4
host.answers.append(qt.QMessageBox.Cancel)
panel.ui.applyButton.click()
print(host.messages[-1])
panel.logic.missingPackages = panel.logic.helpfulPackages = list
panel.logic.workerArguments = behaving("well")
panel.ui.applyButton.click()
assert host.process_events(60, until=lambda: not panel.logic.isRunning())
host.process_events(0.1)
print(panel.ui.runMessage.text, panel.ui.countLabel.text)
assert panel.ui.findingsTable.rowCount > 0
panel.ui.findingsTable.selectRow(0)
panel.logic.exportFindings(TEMP + "/f.csv")
panel.logic.exportMap(TEMP + "/m.nrrd")
panel.logic.exportSegmentation(TEMP + "/s.seg.nrrd")
panel.cleanup()
print("all of it")
"""


def test_a_bare_slicer_needs_nothing_until_the_run(tmp_path):
    from d24fadhost.fixtures import ROOT

    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("all of it")
    for name in ("torch", "safetensors", "scipy", "pydicom", "tqdm"):
        assert f"{name}, about" in done.stdout
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("d24fad-run")]


DETECT = """
import importlib.machinery, sys
ROOT, *ARGUMENTS = sys.argv[1:]
TORCH = {"torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx"}
TORCH |= {"jinja2", "markupsafe", "fsspec", "filelock"}
THERE = {"numpy", "SimpleITK", "D24FADLib", *TORCH, *ALLOWED}

class OnlyThese(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in sys.stdlib_module_names or top.startswith("_sysconfig") or top in THERE
        return super().find_spec(name, path, target) if known else None

sys.meta_path[:] = [OnlyThese if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
sys.path.insert(0, ROOT)
from D24FADLib.cli import main
sys.exit(main(ARGUMENTS))
"""


def test_the_detector_needs_only_what_the_module_installs_for_it(host, module, tmp_path):
    """`dependencies.REQUIRED`, what Slicer brings, and torch's own dependencies: nothing else is there."""
    import numpy as np
    import SimpleITK as sitk
    from d24fadhost.fixtures import ROOT
    from D24FADParts import dependencies

    from D24FADLib.worker.commandline import DetectOptions, detect_arguments

    random = np.random.default_rng(0)
    paths = []
    for name in ("query", "support_01", "support_02"):
        image = sitk.GetImageFromArray((300 + 50 * random.standard_normal((8, 48, 48))).astype(np.int16))
        image.SetSpacing((3.0, 3.0, 6.0))
        paths.append(str(tmp_path / f"{name}.nrrd"))
        sitk.WriteImage(image, paths[-1])
    options = DetectOptions(align="none", device="cpu", unsuitable_anyway=True)
    arguments = detect_arguments(paths[0], paths[1:], str(tmp_path / "output"), options)[2:]
    allowed = {package.module for package in dependencies.REQUIRED}
    done = subprocess.run(
        [sys.executable, "-c", DETECT.replace("ALLOWED", repr(allowed)), str(ROOT), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "output" / "anomaly_map.nrrd").is_file()
    assert '"runtime": "torch"' in (tmp_path / "output" / "run.json").read_text()
