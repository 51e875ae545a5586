from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from D24FADLib.benchmark.lesions import KINDS, ImplantedLesion, LesionKind, choose_center, implant
from D24FADLib.benchmark.volumes import lesion_plan, run, summarise
from D24FADLib.errors import InputError

SPACING = (2.0, 1.0, 1.0)
CENTER = (10, 30, 32)


@pytest.fixture(scope="module")
def study() -> tuple[np.ndarray, np.ndarray]:
    """A textured ball in air, and its body."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:20, :60, :64]
    body = ((z - 10) / 9.0) ** 2 + ((y - 30) / 25.0) ** 2 + ((x - 32) / 27.0) ** 2 < 1
    return np.where(body, 100 + 20 * rng.standard_normal(body.shape), 0).astype(np.float32), body


def implanted(
    study: tuple[np.ndarray, np.ndarray], kind: LesionKind, mm: float = 12.0, contrast: float = 1.0
):
    voxels, body = study
    donor = voxels[::-1].copy()
    lesion = ImplantedLesion(kind, mm, contrast)
    return implant(voxels, body, SPACING, CENTER, lesion, donor, np.random.default_rng(1))


@pytest.mark.parametrize("kind", KINDS)
def test_lesion_changes_its_own_place_only(study: tuple[np.ndarray, np.ndarray], kind: LesionKind) -> None:
    voxels, body = study
    changed, mask = implanted(study, kind)
    assert mask[CENTER]
    assert (mask <= body).all()
    # an irregular ball of 12 mm: its volume in ml, voxels of 2 mm^3
    assert mask.sum() * 2.0 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.2)
    difference = np.abs(changed - voxels)
    assert difference[mask].mean() > 2.0
    z, y, x = np.ogrid[:20, :60, :64]
    far = ((z - 10) * 2) ** 2 + (y - 30) ** 2 + (x - 32) ** 2 > 14**2
    assert difference[far].max() < 1e-2


def test_kinds_do_what_their_names_say(study: tuple[np.ndarray, np.ndarray]) -> None:
    voxels, _ = study
    inside = {kind: (c[m], voxels[m]) for kind in KINDS for c, m in [implanted(study, kind)]}
    assert inside["bright"][0].mean() > inside["bright"][1].mean() + 10
    assert inside["dark"][0].mean() < inside["dark"][1].mean() - 10
    assert inside["smooth"][0].std() < 0.6 * inside["smooth"][1].std()
    assert inside["noisy"][0].std() > 1.1 * inside["noisy"][1].std()


def test_less_contrast_changes_less(study: tuple[np.ndarray, np.ndarray]) -> None:
    voxels, _ = study
    for kind in KINDS:
        faint, plain = (np.abs(implanted(study, kind, 12.0, c)[0] - voxels).sum() for c in (0.5, 1.0))
        assert faint < plain, kind


def test_center_lies_below_the_surface(study: tuple[np.ndarray, np.ndarray]) -> None:
    _, body = study
    for seed in range(20):
        z, y, x = choose_center(body, SPACING, 12.0, np.random.default_rng(seed))
        assert body[z - 2 : z + 3, y - 3 : y + 4, x - 3 : x + 4].all()


def test_plan_has_every_kind_size_and_contrast_once() -> None:
    plan = lesion_plan(quick=False)
    assert len(plan) == len(set(plan)) == 6 * 6 * 2
    assert len(lesion_plan(quick=True)) == 18
    assert len(lesion_plan(quick=False, repeats=2)) == 144


def test_summary_by_hand() -> None:
    normal = [{"kind": "", "score": s} for s in (1.0, 2.0)]
    measured = {"voxel_ap": 0.5, "voxel_auroc": 0.9, "peak_in_lesion": True, "found_by_default": False}
    lesions = [
        {"kind": "dark", "diameter_mm": 4.0, "contrast": 1.0, "score": 1.5, "found": False, **measured},
        {"kind": "dark", "diameter_mm": 16.0, "contrast": 1.0, "score": 3.0, "found": True, **measured},
    ]
    rows = {r["group"]: r for r in summarise([*normal, *lesions])}
    assert rows["all"]["sample_auroc"] == pytest.approx(0.75)
    assert rows["all"]["found"] == 0.5
    assert rows["8 mm and more"]["found"] == rows["16 mm"]["sample_auroc"] == 1.0
    assert "bright, 8 mm and more" not in rows


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated brain at 4 mm, cut to a block around the middle, six times with other noise."""
    pytest.importorskip("nilearn", reason="the template of the simulated subjects comes with nilearn")
    from dataclasses import replace

    from D24FADLib.imaging.writing import write_volume
    from D24FADLib.simulation import load_template, make_subject

    folder = tmp_path_factory.mktemp("subjects")
    whole, _ = make_subject(0, spacing_mm=4.0, template=load_template())
    block = replace(whole, image=whole.image[12:36, 18:42, 14:26])
    voxels = np.asarray(block.array(), np.float32)
    for seed in range(6):
        noise = np.random.default_rng(seed).standard_normal(voxels.shape) * 0.04 * voxels.std()
        name = f"subject_{seed}.nrrd"
        write_volume(block.with_array((voxels + noise).astype(np.float32), name), folder / name)
    return folder


def test_detect_judges_untouched_and_lesioned_studies(subjects: Path, small_model: Path) -> None:
    plan = [ImplantedLesion("bright", 24.0, 2.0), ImplantedLesion("dark", 2.0, 0.1)]
    told: list[tuple[int, int]] = []
    results = run(
        subjects, model=str(small_model), align="none", plan=plan, studies=2, seed=3,
        progress=lambda step, done, total: told.append((done, total)),
    )  # fmt: skip
    normal, plain, faint = results.cases[:2], results.cases[2], results.cases[3]
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [c["kind"] for c in results.cases] == ["", "", "bright", "dark"]
    own = next(c for c in normal if c["subject"] == plain["subject"])
    assert plain["score"] > own["score"] + 1.0
    assert plain["found"]
    assert plain["voxel_auroc"] > 0.9
    assert not faint["found"]
    assert results.summary[0]["lesions"] == 2


def test_too_few_volumes(subjects: Path, tmp_path: Path) -> None:
    for path in sorted(subjects.iterdir())[:5]:
        shutil.copy(path, tmp_path / path.name)
    with pytest.raises(InputError, match="5 volumes; at least 6"):
        run(tmp_path, model="d24fad-lite0", align="none", plan=[], studies=None, seed=0, progress=print)


def test_scans_of_one_person_are_told_and_never_meet() -> None:
    import SimpleITK as sitk

    from D24FADLib.benchmark.volumes import Subject, draws_of, persons_of
    from D24FADLib.imaging.volume import Volume

    rng = np.random.default_rng(0)
    heads = [rng.standard_normal((4, 20, 20)).astype(np.float32) for _ in range(6)]
    scans = [*heads, heads[1] + 0.3 * rng.standard_normal(heads[1].shape).astype(np.float32)]
    body = np.ones((4, 20, 20), bool)
    subjects = [Subject(Volume(sitk.GetImageFromArray(scan), "scan"), body) for scan in scans]
    persons = persons_of(subjects)
    assert [persons[1] == p for p in persons] == [False, True, False, False, False, False, True]
    assert len(set(persons)) == 6
    for number, others in draws_of(persons, rng).items():
        met = [persons[o] for o in others]
        assert len(met) == len(set(met)) == 5
        assert persons[number] not in met
    # five persons are too few to choose from: then every scan counts
    assert len(set(persons_of(subjects[1:]))) == 6
