"""References: what fits, what is refused, and sets that keep series and paths but no pixels."""

import importlib.util
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import SimpleITK as sitk

from D24FADLib.errors import InputError
from D24FADLib.references.suitability import Kind


@pytest.fixture
def study(logic, volumes):
    query, references = volumes.study(3)
    logic.setQuery(query)
    return logic, query, references


def saved(path, size=(40, 48, 20), spacing=(2, 2, 4)):
    image = sitk.GetImageFromArray(np.ones(size[::-1], np.int16))
    image.SetSpacing([float(s) for s in spacing])
    sitk.WriteImage(image, str(path))
    return str(path)


def misfits(logic, row):
    return [reason.kind for reason in logic.referenceProblems(row.key)]


def test_what_cannot_be_a_reference_is_refused_with_the_reason(study, tmp_path):
    import slicer

    logic, query, references = study
    logic.addReferenceNode(references[0])
    with pytest.raises(InputError, match="study itself"):
        logic.addReferenceNode(query)
    with pytest.raises(InputError, match="already"):
        logic.addReferenceNode(references[0])
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    with pytest.raises(InputError, match="scalar volume"):
        logic.addReferenceNode(labels)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    with pytest.raises(InputError, match="no voxels"):
        logic.addReferenceNode(empty)
    (tmp_path / "notes.nrrd").write_text("no image")
    with pytest.raises(InputError, match=r"notes\.nrrd"):
        logic.addReferencePath(str(tmp_path / "notes.nrrd"))
    with pytest.raises(InputError, match="gone"):
        logic.addReferencePath(str(tmp_path / "nothing.nrrd"))
    assert len(logic.references()) == 1
    assert labels not in logic.possibleReferences()
    assert query not in logic.possibleReferences()
    assert set(logic.possibleReferences()) == set(references[1:])


def test_a_folder_gives_each_of_its_files(study, tmp_path):
    logic, _query, _references = study
    saved(tmp_path / "a.nii.gz")
    saved(tmp_path / "b.nrrd")
    (tmp_path / "readme.txt").write_text("x")
    assert logic.addReferenceFolder(str(tmp_path)) == []
    assert [row.name for row in logic.references()] == ["a.nii.gz", "b.nrrd"]
    assert [row.slices for row in logic.references()] == [20, 20]
    assert {logic.referenceSource(row.key) for row in logic.references()} == {"File"}


def test_what_does_not_fit_is_marked_before_running(study, volumes, tmp_path):
    logic, _query, references = study
    fits = logic.addReferenceNode(references[0])
    assert misfits(logic, fits) == []
    sagittal = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
    turned = logic.addReferenceNode(volumes.add("Turned", volumes.grid(sagittal)))
    assert Kind.ORIENTATION in misfits(logic, turned)
    small = logic.addReferenceNode(volumes.add("Small", volumes.grid(spacing=(0.7, 0.7, 4.0))))
    assert set(misfits(logic, small)) == {Kind.COVERAGE}
    logic.query().SetName("T1 axial")
    references[1].SetName("T2 axial")
    contrast = logic.addReferenceNode(references[1])
    assert misfits(logic, contrast) == [Kind.SEQUENCE]


def test_a_set_keeps_paths_and_comes_back(study, tmp_path):
    logic, _query, _references = study
    logic.addReferencePath(saved(tmp_path / "a.nii.gz"))
    logic.addReferencePath(saved(tmp_path / "b.nii.gz"))
    path = logic.saveReferenceSet("Brain T1: 1.5 T/A")
    document = json.loads(path.read_text())
    assert [sorted(entry) for entry in document["references"]] == [["kind", "label", "value"]] * 2
    assert path.stat().st_size < 1000
    logic.removeReferences([row.key for row in logic.references()])
    assert logic.referenceSets() == ["Brain T1: 1.5 T/A"]
    assert logic.loadReferenceSet("Brain T1: 1.5 T/A") == []
    assert [row.name for row in logic.references()] == ["a.nii.gz", "b.nii.gz"]


def test_a_set_whose_files_are_gone_says_which(study, tmp_path, quiet_log):
    logic, _query, _references = study
    logic.addReferencePath(saved(tmp_path / "a.nii.gz"))
    logic.addReferencePath(saved(tmp_path / "b.nii.gz"))
    logic.saveReferenceSet("Knees")
    (tmp_path / "b.nii.gz").unlink()
    (problem,) = logic.loadReferenceSet("Knees")
    assert "b.nii.gz is gone" in problem
    rows = logic.references()
    assert [row.use for row in rows] == [True, False]
    assert misfits(logic, rows[1]) == [Kind.MISSING]
    # Ticked all the same, it stops the run with its name, and nothing else happens.
    logic.setReferenceUsed(rows[1].key, True)
    assert "b.nii.gz" in logic.whyNotReady()


def test_a_volume_without_a_home_cannot_be_in_a_set(study):
    logic, _query, references = study
    logic.addReferenceNode(references[0])
    with pytest.raises(InputError, match="Normal 1"):
        logic.saveReferenceSet("Lost")
    assert logic.referenceSets() == []


def test_a_damaged_or_foreign_set_is_refused(study, tmp_path):
    from D24FADLib.references import sets

    logic, _query, _references = study
    folder = tmp_path / "sets"
    folder.mkdir()
    for name, text in (
        ("broken", "{"),
        ("foreign", "{}"),
        ("later", '{"format": "d24fad-reference-set", "version": 9}'),
    ):
        path = sets.file_of(folder, name)
        path.write_text(text)
        with pytest.raises(InputError, match=name):
            sets.load_set(path)
    assert logic.referenceSets() == []
    with pytest.raises(InputError, match="gone"):
        sets.load_set(folder / "nothing.json")
    with pytest.raises(InputError, match="name"):
        sets.file_of(folder, " /..")


def test_the_dicom_browser_without_a_selection(study):
    logic, _query, _references = study
    (problem,) = logic.addReferencesFromDicomSelection()
    assert "DICOM browser" in problem


def test_packages_are_asked_for_before_anything_is_installed():
    from D24FADParts import dependencies

    package = dependencies.Package("no-such-package", "no_such_module", "no-such-package>=1", 7)
    assert dependencies.missing([package]) == [package]
    assert dependencies.missing() == []
    assert "no-such-package, about 7 MB" in dependencies.question([package])
    arguments = dependencies.pipArguments(["torch>=2.1"], "c.txt", "/wheels")
    assert arguments == ["torch>=2.1", "--constraint", "c.txt", "--no-index", "--find-links", "/wheels"]
    pinned = dependencies.keptVersions()
    assert any(text.startswith("numpy==") for text in pinned)
    assert any(text.startswith("SimpleITK==") for text in pinned)


@pytest.fixture
def extension(monkeypatch):
    """SlicerPyTorch, as far as it is asked: `behave` is what it does. Notes what pip was asked for then."""
    import importlib.machinery

    import slicer

    made = types.ModuleType("PyTorchUtils")
    made.__spec__ = importlib.machinery.ModuleSpec("PyTorchUtils", None)
    made.asked, made.pip, made.behave = [], [], lambda: types

    class PyTorchUtilsLogic:
        def installTorch(
            self,
            askConfirmation=False,
            forceComputationBackend=None,
            torchVersionRequirement=None,
            torchvisionVersionRequirement=None,
        ):
            made.asked.append((askConfirmation, torchVersionRequirement))
            return made.behave()

    made.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", made)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", made.pip.append)
    return made


def fails():
    raise subprocess.CalledProcessError(1, ["PythonSlicer", "-m", "light_the_torch"])


@pytest.mark.parametrize("behave", [fails, lambda: None], ids=["raises", "gives nothing"])
def test_torch_comes_by_pip_where_its_extension_fails(extension, behave, caplog):
    from D24FADParts import dependencies

    torch, tqdm = dependencies.REQUIRED[0], dependencies.REQUIRED[-1]
    assert dependencies.install([torch, tqdm]) == ""
    assert extension.asked == [(False, torch.requirement.removeprefix("torch"))]
    assert [arguments[0] for arguments in extension.pip] == [tqdm.requirement]
    extension.behave = behave
    said = dependencies.install([torch, tqdm])
    assert said.startswith("The PyTorch extension could not install torch; pip has installed it instead.")
    assert extension.pip[1][:3] == [torch.requirement, tqdm.requirement, "--constraint"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    # From a folder of wheels, the extension is not asked.
    assert dependencies.install([torch], "/wheels") == ""
    assert len(extension.asked) == 2
    # Without torch, neither.
    assert dependencies.install([tqdm]) == ""
    assert len(extension.asked) == 2


def test_pip_is_asked_for_a_torch_that_suits_the_system(monkeypatch):
    """On Linux it is said to be large; on Windows it has no paths too long."""
    from D24FADParts import dependencies

    monkeypatch.setattr(sys, "platform", "linux")
    assert "several GB" in dependencies.question(dependencies.REQUIRED)
    assert "several GB" not in dependencies.question(dependencies.REQUIRED[1:])
    monkeypatch.setattr(sys, "platform", "win32")
    assert "several GB" not in dependencies.question(dependencies.REQUIRED)
    assert importlib.reload(dependencies).REQUIRED[0].requirement == "torch>=2.1,<2.13"
    monkeypatch.undo()
    importlib.reload(dependencies)


@pytest.fixture
def slow(monkeypatch):
    """A computer with neither GPU nor OpenVINO, and what pip was asked for on it."""
    import slicer
    from D24FADParts import dependencies

    faster = dependencies.Package("no-such-package", "no_such_module", "no-such-package>=1", 7)
    monkeypatch.setattr(dependencies, "FASTER", faster)
    monkeypatch.setattr(dependencies.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    asked = []
    monkeypatch.setattr(slicer.util, "pip_install", asked.append)
    return types.SimpleNamespace(faster=faster, pip=asked)


def test_what_makes_a_processor_faster_is_offered_where_it_serves(slow, monkeypatch):
    from D24FADParts import dependencies

    assert dependencies.helpful() == [slow.faster]
    text = dependencies.question([dependencies.REQUIRED[-1], slow.faster])
    assert "no-such-package, about 7 MB (optional: a fifth less time without a GPU)" in text
    with monkeypatch.context() as other:
        other.setattr(dependencies.shutil, "which", lambda name: f"/usr/bin/{name}")
        assert dependencies.helpful() == []
    with monkeypatch.context() as other:
        other.setattr(sys, "platform", "darwin")
        assert dependencies.helpful() == []


def test_a_run_does_without_what_would_make_it_faster(slow, tmp_path):
    """pip gives nothing; the folder of wheels does not have it; the folder is gone."""
    from D24FADParts import dependencies

    tqdm = dependencies.REQUIRED[-1]
    said = dependencies.install([tqdm, slow.faster])
    assert said.startswith("no-such-package could not be installed. The detector works")
    assert [arguments[0] for arguments in slow.pip] == [tqdm.requirement, slow.faster.requirement]
    for folder in (tmp_path, tmp_path / "gone"):
        assert "could not be installed" in dependencies.install([slow.faster], str(folder))
    assert len(slow.pip) == 2
    (tmp_path / "no-such-package-1.whl").touch()
    dependencies.install([slow.faster], str(tmp_path))
    assert len(slow.pip) == 3


def wheel(folder, name, version, requires=""):
    """A wheel of an empty package."""
    import zipfile

    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed")
def test_an_installation_never_replaces_slicers_own_numpy(monkeypatch, tmp_path):
    """pip itself, over a folder of wheels in which one wants another numpy."""
    import slicer
    from D24FADParts import dependencies

    done = []

    def pip(arguments):
        command = [sys.executable, "-m", "pip", "install", "--dry-run", *arguments]
        done.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
        if done[-1].returncode:
            raise RuntimeError("pip failed")

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", pip)
    wheel(tmp_path, "wants_old_numpy", "1.0", "numpy<1")
    wheel(tmp_path, "wants_any_numpy", "1.0", "numpy")
    wheel(tmp_path, "numpy", "0.9")
    greedy = dependencies.Package("wants_old_numpy", "sys", "wants_old_numpy", 1)
    with pytest.raises(RuntimeError, match="could not be installed"):
        dependencies.install([greedy], str(tmp_path))
    assert "numpy" in done[0].stderr
    modest = dependencies.Package("wants_any_numpy", "sys", "wants_any_numpy", 1)
    dependencies.install([modest], str(tmp_path))
    assert done[1].stdout.strip().endswith("Would install wants_any_numpy-1.0")
