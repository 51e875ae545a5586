"""Patients' identities stay out of logs, texts, file names and temporary files, whatever goes wrong."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detections import REFERENCE_NAMES, detection_for
from dicom_factory import PHI, SeriesSpec, phantom, reread, write_series

from D24FADLib.commands import detect
from D24FADLib.dicom.detect_options import add_arguments, read_inputs, write_output
from D24FADLib.errors import InputError

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom", reason="highdicom is not installed (d24fad[dicom])")

PLANTED = ("quillfeather", "zebulon", "pid7734921", "19310417", "acc5582013")


def assert_clean(text: str) -> None:
    for planted in PLANTED:
        assert planted not in text.lower()


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    detect.add_options(parser)
    add_arguments(parser)
    return parser.parse_args(list(words))


def study(tmp_path: Path) -> tuple[Path, list[SeriesSpec]]:
    """A query and two references of other patients, in one folder."""
    query = SeriesSpec(phantom())
    names = [{"PatientName": n, "PatientID": f"REFPID{k}"} for k, n in enumerate(REFERENCE_NAMES)]
    specs = [query, *(SeriesSpec(phantom(seed=3 + k), phi=phi) for k, phi in enumerate(names))]
    for number, spec in enumerate(specs):
        write_series(tmp_path / "archive" / str(number), spec)
    return tmp_path / "archive", specs


def test_from_dicom_to_dicom_by_the_options(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG)
    archive, specs = study(tmp_path)
    args = options(
        "--dicom", str(archive), "--query-series", specs[0].series_uid,
        "--support-series", specs[1].series_uid, specs[2].series_uid,
        "--dicom-output", str(tmp_path / "results"),
    )  # fmt: skip
    inputs = read_inputs(args)
    assert [v.name for v in inputs.supports] == ["reference 1", "reference 2"]
    said = write_output(args, detection_for(inputs.query), inputs.query_files, inputs.supports)
    assert said[-1] == "5 DICOM objects written"
    out, err = capfd.readouterr()
    assert_clean(" ".join([out, err, caplog.text, *said, *inputs.notes]))
    for path in (tmp_path / "results").iterdir():
        assert_clean(path.name)
        content = path.read_bytes().decode("latin-1")
        for name in (*REFERENCE_NAMES, "REFPID"):
            assert name not in content
            assert name.split("^")[0] not in content
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            assert_clean(path.read_bytes().decode("latin-1"))


@pytest.fixture
def written(tmp_path: Path) -> Iterator[list[str]]:
    """Every path that Python opens for writing, creates or renames to in the test."""
    seen: list[str] = []
    watching = True

    def hook(event: str, args: tuple) -> None:
        if not watching:
            return
        if event == "open" and isinstance(args[2], int):
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                seen.append(str(args[0]))
        elif event in ("os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp", "os.rename"):
            seen.append(str(args[event == "os.rename"]))

    sys.addaudithook(hook)  # for good: Python has no way to take one off
    yield seen
    watching = False


@pytest.mark.parametrize("way", ["by series", "by path"])
def test_a_whole_run_names_nobody(
    tmp_path: Path,
    simulated: Any,
    small_model: Path,
    written: list[str],
    way: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Patients' names in headers, file and folder names: none in messages, run.json, or names of files."""
    from D24FADLib.cli import main

    caplog.set_level(logging.DEBUG)
    logging.getLogger("matplotlib").setLevel(logging.INFO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    tempfile.tempdir = None
    folders, specs = [], []
    for number, volume in enumerate([simulated.query, *simulated.supports[:2]]):
        voxels = np.round(np.asarray(volume.array(), float) * 1000 / volume.array().max()).astype(np.int16)
        phi = {**PHI, "PatientID": f"PID7734921-{number}"}
        specs.append(SeriesSpec(voxels, spacing=volume.spacing, phi=phi))
        folders.append(tmp_path / "in" / f"Quillfeather_{number}_19310417")
        write_series(folders[-1], specs[-1], [f"ACC5582013_{k}.dcm" for k in range(len(voxels))])
    (folders[0] / "PID7734921.dcm").write_bytes((folders[0] / "ACC5582013_0.dcm").read_bytes()[:-9])
    (folders[0] / "Zebulon.txt").write_text("no DICOM")
    written.clear()
    quick = ["--model", str(small_model), "--device", "cpu", "--runtime", "torch", "--align", "none"]
    out = ["--output", str(tmp_path / "out"), "--dicom-output", str(tmp_path / "dicom")]
    if way == "by series":
        uids = [spec.series_uid for spec in specs]
        query = ["--dicom", str(tmp_path / "in"), "--query-series", uids[0], "--support-series", *uids[1:]]
    else:
        query = [str(folders[0]), "--support", str(folders[1]), "--support", str(folders[2])]
    assert main(["detect", *query, *quick, *out]) == 0
    said = capfd.readouterr()
    assert "withheld" in said.err  # the cut-off file is spoken of
    assert_clean(said.out + said.err + caplog.text)
    results = list((tmp_path / "out").rglob("*"))
    assert {"run.json", "findings.csv"} <= {path.name for path in results}
    for path in [*results, *(tmp_path / "cache").rglob("*")]:
        if path.suffix == ".sqlite":  # the index has to know where the files lie
            assert path.stat().st_mode & 0o777 == 0o600
        elif path.is_file():
            assert_clean(path.read_bytes().decode("latin-1"))
    names = [path for path in written if str(tmp_path / "in") not in path]
    assert any("run.json" in path for path in names)
    assert_clean(" ".join(names))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_unsuitable_references_are_refused_unless_told(tmp_path: Path) -> None:
    archive, specs = study(tmp_path)
    ct = SeriesSpec(phantom(), modality="CT")
    write_series(archive / "ct", ct)
    words = [
        "--dicom",
        str(archive),
        "--query-series",
        specs[0].series_uid,
        "--support-series",
        ct.series_uid,
    ]
    with pytest.raises(InputError, match="reference 1: modality CT"):
        read_inputs(options(*words))
    assert read_inputs(options(*words, "--unsuitable-anyway")).supports
    with pytest.raises(InputError, match="--query-series"):
        read_inputs(options("--dicom", str(archive)))


def test_logs_and_errors_of_damaged_values_quote_nothing(tmp_path: Path) -> None:
    """The whole way, with every logger and warning on, over values that provoke remarks."""

    def edit(ds: pydicom.Dataset, k: int) -> None:
        with pydicom.config.disable_value_validation():
            ds.PatientBirthDate = "Quillfeather born 19310417"
            ds.AccessionNumber = "ACC5582013" * 4
            ds.StudyTime = "Zebulon"
            ds.PatientName = "Quillfeather Zebulon"

    paths = write_series(tmp_path / "Quillfeather", SeriesSpec(phantom(4), edit=edit))
    bad = tmp_path / "Quillfeather" / "PID7734921.dcm"
    bad.write_bytes(paths[0].read_bytes()[:-99])
    with pydicom.config.disable_value_validation():
        reread(paths[3], lambda ds: setattr(ds, "SOPInstanceUID", "Quillfeather"))
    code = f"""
        import logging, sys, warnings
        logging.basicConfig(level=logging.DEBUG)
        warnings.simplefilter("always")
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from detections import detection_for
        from D24FADLib.dicom.export import export_detection
        from D24FADLib.dicom.library import open_library
        from D24FADLib.dicom.series import read_files
        from D24FADLib.errors import D24FADError
        catalog = open_library({str(tmp_path / "Quillfeather")!r}, ":memory:")
        print(catalog.name, *catalog.problems)
        reading = catalog.read()
        print(reading.notes)
        files = [frame.path for frame in reading.frames]
        export_detection(detection_for(reading.volume), files, {str(tmp_path / "out")!r})
        print(*read_files({[str(p) for p in paths[:3]]!r} + [{str(bad)!r}], "series").notes)
        for work in (lambda: catalog.read("Quillfeather"), lambda: read_files([{str(bad)!r}], "series")):
            try:
                work()
            except D24FADError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    assert "cut off" in said
    assert "SOPInstanceUID is not a UID" in said
    # The unreadable file's name is the patient's number, which only its readable siblings can tell.
    assert_clean(said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Quillfeather", "out"]
    for path in (tmp_path / "out").iterdir():
        assert_clean(path.name)


def test_the_planted_values_are_what_the_factory_plants() -> None:
    joined = " ".join(PHI.values()).lower()
    assert all(planted in joined for planted in PLANTED)
