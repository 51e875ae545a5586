"""D24FADTest on the host: the very cases that Slicer runs, but for the detector itself."""

import importlib.util

import pytest


def test_the_modules_own_test(host, module, monkeypatch, temp):
    from D24FADParts import selftest

    cases = [case for case in selftest.CASES if case is not selftest.testDetection]
    monkeypatch.setattr(selftest, "CASES", cases)
    module.D24FADTest().runTest()


def test_the_module_says_what_it_is(host, module):
    import types

    parent = types.SimpleNamespace(path=module.__file__)
    made = module.D24FAD(parent)
    assert made.parent.title == "D24FAD"
    assert "not a diagnosis" in parent.helpText
    assert parent.categories == ["Quantification"]


def test_nothing_heavy_is_imported_at_file_scope():
    """A new interpreter that imports the module's files has none of these loaded."""
    import subprocess
    import sys

    from d24fadhost.fixtures import ROOT

    code = f"""
import sys
sys.path[:0] = {[str(ROOT), str(ROOT / "D24FAD"), str(ROOT / "Testing" / "Host")]!r}
from d24fadhost import start
start()
before = set(sys.modules)
import D24FAD
from D24FADParts.panel import findings, references, run, study
heavy = {{"torch", "monai", "pydicom", "scipy", "SimpleITK", "matplotlib", "nilearn"}}
print(sorted(heavy & (set(sys.modules) - before)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_files_stay_short():
    from d24fadhost.fixtures import ROOT

    for folder in ("D24FAD", "Testing/Host", "D24FADLib/worker", "D24FADLib/references"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) < 500, path
    assert len((ROOT / "D24FAD" / "D24FAD.py").read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.skipif(
    importlib.util.find_spec("D24FADLib.commands.detect") is None,
    reason="the detect command is not there yet",
)
def test_the_worker_says_so_where_the_command_is_wrong(tmp_path):
    """The real command line through the real worker: bad input is an event and exit code 2."""
    import json
    import os
    import subprocess
    import sys

    from d24fadhost.fixtures import ROOT

    done = subprocess.run(
        [sys.executable, "-m", "D24FADLib.worker", "detect", str(tmp_path / "no.nrrd"), "--support",
         str(tmp_path / "no2.nrrd"), "--output", str(tmp_path / "out"), "--json"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "error"
    assert events[-1]["kind"] == "input"
    assert done.returncode == 2
