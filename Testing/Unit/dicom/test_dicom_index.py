"""Indexing folders: what is good is listed, what is bad is named once, nothing is read twice."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import SAGITTAL, SeriesSpec, multiframe, phantom, reread, write_series

from D24FADLib.commands import series as series_command
from D24FADLib.commands.progress import JsonReporter, TerminalReporter
from D24FADLib.dicom.index import default_index, index_folder
from D24FADLib.dicom.library import open_library
from D24FADLib.errors import Cancelled, InputError, OutputError
from D24FADLib.reading import read_study
from D24FADLib.references.traits import traits_of_plain
from D24FADLib.worker.commandline import series_arguments
from D24FADLib.worker.protocol import Finished, Progress, parse

pydicom = pytest.importorskip("pydicom")


def mixed_folder(folder: Path) -> dict[str, SeriesSpec]:
    """Two patients, three studies, four series, and things that are no images."""
    first = SeriesSpec(phantom(6))
    other_series = SeriesSpec(phantom(4), study_uid=first.study_uid, orientation=SAGITTAL)
    earlier = SeriesSpec(phantom(5), modality="CT")
    stranger = SeriesSpec(phantom(3), phi={"PatientName": "Other^One", "PatientID": "X2"})
    specs = {"a": first, "b": other_series, "c": earlier, "d": stranger}
    for name, spec in specs.items():
        write_series(folder / "deep" / name, spec)
    (folder / "readme.txt").write_text("hello")
    (folder / "empty").write_bytes(b"")
    return specs


def test_patients_studies_and_series(tmp_path: Path) -> None:
    specs = mixed_folder(tmp_path / "in")
    catalog = index_folder(tmp_path / "in", ":memory:")
    assert (catalog.patients, catalog.studies, len(catalog.series)) == (2, 3, 4)
    for name, spec in specs.items():
        entry = catalog.find(spec.series_uid)
        assert entry.slices == len(spec.voxels)
        assert entry.modality == spec.modality
        assert np.array_equal(entry.read().volume.array(), spec.voxels), name
    assert catalog.find(specs["b"].series_uid).traits().plane == "sagittal"
    assert sorted(str(p) for p in catalog.problems) == [
        "empty: not a DICOM file",
        "readme.txt: not a DICOM file",
    ]


def test_nothing_is_read_again_when_nothing_changed(tmp_path: Path) -> None:
    specs = mixed_folder(tmp_path / "in")
    index = tmp_path / "cache" / "index.sqlite"
    first = index_folder(tmp_path / "in", index)
    assert first.files_read == first.files_known == 20
    again = index_folder(tmp_path / "in", index)
    assert (again.files_read, again.files_known) == (0, 20)
    assert again.series == first.series
    assert again.problems == first.problems
    changed = tmp_path / "in" / "deep" / "a" / "img000.dcm"
    reread(changed, lambda ds: setattr(ds, "SeriesDescription", "changed"))
    os.utime(changed, ns=(1, 1))
    (tmp_path / "in" / "deep" / "d" / "img002.dcm").unlink()
    third = index_folder(tmp_path / "in", index)
    assert (third.files_read, third.files_known) == (1, 19)
    assert third.find(specs["a"].series_uid).description == "changed"
    assert third.find(specs["d"].series_uid).slices == 2


def test_the_index_is_the_users_alone_and_names_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_series(tmp_path / "in", SeriesSpec(phantom(3)))
    before = os.umask(0)
    try:
        index_folder(tmp_path / "in")
    finally:
        os.umask(before)
    path = default_index(tmp_path / "in")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    for planted in (b"Quillfeather", b"quillfeather", b"PID7734921", b"19310417", b"ACC5582013"):
        assert planted not in content


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    write_series(tmp_path / "in", SeriesSpec(phantom(40, 4, 4)))
    index = tmp_path / "index.sqlite"
    expected = index_folder(tmp_path / "in", index).series
    content = bytearray(index.read_bytes())
    content[4000:] = b"\xa5" * (len(content) - 4000)
    index.write_bytes(content)
    again = index_folder(tmp_path / "in", index)
    assert again.series == expected
    assert again.files_read == 40
    assert index_folder(tmp_path / "in", index).files_read == 0
    assert stat.S_IMODE(index.stat().st_mode) == 0o600


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "in", SeriesSpec(phantom(3)))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [entry.slices for entry in open_library(tmp_path / "in").series] == [3]
    with pytest.raises(OutputError, match="the index cannot be written"):
        open_library(tmp_path / "in", tmp_path / "file" / "index.sqlite")


def test_another_programs_file_is_never_taken_for_an_index(tmp_path: Path) -> None:
    write_series(tmp_path / "in", SeriesSpec(phantom(3)))
    letter = tmp_path / "letter.txt"
    letter.write_text("important, " * 50)
    database = tmp_path / "other.sqlite"
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE files (important)")
    other.close()
    for path in (letter, database):
        before = path.read_bytes()
        with pytest.raises(OutputError, match="is no index"):
            index_folder(tmp_path / "in", path)
        assert path.read_bytes() == before


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    from D24FADLib.dicom import scan

    mixed_folder(tmp_path / "in")
    alone = index_folder(tmp_path / "in", ":memory:", workers=1)
    before, scan._PARALLEL_FROM = scan._PARALLEL_FROM, 1
    try:
        together = index_folder(tmp_path / "in", ":memory:", workers=2)
    finally:
        scan._PARALLEL_FROM = before
    key = [(e.uid, e.files, e.slices) for e in alone.series]
    assert sorted(key) == sorted((e.uid, e.files, e.slices) for e in together.series)
    assert alone.problems == together.problems


def test_a_file_that_ends_its_reader_costs_that_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies of one path, as of a decoder's crash, is replaced."""
    from D24FADLib.dicom import scan

    paths = [str(p) for p in write_series(tmp_path, SeriesSpec(phantom(12)))]
    code = (
        "import os, sys\nfrom D24FADLib.dicom import scan\nkeep = scan.row_of\n"
        "scan.row_of = lambda p, s: os._exit(9) if 'img005' in p else keep(p, s)\nsys.exit(scan.main())"
    )
    monkeypatch.setattr(scan, "_COMMAND", [sys.executable, "-c", code])
    rows = dict(scan._scan_parallel(paths, b"salt", 2))
    assert set(rows) == set(paths)
    assert [Path(path).name for path, row in rows.items() if row.problem] == ["img005.dcm"]


def test_progress_and_stop(tmp_path: Path) -> None:
    write_series(tmp_path / "in", SeriesSpec(phantom(120, 4, 4)))
    seen: list[tuple[int, int]] = []
    index_folder(tmp_path / "in", ":memory:", lambda done, total: seen.append((done, total)))
    assert seen == [(50, 120), (100, 120), (120, 120)]
    with pytest.raises(Cancelled):
        index_folder(tmp_path / "in", tmp_path / "i.sqlite", lambda done, total: False)
    resumed = index_folder(tmp_path / "in", tmp_path / "i.sqlite")
    assert resumed.files_read == 70


def test_bad_files_are_named_once_with_their_reason(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom(12)))
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    paths[1].write_bytes(paths[1].read_bytes()[:300])

    def with_value(path: Path, keyword: str, value: object) -> None:
        with pydicom.config.disable_value_validation():
            reread(path, lambda ds: setattr(ds, keyword, value))

    with_value(paths[2], "SeriesInstanceUID", "../../etc/passwd")
    with_value(paths[3], "SOPInstanceUID", "/tmp/x")
    reread(paths[4], lambda ds: delattr(ds, "PixelData"))
    with_value(paths[5], "Rows", 4000)
    with_value(paths[6], "StudyInstanceUID", "1." + "2" * 80)
    catalog = index_folder(tmp_path, ":memory:")
    reasons = {p.shown: p.reason for p in catalog.problems}
    assert "cut off" in reasons["img000.dcm"]
    assert "img001.dcm" in reasons
    assert "SeriesInstanceUID is not a UID" in reasons["img002.dcm"]
    assert "SOPInstanceUID is not a UID" in reasons["img003.dcm"]
    assert "without pixel data" in reasons["img004.dcm"]
    assert "shorter than rows" in reasons["img005.dcm"]
    assert "StudyInstanceUID is not a UID" in reasons["img006.dcm"]
    assert "passwd" not in str(catalog.problems)
    (entry,) = catalog.series
    assert len(entry.files) == 5


def test_many_other_files_are_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesSpec(phantom(3)))
    for n in range(50):
        (tmp_path / f"note{n}.txt").write_text("x")
    (problem,) = index_folder(tmp_path, ":memory:").problems
    assert problem.files == 50


def test_files_without_series_uid_can_still_be_asked_for(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesSpec(phantom(4), edit=lambda ds, k: setattr(ds, "SeriesInstanceUID", "")))
    catalog = index_folder(tmp_path, ":memory:")
    assert catalog.read().volume.size[2] == 4
    assert catalog.series[0].uid == index_folder(tmp_path, ":memory:").series[0].uid
    assert any("without a SeriesInstanceUID" in p.reason for p in catalog.problems)


def test_two_patients_with_one_series_uid_are_kept_apart(tmp_path: Path) -> None:
    one = SeriesSpec(phantom(3))
    write_series(tmp_path / "a", one)
    write_series(
        tmp_path / "b",
        SeriesSpec(phantom(4), series_uid=one.series_uid, phi={"PatientID": "Z9", "PatientName": "Z^Z"}),
    )
    catalog = index_folder(tmp_path, ":memory:")
    assert sorted(e.slices for e in catalog.series) == [3, 4]
    assert any("claimed by 2" in p.reason for p in catalog.problems)
    assert not any("not used" in note for note in catalog.notes())
    with pytest.raises(InputError, match="2 patients or studies claim series"):
        catalog.read(one.series_uid)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Åsa^Ö"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 6", "Ж"),
        ("NOT_A_CHARSET", "Ж"),
    ],
)
def test_unusual_character_sets(tmp_path: Path, charset: object, name: str) -> None:
    def edit(ds: pydicom.Dataset, k: int) -> None:
        ds.PatientName = name
        ds.SpecificCharacterSet = "ISO_IR 192"

    paths = write_series(tmp_path, SeriesSpec(phantom(3), edit=edit))
    for path in paths:  # the name's bytes stay UTF-8, whatever the header now claims
        raw = path.read_bytes()
        claimed = "\\".join(charset) if isinstance(charset, list) else str(charset)
        path.write_bytes(raw.replace(b"ISO_IR 192", claimed.encode().ljust(10)[:10]))
    catalog = index_folder(tmp_path, ":memory:")
    assert catalog.series[0].slices == 3


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes exist on Linux")
def test_descriptions_in_other_alphabets_are_shown_whole(tmp_path: Path) -> None:
    spec = SeriesSpec(
        phantom(3), tags={"SpecificCharacterSet": "ISO_IR 144", "SeriesDescription": "Голова Т1"}
    )
    write_series(tmp_path, spec)
    (entry,) = index_folder(tmp_path, ":memory:").series
    assert entry.description == "Голова Т1"


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom(3)))
    os.rename(paths[0], os.fsencode(tmp_path) + b"/\xff\xfe.dcm")
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "wb") as stream:
        stream.write(b"x")
    catalog = index_folder(tmp_path, tmp_path / "i.sqlite")
    assert catalog.read().volume.size[2] == 3
    for problem in catalog.problems:
        str(problem).encode("utf-8")


def test_dicomdir(tmp_path: Path) -> None:
    from pydicom.fileset import FileSet

    paths = write_series(tmp_path / "plain", SeriesSpec(phantom(4)))
    files = FileSet()
    for path in paths:
        files.add(path)
    files.write(tmp_path / "media")
    catalog = open_library(tmp_path / "media" / "DICOMDIR", ":memory:")
    assert catalog.read().volume.size[2] == 4
    victim = next(p for p in (tmp_path / "media").rglob("*") if p.is_file() and p.name != "DICOMDIR")
    victim.unlink()
    catalog = open_library(tmp_path / "media" / "DICOMDIR", ":memory:")
    assert any(p.reason == "lists 1 file that is not there" for p in catalog.problems)


def slicer_database(path: Path, files: list[Path], relative_to: Path | None = None) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE Images (SOPInstanceUID, Filename, SeriesInstanceUID, InsertTimestamp);"
            "CREATE TABLE Series (SeriesInstanceUID, StudyInstanceUID); CREATE TABLE Studies "
            "(StudyInstanceUID);"
            "CREATE TABLE Patients (UID, PatientsName);"
        )
        for file in files:
            ds = pydicom.dcmread(file, stop_before_pixels=True)
            shown = file.relative_to(relative_to) if relative_to else file
            row = (ds.SOPInstanceUID, str(shown), ds.SeriesInstanceUID, "")
            database.execute("INSERT INTO Images VALUES (?, ?, ?, ?)", row)
    database.close()


@pytest.mark.parametrize("relative", [False, True])
def test_slicers_own_database_is_read_and_left_alone(tmp_path: Path, relative: bool) -> None:
    paths = write_series(tmp_path / "db" / "dicom", SeriesSpec(phantom(5)))
    database = tmp_path / "db" / "ctkDICOM.sql"
    slicer_database(database, paths, tmp_path / "db" if relative else None)
    before = (database.read_bytes(), sorted(p.name for p in database.parent.iterdir()))
    database.chmod(0o400)
    catalog = open_library(database, ":memory:")
    assert np.array_equal(catalog.read().volume.array(), phantom(5))
    assert (database.read_bytes(), sorted(p.name for p in database.parent.iterdir())) == before
    study = read_study(database)
    assert study.volume.size[2] == 5
    assert study.notes == ()
    assert sorted(study.dicom_files) == sorted(map(str, paths))


def test_what_is_no_database_or_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "x.sql").write_text("no")
    with pytest.raises(InputError, match="not Slicer's DICOM database"):
        open_library(tmp_path / "x.sql")
    with pytest.raises(InputError, match="no such folder"):
        open_library(tmp_path / "absent")
    with pytest.raises(InputError, match="no DICOM images"):
        open_library(tmp_path, ":memory:").read()
    write_series(tmp_path / "two" / "a", SeriesSpec(phantom(3)))
    write_series(tmp_path / "two" / "b", SeriesSpec(phantom(3)))
    catalog = open_library(tmp_path / "two", ":memory:")
    with pytest.raises(InputError, match="Choose one by its UID"):
        catalog.read()
    with pytest.raises(InputError, match=r"holds no series 1\.2\.3"):
        catalog.read("1.2.3")
    with pytest.raises(InputError, match="holds no series of that name"):
        catalog.read("../../x")


def test_the_command_lists_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = mixed_folder(tmp_path / "in")
    multiframe(SeriesSpec(phantom(5), modality="CT"), tmp_path / "in" / "enhanced.dcm")
    parser = argparse.ArgumentParser()
    series_command.add_parser(parser.add_subparsers())
    query = specs["a"].series_uid
    args = parser.parse_args(["series", str(tmp_path / "in"), "--json", "--no-index", "--query", query])
    assert args.run(args, TerminalReporter()) == 0
    listed = json.loads(capsys.readouterr().out)
    by_uid = {entry["series_uid"]: entry for entry in listed["series"]}
    assert (listed["patients"], listed["studies"], len(by_uid)) == (2, 4, 5)
    entry = by_uid[query]
    assert (entry["modality"], entry["slices"], entry["spacing_mm"]) == ("MR", 6, [0.8, 0.9, 2.0])
    assert (entry["sequence"], entry["plane"], entry["suitable"]) == ("T1", "axial", "ok")
    assert entry["as_reference"]["reasons"][0].startswith("it is the study itself")
    assert by_uid[specs["c"].series_uid]["as_reference"]["suitable"] == "refuse"
    args = parser.parse_args(["series", str(tmp_path / "in"), "--no-index"])
    assert args.run(args, TerminalReporter()) == 0
    out, err = capsys.readouterr()
    assert "2 patients, 4 studies, 5 series" in out
    assert "readme.txt: not a DICOM file" in err
    for planted in ("Quillfeather", "PID7734921", "19310417", "ACC5582013"):
        assert planted not in out + err


def test_an_application_is_told_of_the_series_in_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SeriesSpec(phantom(60))
    write_series(tmp_path / "in", spec)
    (tmp_path / "in" / "readme.txt").write_text("x")
    parser = argparse.ArgumentParser()
    series_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(series_arguments(str(tmp_path / "in"))[2:])
    assert args.run(args, JsonReporter()) == 0
    *progress, found = [parse(line) for line in capsys.readouterr().out.encode().splitlines()]
    text = "Reading headers"
    assert progress == [Progress("index", 50, 61, text), Progress("index", 61, 61, text)]
    assert isinstance(found, Finished)
    assert found.summary["count"] == 1
    (told,) = found.summary["series"]
    entry = open_library(tmp_path / "in", ":memory:").only()
    assert told["series_uid"] == entry.uid == spec.series_uid
    assert traits_of_plain(told["traits"]) == entry.traits()


def test_identity_in_free_text_and_file_names_is_withheld(tmp_path: Path) -> None:
    def edit(ds: pydicom.Dataset, k: int) -> None:
        ds.SeriesDescription = "T1 Quillfeather axial"
        ds.ContrastBolusAgent = "for PID7734921"

    folder = tmp_path / "Quillfeather_Zebulon"
    paths = write_series(folder, SeriesSpec(phantom(3), edit=edit))
    broken = folder / "zebulon-1.dcm"
    broken.write_bytes(paths[0].read_bytes()[:-50])
    catalog = index_folder(folder, ":memory:")
    shown = " ".join(
        [catalog.name, *map(str, catalog.problems), json.dumps(series_command.as_plain(catalog, {}))]
    )
    for planted in ("uillfeather", "ebulon", "PID7734921"):
        assert planted not in shown
    assert catalog.problems[0].reason.startswith("cut off")
