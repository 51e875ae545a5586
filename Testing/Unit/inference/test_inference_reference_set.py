"""Reference sets kept between studies: what they give, who can read them, what becomes of damaged ones."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from D24FADLib.imaging.planes import Plane
from D24FADLib.inference import reference_set
from D24FADLib.inference.cache import references_folder, size_of, trim
from D24FADLib.inference.detection import Detection
from D24FADLib.inference.detector import detect


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return references_folder()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that sets were made in."""
    folders: list[Path] = []
    make = reference_set._make
    monkeypatch.setattr(
        reference_set, "_make", lambda folder, *rest: (folders.append(folder), make(folder, *rest))
    )
    return folders


@pytest.fixture
def kept(simulated, options):
    def run(query=simulated.query, supports=simulated.supports, **changes) -> Detection:
        return detect(query, supports, options(plane=Plane.AXIAL, reference_cache=True), **changes)

    return run


def test_a_second_study_uses_what_the_first_made(simulated, kept, cache: Path, made: list[Path]) -> None:
    first = kept()
    assert len(made) == 1
    again = kept()
    other = kept(simulated.mirrored)
    assert len(made) == 1
    np.testing.assert_array_equal(first.anomaly_map.array(), again.anomaly_map.array())
    assert first.findings == again.findings
    assert not np.array_equal(other.anomaly_map.array(), first.anomaly_map.array())


def test_what_the_set_depends_on_makes_another(simulated, kept, cache: Path, made: list[Path]) -> None:
    kept(supports=simulated.supports[:2])
    kept(supports=simulated.supports[1:])
    kept(supports=simulated.supports[:2], plane="coronal")
    assert len(made) == 3


def test_the_maps_are_those_of_the_studys_own_grid(simulated, detected, kept, cache: Path) -> None:
    """Without alignment all grids are one, so only float16 tells the two ways apart, and the intensities:
    the study is matched to the references there, the references to the study here."""
    there = kept()
    assert there.anomaly_map.size == simulated.query.size
    assert there.anomaly_map.image.GetOrigin() == simulated.query.image.GetOrigin()
    one, other = (d.anomaly_map.array().ravel() for d in (there, detected))
    assert np.corrcoef(one, other)[0, 1] > 0.95
    top, expected = there.findings[0], detected.findings[0]
    assert np.linalg.norm(np.subtract(top.center_ras, expected.center_ras)) < 6.0  # one feature position
    assert [row.index for row in there.slices] == [row.index for row in detected.slices]
    np.testing.assert_allclose([sum(row.weights) for row in there.slices], 1.0, atol=1e-5)
    peaks = np.array([[row.peak for row in d.slices] for d in (there, detected)])
    assert np.corrcoef(peaks)[0, 1] > 0.9


def test_a_study_turned_and_shifted_gets_its_map_on_its_own_grid(
    simulated, options, kept, cache: Path
) -> None:
    """The lesion is found where it lies in the study, not where it lies on the references' grid."""
    import SimpleITK as sitk

    turned = sitk.DICOMOrient(simulated.query.image, "RPI")
    turned.SetOrigin(np.add(turned.GetOrigin(), (7.0, -5.0, 6.0)).tolist())
    query = dataclasses.replace(simulated.query, image=turned)
    found = kept(query, align="rigid")
    assert found.anomaly_map.image.GetOrigin() == turned.GetOrigin()
    assert found.labels.shape == query.size[::-1]
    k, j, i = np.argwhere(simulated.truth.array() > 0).mean(axis=0)
    x, y, z = simulated.truth.image.TransformContinuousIndexToPhysicalPoint((i, j, k))
    peak = np.unravel_index(int(found.anomaly_map.array().argmax()), found.labels.shape)
    at = found.anomaly_map.image.TransformIndexToPhysicalPoint([int(n) for n in peak[::-1]])
    assert np.linalg.norm(np.subtract(at, (x + 7.0, y - 5.0, z + 6.0))) < 11.0  # the lesion's radius


def test_only_the_owner_can_read_it_and_no_name_shows(simulated, kept, cache: Path) -> None:
    secret = dataclasses.replace(simulated.supports[0], name="DOE_JANE.nrrd")
    old = os.umask(0)
    try:
        kept(supports=[secret, *simulated.supports[1:]])
    finally:
        os.umask(old)
    (folder,) = cache.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"DOE_JANE" not in path.read_bytes()
    assert "DOE" not in folder.name


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "facts"])
def test_a_damaged_set_is_made_anew(kept, cache: Path, made: list[Path], damage: str) -> None:
    before = kept().anomaly_map.array()
    (folder,) = cache.iterdir()
    victim = folder / ("facts.json" if damage == "facts" else "features_1.npy")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        victim.unlink()
    elif damage == "facts":
        victim.write_text('{"plane": "axial"}', encoding="utf-8")
    else:
        victim.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    np.testing.assert_array_equal(kept().anomaly_map.array(), before)
    assert len(made) == 2
    assert [entry.name for entry in cache.iterdir()] == [folder.name]


def test_nothing_is_kept_unless_asked_for(simulated, options, cache: Path) -> None:
    detect(simulated.query, simulated.supports, options(plane=Plane.AXIAL))
    detect(simulated.query, simulated.supports, options(reference_cache=True, cache=False))
    assert not cache.exists()


def test_what_cannot_be_kept_is_computed_the_usual_way(simulated, kept, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way", encoding="utf-8")
    assert any("kept references were not used" in w for w in kept().warnings)
    cache.unlink()
    single = kept(supports=simulated.supports[:1])
    assert any("two references" in w for w in single.warnings)


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(bytes(1000))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    trim(tmp_path, 2000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["middle", "new"]
    trim(tmp_path, 0)
    assert size_of(tmp_path) == 0
