"""A sample of Testing/Benchmarks/fuzz_dicom.py: damaged files end in success or a clean error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("highdicom", reason="highdicom is not installed (d24fad[dicom])")
pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed (d24fad[dicom])")

ROOT = Path(__file__).resolve().parents[3]
CASES = 200
GOOD = {"read", "read and exported", "read, headers not inherited", "refused", "listed only"}


def test_damaged_files_end_well_or_in_a_clean_error(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "Testing" / "Benchmarks"))
    try:
        import fuzz_dicom
    finally:
        sys.path.pop(0)
    series = fuzz_dicom.seeds(tmp_path / "seeds", None)
    runner = fuzz_dicom.Worker()
    try:
        ends = [runner.run(7_000_000 + n, series[n % len(series)], tmp_path / "case") for n in range(CASES)]
    finally:
        runner.close()
    assert [end for end in ends if end not in GOOD] == []
    assert ends.count("read") > CASES // 10
    assert "refused" in ends
