"""Makes the checkout and the test host importable; skips where slicer-core or PySide6 is not installed."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT, ROOT / "D24FAD", ROOT / "Testing" / "Host", ROOT / "Testing" / "Unit" / "dicom")
for folder in FOLDERS:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

if importlib.util.find_spec("slicer") is None or importlib.util.find_spec("PySide6") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from d24fadhost.fixtures import *  # noqa: F403
