"""The worker's protocol, files, estimate and command line: no Slicer needed."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from D24FADLib.worker import nrrd
from D24FADLib.worker.commandline import DetectOptions, detect_arguments
from D24FADLib.worker.estimate import TimeLeft
from D24FADLib.worker.protocol import EventReader, Failed, Finished, Noise, Progress, Warned


def test_events_arrive_in_pieces():
    reader = EventReader()
    line = (
        json.dumps({"event": "progress", "step": "align", "done": 2, "total": 4, "text": "ä"}).encode()
        + b"\n"
    )
    assert reader.feed(line[:10]) == []
    assert reader.feed(line[10:] + b'{"event": "warning", "text": "w"}\n{"ev') == [
        Progress("align", 2, 4, "ä"),
        Warned("w"),
    ]
    assert reader.feed(b'ent": "error", "kind": "memory", "text": "no"}\n') == [Failed("memory", "no")]
    assert reader.feed(b'{"event": "result", "output": "x"}') == []
    assert reader.close() == [Finished({"output": "x"})]


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b'{"event": "progress", "done": "x"}',
        b'{"event": 3}',
        b"NaN",
        b"[" * 9000,
    ],
)
def test_nonsense_is_noise(line):
    (event,) = EventReader().feed(line + b"\n")
    assert isinstance(event, Noise)


def test_a_line_without_an_end_does_not_fill_the_memory():
    reader = EventReader()
    events = [event for _ in range(20) for event in reader.feed(b"x" * 1_000_000)]
    assert events == [Noise("a line without an end")]
    assert len(reader._rest) < 5_000_000
    assert reader.feed(b'\n{"event": "warning", "text": "w"}\n') == [Warned("w")]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_files_are_what_itk_reads_and_writes(tmp_path, dtype):
    random = np.random.default_rng(1)
    array = (100 * random.random((5, 6, 7))).astype(dtype)
    matrix = np.array([[-2, 0, 0, 10], [0, 0.6, -1.2, 3], [0, 0.8, 0.9, -4], [0, 0, 0, 1]], float)
    list(nrrd.write(tmp_path / "a.nrrd", array, matrix))
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    for index in ((0, 0, 0), (6, 5, 4)):
        place = np.array(image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index]))
        assert np.allclose(place * (-1, -1, 1), (matrix @ (*index, 1))[:3])
    for name, compressed in (("b.nrrd", False), ("c.nrrd", True)):
        sitk.WriteImage(image, str(tmp_path / name), compressed)
        header = nrrd.read_header(tmp_path / name)
        assert header.compressed is compressed
        assert np.allclose(header.ijk_to_ras, matrix)
        back = np.zeros(header.shape, np.float32)
        list(nrrd.read_into(tmp_path / name, header, back))
        assert np.allclose(back, array)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_off_is_refused(tmp_path, compressed):
    noise = np.random.default_rng(0).random((4, 40, 40)).astype(np.float32)
    path = tmp_path / "d.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), compressed)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(nrrd.NrrdError, match="cut off"):
        list(nrrd.read_into(path, nrrd.read_header(path), np.zeros(noise.shape, np.float32)))
    path.write_bytes(path.read_bytes()[:300] + b"?" * 9000)
    with pytest.raises(nrrd.NrrdError):
        list(nrrd.read_into(path, nrrd.read_header(path), np.zeros(noise.shape, np.float32)))


def test_time_left_is_told_once_the_pace_is_known():
    left = TimeLeft()
    assert left.update("compare", 0, 10, 0.0) is None
    assert left.update("compare", 1, 10, 5.0) is None  # start-up, not pace
    assert left.update("compare", 2, 10, 5.5) is None
    assert left.update("compare", 4, 10, 8.0) == pytest.approx(6.0)
    assert left.update("write", 1, 2, 8.1) is None


def test_time_left_counts_the_steps_to_come():
    from D24FADLib.worker.estimate import TimeLeft

    left = TimeLeft({"align": 30, "compare": 60, "write": 10})
    for done in range(1, 4):
        left.update("align", done, 10, now=float(done))
    # Six units of a second are left of this step, and steps 7/3 as long as its ten seconds come after it.
    assert left.update("align", 4, 10, now=4.0) == pytest.approx(6 + 10 * 70 / 30)
    for done in range(1, 4):
        left.update("write", done, 10, now=10.0 + done)
    assert left.update("write", 4, 10, now=14.0) == pytest.approx(6)
    assert left.update("other", 1, 10, now=20.0) is None


def test_the_command_line_says_only_what_was_chosen():
    plain = detect_arguments("q.nrrd", ["a", "b"], "out", DetectOptions())
    assert plain[:4] == ["-m", "D24FADLib.worker", "detect", "q.nrrd"]
    always = ["--uncompressed", "--overwrite", "--json"]
    assert plain[4:] == ["--output", "out", "--support", "a", "--support", "b", *always]
    chosen = detect_arguments("q", ["a"], "o", DetectOptions("coronal", "rigid", "cpu", "m.pt", 4, 2.5, 0.5))
    for pair in (
        ["--plane", "coronal"],
        ["--align", "rigid"],
        ["--device", "cpu"],
        ["--batch", "4"],
        ["--threshold", "2.5"],
        ["--false-positives-per-study", "0.5"],
    ):
        assert " ".join(pair) in " ".join(chosen)


def test_the_detectors_command_knows_all_that_the_panel_may_ask_of_it():
    from D24FADLib.cli import build_parser

    asked = DetectOptions("coronal", "rigid", "cpu", "m", 4, 2.5, 0.5, True, True)
    arguments = detect_arguments("q", ["a", "b"], "o", asked)
    parsed = build_parser().parse_args(arguments[2:])
    assert (parsed.query, parsed.support, parsed.plane, parsed.batch) == ("q", ["a", "b"], "coronal", 4)
    assert (parsed.drop_outliers, parsed.unsuitable_anyway, parsed.uncompressed) == (True, True, True)
    assert (parsed.false_positives_per_study, parsed.json, parsed.overwrite) == (0.5, True, True)
