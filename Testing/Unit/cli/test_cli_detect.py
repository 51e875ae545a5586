"""`d24fad detect` and `d24fad info` as a user and as a program meets them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from D24FADLib.cli import main

REPOSITORY = Path(__file__).resolve().parents[3]
VOLUMES = (
    "anomaly_map.nrrd",
    "residual_map.nrrd",
    "expected_normal.nrrd",
    "weights_01.nrrd",
    "weights_02.nrrd",
)
FILES = {*VOLUMES, "findings.seg.nrrd", "findings.csv", "slices.csv", "run.json", "overview.png"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(words: list[str], folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "D24FADLib", *words],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(simulated, small_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """The main story, once, in a process of its own with --json: folder, exit code, output and error."""
    folder = tmp_path_factory.mktemp("run")
    words = ["detect", str(simulated.query_file), "--output", "results", "--json", "--plane", "axial"]
    for path in simulated.support_files[:2]:
        words += ["--support", str(path)]
    words += ["--model", str(small_model), "--align", "position", "--device", "cpu", "--runtime", "torch"]
    process = start(words, folder)
    out, err = process.communicate(timeout=120)
    return folder / "results", process.returncode, out, err


def test_all_files_are_written_and_nothing_else(run) -> None:
    folder, code, _, err = run
    assert code == 0, err
    assert "Traceback" not in err
    assert {p.name for p in folder.iterdir()} == FILES
    assert [p.name for p in folder.parent.iterdir()] == ["results"]


def test_every_line_is_an_event_and_the_last_is_the_result(run) -> None:
    folder, _, out, _ = run
    events = [json.loads(line) for line in out.splitlines()]
    assert {e["event"] for e in events} <= {"progress", "warning", "result"}
    assert [e["event"] for e in events].count("result") == 1
    steps = list(dict.fromkeys(e["step"] for e in events if e["event"] == "progress"))
    assert steps == ["read", "model", "align", "prepare", "compare", "calibrate", "findings", "write"]
    result = events[-1]
    assert result["event"] == "result"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert result["findings"] == record["findings"]
    assert result["score"] == record["score"]
    assert {Path(p).name for p in result["files"].values()} == FILES


def test_the_files_lie_on_the_querys_grid(run, simulated) -> None:
    folder = run[0]
    query = simulated.query.image
    for name in (*VOLUMES, "findings.seg.nrrd"):
        image = sitk.ReadImage(str(folder / name))
        assert image.GetSize() == query.GetSize(), name
        for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(image, ask)(), getattr(query, ask)(), atol=1e-9)


def test_the_tables_agree_with_the_record_and_the_volumes(run) -> None:
    folder = run[0]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    scores = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "anomaly_map.nrrd")))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "findings.seg.nrrd")))
    with open(folder / "findings.csv", newline="", encoding="utf-8") as file:
        findings = list(csv.DictReader(file))
    assert findings
    assert len(findings) == len(record["findings"]) == labels.max()
    for row, finding in zip(findings, record["findings"], strict=True):
        assert int(row["rank"]) == finding["rank"]
        assert int(row["slice"]) == finding["slice"]
        pairs = [(row[k], finding[k]) for k in ("peak", "mean", "volume_ml")]
        for place in ("center", "peak"):
            pairs += [
                (row[f"{place}_{axis}"], x) for axis, x in zip("ras", finding[f"{place}_ras"], strict=True)
            ]
        for shown, exact in pairs:
            assert float(shown) == pytest.approx(exact, abs=0.0051)
        inside = scores[labels == finding["rank"]]
        assert inside.max() == pytest.approx(finding["peak"], rel=1e-5)
        assert inside.size * 0.064 == pytest.approx(finding["volume_ml"], rel=1e-5)
        assert inside.min() > record["threshold"]

    with open(folder / "slices.csv", newline="", encoding="utf-8") as file:
        slices = list(csv.DictReader(file))
    assert list(slices[0]) == ["slice", "peak", "mean", "weight_01", "weight_02"]
    assert [int(row["slice"]) for row in slices] == list(range(len(scores)))
    peaks = scores.reshape(len(scores), -1).max(axis=1)
    np.testing.assert_allclose([float(row["peak"]) for row in slices], peaks, atol=1e-4)
    for name in ("weight_01", "weight_02"):
        volume = sitk.GetArrayFromImage(
            sitk.ReadImage(str(folder / f"{name.replace('weight', 'weights')}.nrrd"))
        )
        np.testing.assert_allclose([float(row[name]) for row in slices], volume[:, 0, 0], atol=1e-4)
    highest = max(slices, key=lambda row: float(row["peak"]))
    assert abs(int(highest["slice"]) - record["findings"][0]["slice"]) <= 1
    means = {s["name"]: s["mean_weight"] for s in record["supports"]}
    assert sum(means.values()) == pytest.approx(1.0, abs=1e-5)


def test_the_record_says_what_went_in_and_no_paths(run, simulated) -> None:
    folder = run[0]
    text = (folder / "run.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["query"]["name"] == "query.nrrd"
    assert record["query"]["sha256"] == simulated.query.content_hash()
    assert [s["name"] for s in record["supports"]] == ["normal_1.nrrd", "normal_2.nrrd"]
    assert record["plane"] == "axial"
    assert record["options"]["align"] == "position"
    assert "not a diagnosis" in record["notice"]
    assert {"d24fad", "python", "torch"} <= record["versions"].keys()
    values = str(record).replace("\\", "/")
    for place in (simulated.query_file.parent, folder.parent, Path.home()):
        assert str(place).replace("\\", "/") not in values


def test_the_picture_shows_something(run) -> None:
    with Image.open(run[0] / "overview.png") as picture:
        assert picture.format == "PNG"
        assert 600 < picture.width < 3000
        assert 600 < picture.height < 4000
        pixels = np.asarray(picture.convert("L"), float)
    assert pixels.std() > 10


def test_the_segmentation_has_a_named_segment_for_each_finding(run) -> None:
    image = sitk.ReadImage(str(run[0] / "findings.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name") == "Finding 1"
    assert image.GetMetaData("Segment0_LabelValue") == "1"


def test_terminating_leaves_nothing(arguments, tmp_path: Path) -> None:
    words = arguments(tmp_path / "results", "--json", "--batch", "1")
    process = start(words, tmp_path)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if json.loads(line).get("step") == "compare":
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    last = json.loads((lines + out.splitlines())[-1])
    assert (last["event"], last["kind"]) == ("error", "cancelled")
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in err


def test_an_interruption_after_the_results_says_that_they_are_complete(
    arguments, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("D24FADLib.commands.detect.summarise", interrupted)
    assert main(arguments(tmp_path / "results", "--json")) == 130
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["kind"]) == ("error", "cancelled")
    assert last["text"] == f"cancelled when the results were complete: {tmp_path / 'results'}"
    assert (tmp_path / "results" / "run.json").is_file()


def test_a_json_error_is_the_last_line(arguments, tmp_path: Path, capsys) -> None:
    assert main(arguments(tmp_path / "results", "--json", query=tmp_path / "gone.nrrd")) == 2
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert (events[-1]["event"], events[-1]["kind"]) == ("error", "input")
    assert "gone.nrrd: no such file" in events[-1]["text"]
    assert err == ""


def test_overwrite_replaces_our_files_and_keeps_others(arguments, run, tmp_path: Path, capsys) -> None:
    output = tmp_path / "results"
    shutil.copytree(run[0], output)
    (output / "letter.txt").write_text("keep me")
    (output / "weights_09.nrrd").write_text("of an earlier run with nine references")
    assert main(arguments(output, "--overwrite", "--threshold", "1e6")) == 0
    assert {p.name for p in output.iterdir()} == {*FILES, "letter.txt"}
    assert (output / "letter.txt").read_text() == "keep me"
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert (record["threshold"], record["findings"]) == (1e6, [])
    assert (output / "findings.csv").read_text().count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["results"]
    assert "0 candidate findings above" in capsys.readouterr().out


PLANTED = {
    "PatientName": "Plantagenet^Zebulon",
    "PatientID": "PID-48151623",
    "PatientBirthDate": "19340217",
    "AccessionNumber": "ACC-7734621",
}


def test_a_patients_name_reaches_no_output(arguments, simulated, tmp_path: Path, capsys) -> None:
    series = tmp_path / "series"
    series.mkdir()
    array = np.asarray(simulated.query.array())
    for k, plane in enumerate(array):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.4.{k + 1}")
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = "1.2.3.4", "1.2.3", "MR"
        for keyword, value in PLANTED.items():
            setattr(ds, keyword, value)
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelSpacing, ds.SliceThickness, ds.InstanceNumber = [4, 4], 4, k + 1
        x, y, z = simulated.query.image.TransformIndexToPhysicalPoint((0, 0, k))
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [x, y, z]
        ds.PixelData = plane.astype("<i2").tobytes()
        ds.save_as(series / f"{k:03d}.dcm", enforce_file_format=True)
    output = tmp_path / "results"
    assert main(arguments(output, query=series)) == 0
    said = "".join(capsys.readouterr())
    written = {p.name: p.read_bytes() for p in output.iterdir()}
    assert written.keys() >= FILES
    for value in (v for planted in PLANTED.values() for v in planted.split("^")):
        assert value not in said
        assert [name for name, data in written.items() if value.encode() in data] == []
        for name in VOLUMES:  # what a reader of the file sees, decompressed
            image = sitk.ReadImage(str(output / name))
            assert value not in " ".join(image.GetMetaData(k) for k in image.GetMetaDataKeys())
    record = json.loads(written["run.json"])
    assert record["query"]["series_uid"] == "1.2.3.4"
    assert str(tmp_path) not in written["run.json"].decode()


def test_pictures_one_pixel_wide(arguments, tmp_path: Path, capsys) -> None:
    """Nothing can be outlined in one column; the page is drawn all the same."""
    pixels = np.random.default_rng(0).integers(90, 110, (3, 150, 1), np.uint8)
    pixels[0, 60:75] = 250
    for number, column in enumerate(pixels):
        Image.fromarray(column).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    words = arguments(tmp_path / "out", "--threshold", "0.5", query=paths[0], supports=paths[1:])
    assert main([*words, "--unsuitable-anyway"]) == 0, capsys.readouterr().err
    assert {"overview.png", "run.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_user_without_a_home(tmp_path: Path) -> None:
    """As in a container that runs as a bare number: nothing is kept, everything else works."""
    write = "import pwd\n\ndef nobody(number):\n    raise KeyError(number)\n\npwd.getpwuid = nobody\n"
    (tmp_path / "sitecustomize.py").write_text(write)
    bare = {k: v for k, v in ENVIRONMENT.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    bare["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{bare['PYTHONPATH']}"
    (tmp_path / "in").mkdir()
    for words, code, says in (
        (["info", "--json"], 0, '"folder": "/dev/null/d24fad"'),
        (["series", "in"], 0, "0 series"),
        (["train", "none", "--output", "model"], 2, "none: no such folder"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "D24FADLib", *words],
            cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert says in done.stdout + done.stderr


def test_a_cache_that_cannot_be_written_gets_no_trace(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data" / "train_normal").mkdir(parents=True)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "train_normal" / f"{number}.png")
    words = ["train", str(tmp_path / "data"), "--output", str(tmp_path / "model"), "--steps", "1"]
    assert main([*words, "--cache", str(tmp_path / "file"), "--accelerator", "cpu"]) == 2
    assert "file: File exists. Choose another place" in capsys.readouterr().err


def test_a_reader_that_leaves_early_gets_no_trace(tmp_path: Path) -> None:
    """As in `d24fad info | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "D24FADLib", "info"]
    done = subprocess.run(
        words, cwd=tmp_path, env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, timeout=120
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_info_lists_models_and_devices(capsys) -> None:
    from D24FADLib.inference.models import embedded_models

    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "models:" in out
    assert "cpu" in out
    assert main(["info", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    about = json.loads(lines[0])
    assert about["event"] == "result"
    assert [m["name"] for m in about["models"]] == embedded_models()
    assert about["devices"][-1] == "cpu"
    for model in about["models"]:
        assert model["name"] in out
