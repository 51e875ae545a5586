"""What can go wrong with a worker, its volumes and its files: one clear message, and nothing left behind."""

import gc
import json
import os
import sys
import time

import pytest
from d24fadhost.fixtures import WORKER, alive, behaving, left_in


class Told:
    """The callbacks of a run, noted."""

    def __init__(self):
        self.ended, self.problem, self.warnings, self.progress = [], None, [], []

    def onProgress(self, *said):
        self.progress.append(said)

    def onWarning(self, text):
        self.warnings.append(text)

    def onResults(self, found):
        pass

    def onFinished(self):
        self.ended.append("finished")

    def onFailed(self, problem):
        self.ended.append("failed")
        self.problem = problem

    def onCancelled(self):
        self.ended.append("cancelled")


@pytest.fixture
def ready(logic, volumes):
    query, references = volumes.study()
    logic.setQuery(query)
    for node in references:
        logic.addReferenceNode(node)
    return logic


def run(logic, host, mode, seconds=20):
    logic.workerArguments = behaving(mode)
    told = Told()
    logic.startDetection(told)
    assert host.process_events(seconds, until=lambda: not logic.isRunning())
    return told


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("kill", "crash", "smaller batch"),
        ("segfault", "crash", "CPU"),
        ("nonsense", "nonsense", "without a result"),
        ("refuse", "input", "Normal 1: nothing in it but air."),
        ("cut", "output", "anomaly_map.nrrd is cut off"),
    ],
)
def test_a_worker_gone_wrong_gives_one_clear_message(ready, host, temp, quiet_log, mode, kind, says):
    import slicer

    before = slicer.mrmlScene.GetNumberOfNodes()
    told = run(ready, host, mode)
    assert told.ended == ["failed"]
    assert told.problem.kind == kind
    assert says in told.problem.text
    assert left_in(temp) == []
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    # The module stays usable.
    assert run(ready, host, "well").ended == ["finished"]


def test_a_python_that_cannot_be_started(ready, host, temp, quiet_log, monkeypatch):
    from D24FADParts import workerprocess

    monkeypatch.setattr(workerprocess, "pythonExecutable", lambda: "/no/such/python")
    told = run(ready, host, "well")
    assert told.ended == ["failed"]
    assert "could not be started" in told.problem.text
    assert left_in(temp) == []


LAUNCHER = """#!{python}
import subprocess, sys
ended = subprocess.run([{python!r}, *sys.argv[1:]]).returncode
if ended < 0:
    print("error: [{python}] exit abnormally - Report the problem.", file=sys.stderr)
sys.exit(1 if ended < 0 else ended)
"""


@pytest.mark.parametrize(
    ("mode", "kind"), [("kill", "crash"), ("segfault", "crash"), ("nonsense", "nonsense"), ("well", None)]
)
def test_a_worker_behind_a_launcher(ready, host, temp, quiet_log, monkeypatch, tmp_path, mode, kind):
    """PythonSlicer is one: whatever Python dies of, its own exit code is 1."""
    from D24FADParts import workerprocess

    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o700)
    monkeypatch.setattr(workerprocess, "pythonExecutable", lambda: str(launcher))
    told = run(ready, host, mode)
    assert told.ended == (["failed"] if kind else ["finished"])
    assert (told.problem and told.problem.kind) == kind
    assert kind != "crash" or "memory" in told.problem.text
    assert left_in(temp) == []


def test_memory_is_tried_again_with_half_the_batch(ready, host, temp):
    ready.setOption("Batch", 12)
    told = run(ready, host, "batch:3")
    assert told.ended == ["finished"]
    assert [text.rpartition(" ")[2] for text in told.warnings] == ["6.", "3."]
    told = run(ready, host, "memory")
    assert told.ended == ["failed"]
    assert told.problem.kind == "memory"
    assert [text.rpartition(" ")[2] for text in told.warnings] == ["6.", "3.", "1."]
    assert "CPU" in told.problem.text
    assert left_in(temp) == []


@pytest.mark.parametrize("mode", ["hang", "stubborn", "family", "slow:0.2"])
def test_cancel_ends_the_whole_tree_within_a_second(ready, host, temp, quiet_log, mode):
    ready.workerArguments = behaving(mode)
    told = Told()
    started = ready.startDetection(told)
    assert host.process_events(10, until=lambda: told.progress and told.progress[-1][1] == "compare")
    host.process_events(0.5)
    pids = set(started.pids)
    child = [int(line.split()[1]) for line in started._worker.tail.splitlines() if line.startswith("child")]
    pids.update(child)
    assert len(child) == (mode == "family")
    assert all(alive(pid) for pid in pids)
    start = time.monotonic()
    ready.cancelDetection()
    assert host.process_events(3, until=lambda: not any(map(alive, pids)) and told.ended == ["cancelled"])
    took = time.monotonic() - start
    print(f"cancel ({mode}): {took:.2f} s")
    assert took < 1.0
    assert left_in(temp) == []


def test_cancel_while_volumes_are_written(ready, host, temp):
    told = Told()
    ready.startDetection(told)
    ready.cancelDetection()
    assert told.ended == ["cancelled"]
    assert left_in(temp) == []


def test_a_worker_that_falls_silent_is_ended(ready, host, temp):
    ready.workerArguments = behaving("hang")
    told = Told()
    started = ready.startDetection(told)
    started.quietSeconds, started.silentSeconds = 0.6, 1.6
    assert host.process_events(10, until=lambda: told.ended)
    assert told.problem.kind == "silent"
    assert "gave no sign of life" in told.problem.text
    assert any(said[1] == "quiet" for said in told.progress)
    assert left_in(temp) == []


@pytest.mark.parametrize("what", ["query", "reference", "scene", "result of the run before"])
def test_what_is_needed_goes_away_during_a_run(ready, host, temp, quiet_log, what):
    import slicer

    assert run(ready, host, "well").ended == ["finished"]
    ready.workerArguments = behaving("slow:0.1")
    told = Told()
    started = ready.startDetection(told)
    assert host.process_events(10, until=lambda: told.progress and told.progress[-1][1] == "compare")
    pids = set(started.pids)
    if what == "scene":
        slicer.mrmlScene.Clear(False)
    elif what == "query":
        slicer.mrmlScene.RemoveNode(ready.query())
    elif what == "reference":
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("Normal 2"))
    else:
        slicer.mrmlScene.RemoveNode(ready.results().node("Map"))
    assert host.process_events(10, until=lambda: told.ended)
    if what.startswith("result"):
        assert told.ended == ["finished"]
    else:
        assert told.ended == ["failed"]
        assert told.problem.kind == "gone"
        assert "was" in told.problem.text
    assert host.process_events(2, until=lambda: not any(map(alive, pids)))
    assert left_in(temp) == []


def test_a_reference_deleted_before_the_run_is_named(ready, host):
    import slicer

    from D24FADLib.errors import InputError

    slicer.mrmlScene.RemoveNode(slicer.util.getNode("Normal 2"))
    with pytest.raises(InputError, match="Normal 2"):
        ready.startDetection(Told())


@pytest.mark.parametrize("mode", ["well", "cut", "cancel"])
def test_a_run_that_is_over_keeps_no_volume(ready, host, mode):
    """Qt keeps what a signal calls as long as the object lives whose signal it is."""
    import slicer
    from D24FADParts.run import Run
    from D24FADParts.steps import Steps
    from D24FADParts.workerprocess import WorkerProcess

    def running():
        return [thing for thing in gc.get_objects() if isinstance(thing, (Run, Steps, WorkerProcess))]

    gc.collect()
    before = running()  # of the tests before this one
    gone = []

    def watch(name, thing):
        thing.AddObserver("DeleteEvent", lambda *_: gone.append(name))

    watch("query", ready.query())
    ready.showResults = lambda: None  # a view's pipeline keeps what it has drawn
    if mode == "cancel":
        ready.workerArguments = behaving("hang")
        told = Told()
        ready.startDetection(told)
        assert host.process_events(10, until=lambda: told.progress and told.progress[-1][1] == "compare")
        ready.cancelDetection()
        assert host.process_events(5, until=lambda: told.ended)
    else:
        run(ready, host, mode)
    if mode == "well":
        watch("map", ready.results().node("Map").GetImageData())
        watch("weight", ready.results().weightNodes()[0].GetImageData())
    slicer.mrmlScene.Clear(False)
    assert host.process_events(2, until=lambda: gc.collect() is not None and "query" in gone)
    assert set(gone) == ({"query", "map", "weight"} if mode == "well" else {"query"})
    before.append(ready.currentRun())
    assert [thing for thing in running() if all(thing is not other for other in before)] == []


def test_starting_twice_starts_one(ready, host, temp):
    ready.workerArguments = behaving("slow:0.02")
    told, again = Told(), Told()
    first = ready.startDetection(told)
    assert ready.startDetection(again) is first
    assert len(left_in(temp)) == 1
    assert host.process_events(10, until=lambda: told.ended)
    assert told.ended == ["finished"]
    assert again.ended == []


def test_leaving_the_module_leaves_no_process_and_no_file(ready, host, temp):
    ready.workerArguments = behaving("stubborn")
    told = Told()
    started = ready.startDetection(told)
    assert host.process_events(10, until=lambda: told.progress and told.progress[-1][1] == "compare")
    pids = set(started.pids)
    ready.abandonDetection()
    assert host.process_events(2, until=lambda: not any(map(alive, pids)))
    assert left_in(temp) == []
    assert told.ended == []


def test_folders_of_a_crashed_slicer_are_removed_by_the_next_run(ready, host, temp):
    (temp / "d24fad-run-999999999-abc").mkdir()
    (temp / "d24fad-run-999999999-abc" / "query.nrrd").write_bytes(b"x")
    (temp / "other").mkdir()
    run(ready, host, "well")
    assert left_in(temp) == ["other"]


def test_no_names_reach_the_temporary_folder_or_the_log(ready, host, temp, caplog):
    ready.query().SetName("DOE^JANE 19501224")
    ready.workerArguments = behaving("slow:0.05")
    told = Told()
    with caplog.at_level("DEBUG"):
        ready.startDetection(told)
        host.process_events(10, until=lambda: told.progress and told.progress[-1][1] == "compare")
        files = [path for path in temp.rglob("*") if path.is_file()]
        assert {path.name for path in files} >= {"query.nrrd", "support_01.nrrd", "support_02.nrrd"}
        for path in files:
            content = path.read_bytes()
            assert b"DOE" not in content
            assert b"Normal" not in content
        host.process_events(10, until=lambda: told.ended)
    assert "DOE" not in caplog.text
    assert "Normal" not in caplog.text


def test_a_full_disk_is_said_before_anything_is_written(ready, temp, monkeypatch):
    from D24FADLib.errors import OutputError
    from D24FADLib.worker.folder import RunFolder

    monkeypatch.setattr(RunFolder, "free_bytes", lambda self: 1000)
    with pytest.raises(OutputError, match="free"):
        ready.startDetection(Told())
    assert left_in(temp) == []


@pytest.mark.parametrize("place", ["gone", "file"])
def test_a_temporary_folder_that_cannot_be_used_is_said(ready, host, temp, tmp_path, place):
    from D24FADLib.errors import OutputError

    (tmp_path / "file").write_text("no folder")
    ready.tempFolder = str(tmp_path / place)
    with pytest.raises(OutputError, match="temporary folder cannot be used"):
        ready.startDetection(Told())
    assert not ready.isRunning()
    assert left_in(temp) == []
    ready.tempFolder = str(temp)
    ready.detect()
    assert ready.results().exist


def test_the_supervised_worker_ends_with_the_application(tmp_path):
    """`python -m D24FADLib.worker`: leads its own group, says its id, and ends when its input closes."""
    import subprocess
    import sys

    from d24fadhost.fixtures import ROOT

    from D24FADLib.worker.folder import RunFolder

    (tmp_path / "D24FADLib").mkdir()
    fake = tmp_path / "D24FADLib"
    for name in ("__init__.py", "errors.py", "windows.py"):
        (fake / name).write_text((ROOT / "D24FADLib" / name).read_text())
    (fake / "worker").symlink_to(ROOT / "D24FADLib" / "worker")
    (fake / "cli.py").write_text("import time\ndef main(arguments):\n    time.sleep(60)\n")
    folder = RunFolder(tmp_path)
    folder.query.write_bytes(b"x")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "D24FAD_RUN_FOLDER": str(folder.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "D24FADLib.worker", "detect"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    process.stdin.write(b"hold\n")
    process.stdin.flush()
    event = json.loads(process.stdout.readline())
    assert event == {"event": "started", "pid": process.pid}
    assert os.getpgid(process.pid) == process.pid
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    process.wait(3)
    process.stdout.close()
    assert not folder.path.exists()  # nobody else is left to remove the volumes
    assert WORKER.exists()
