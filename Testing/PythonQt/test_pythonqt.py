"""`python -m pytest Testing/PythonQt`: the story, where `build.sh` has built the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "build" / "pythonqt-host"


@pytest.mark.skipif(not PROGRAM.exists(), reason="build.sh has not built it")
def test_the_panel_in_a_real_pythonqt():
    environment = {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("site-packages")),
        "D24FAD_STORY_FOLDER": str(HERE),
        "D24FAD_STORY_PYTHON": sys.executable,
    }
    command = [PROGRAM, HERE / "story.py"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    assert told.stdout.rstrip().endswith("passed"), told.stdout + told.stderr[-3000:]
