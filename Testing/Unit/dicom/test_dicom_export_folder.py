"""Where results are written: whole or not at all, and never beside those of another run."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from detections import detection_for, export
from dicom_factory import SeriesSpec, phantom, write_series

from D24FADLib.cli import main
from D24FADLib.dicom.export import KINDS, check_export, export_detection
from D24FADLib.dicom.series import read_files
from D24FADLib.errors import OutputError
from D24FADLib.reading import read_study

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom", reason="highdicom is not installed (d24fad[dicom])")


def test_the_same_folder_again_replaces_the_files(tmp_path: Path) -> None:
    first, detection, paths = export(tmp_path, SeriesSpec(phantom()))
    before = pydicom.dcmread(first.files["seg"]).SOPInstanceUID
    second = export_detection(detection, paths, tmp_path / "out", KINDS)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in second.files.values()
    )
    assert pydicom.dcmread(second.files["seg"]).SOPInstanceUID != before


def test_a_study_with_results_beside_it_is_still_one_series(tmp_path: Path) -> None:
    """The page is a series of images, too; so are the dose reports of a CT."""
    export(tmp_path, SeriesSpec(phantom(5)))
    study = read_study(tmp_path)
    assert study.volume.size[2] == 5
    assert len(study.dicom_files) == 5
    assert read_study(tmp_path / "out").volume.is_color  # on its own it is what there is


def test_what_an_earlier_run_left_goes(tmp_path: Path) -> None:
    """A segmentation of another run beside this one's map would be sent along with it."""
    _, detection, paths = export(tmp_path, SeriesSpec(phantom()))
    (tmp_path / "out" / "other.dcm").write_text("not ours")
    with pytest.raises(OutputError, match="holds DICOM results already; choose another folder or say"):
        check_export(tmp_path / "out", KINDS, overwrite=False)
    check_export(tmp_path / "out", KINDS, overwrite=True)
    clean = dataclasses.replace(detection, findings=(), labels=np.zeros_like(detection.labels))
    second = export_detection(clean, paths, tmp_path / "out", ["seg", "map"])
    assert set(second.files) == {"map"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {second.files["map"].name, "other.dcm"}


def test_nothing_is_written_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_series(tmp_path / "s", SeriesSpec(phantom()))
    detection = detection_for(read_files(paths, "query").volume)
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        export_detection(detection, paths, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file where the folder should be"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(OutputError, match=rf"{name}: results cannot be written there \(No space left"):
            export_detection(detection, paths, tmp_path / name)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "there").iterdir()) == []


def test_where_it_fails_the_other_results_are_said_to_be_complete(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_series(tmp_path / str(number), SeriesSpec(phantom(seed=number)))
    output = tmp_path / "results"
    words = [
        "detect", str(tmp_path / "0"), "--support", str(tmp_path / "1"), "--output", str(output),
        "--model", str(small_model), "--runtime", "torch", "--device", "cpu", "--align", "none",
        # a place that is good before the run, and lost with its first file
        "--dicom-output", str(output / "run.json" / "objects"),
    ]  # fmt: skip
    assert main(words) == 2
    said = f"cannot be written there (Not a directory). The other results are complete: {output}\n"
    assert capsys.readouterr().err.endswith(said)
    assert {path.name for path in output.iterdir()} >= {"run.json", "findings.csv", "overview.png"}
