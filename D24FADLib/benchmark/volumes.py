"""The benchmark on volumes, in the manner of the MOOD challenge: implanted lesions, found by `detect`.

Every subject is judged untouched and with lesions, always against the same K others, one scan of each person
and none of the subject's own. Nothing is trained and no figure is taken from a study's own lesion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from D24FADLib.benchmark.lesions import CONTRASTS, KINDS, SIZES_MM, ImplantedLesion, choose_center, implant
from D24FADLib.errors import InputError
from D24FADLib.imaging.foreground import foreground_mask
from D24FADLib.imaging.planes import to_canonical
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detection import Detection
from D24FADLib.inference.detector import detect
from D24FADLib.inference.findings import find

LARGE_MM = 8.0  # lesions from here on are what has to be found
SHOTS = 4
_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
# Correlation of the voxels of two aligned scans from which on they show one person: repeated scans reach
# 0.92 to 0.97, different people 0.89 at most (T1 slabs of children, warped onto one template).
_ONE_PERSON = 0.905
_SAMPLED = 200_000  # voxels of a study that enter the voxel metrics, the lesion always among them
Row = dict[str, Any]


@dataclass(eq=False)
class VolumeResults:
    """cases: one row a judged study (kind "" for an untouched one); summary: one row a group of lesions."""

    cases: list[Row] = field(default_factory=list)
    summary: list[Row] = field(default_factory=list)
    threshold: float = float("nan")


@dataclass(frozen=True, eq=False)
class Subject:
    """A normal study and where its body is."""

    volume: Volume  # in canonical order
    body: NDArray[np.bool_]


def run(
    folder: Path,
    *,
    model: str,
    align: str | None,
    plan: Sequence[ImplantedLesion],
    studies: int | None,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> VolumeResults:
    """Judge `studies` of the subjects of a folder (None: all) untouched, and with the plan's lesions.

    Raises InputError where the folder holds fewer than SHOTS + 2 volumes.
    """
    subjects = [read_subject(path) for path in find_volumes(folder)]
    if len(subjects) < SHOTS + 2:
        raise InputError(
            f"{folder.name}: {len(subjects)} volumes; at least {SHOTS + 2} normal studies are needed "
            f"({SHOTS} references, a study and a donor of foreign tissue)"
        )
    others = draws_of(persons_of(subjects), np.random.default_rng([seed, 31]))
    used = min(len(subjects), studies or len(subjects))
    results = VolumeResults()
    untouched: list[Detection] = []
    found: list[tuple[Row, Detection, NDArray[np.bool_]]] = []
    total = used + len(plan)

    def judge(query: Volume, number: int) -> Detection:
        progress("judging volumes", len(untouched) + len(found), total)
        supports = [subjects[i].volume for i in others[number][:SHOTS]]
        return detect(query, supports, model=model, align=align)

    for number in range(used):
        detection = judge(subjects[number].volume, number)
        untouched.append(_slimmed(detection))
        results.cases.append(_case(number, None, detection))
    for index, lesion in enumerate(plan):
        number = index % used
        subject, donor = subjects[number], subjects[others[number][SHOTS]]
        case_rng = np.random.default_rng([seed, 32, index])
        array = np.asarray(subject.volume.array(), np.float32)
        spacing = subject.volume.spacing[::-1]
        center = choose_center(subject.body, spacing, lesion.diameter_mm, case_rng)
        changed, mask = implant(
            array, subject.body, spacing, center, lesion,
            np.asarray(donor.volume.array(), np.float32), case_rng,
        )  # fmt: skip
        if not mask.any():
            mask[center] = True
        detection = judge(subject.volume.with_array(changed, subject.volume.name), number)
        row = {**_case(number, lesion, detection), **voxel_metrics(detection, mask, subject.body, case_rng)}
        results.cases.append(row)
        found.append((row, _slimmed(detection), mask))
    results.threshold = threshold_at(untouched, 1.0)
    for row, detection, mask in found:
        row["found"] = is_found(detection, mask, results.threshold)
        row["found_by_default"] = is_found(detection, mask, detection.threshold)
    results.summary = summarise(results.cases)
    return results


def lesion_plan(quick: bool, repeats: int = 1) -> list[ImplantedLesion]:
    """Every kind, size and contrast; `quick` takes three sizes and plain contrast only.

    Ordered so that a kind or size does not always meet the same subject.
    """
    sizes = (4.0, 8.0, 16.0) if quick else SIZES_MM
    contrasts = CONTRASTS[-1:] if quick else CONTRASTS
    cases = [ImplantedLesion(*case) for case in itertools.product(KINDS, sizes, contrasts)] * repeats
    order = np.random.default_rng(33).permutation(len(cases))
    return [cases[int(i)] for i in order]


def find_volumes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder.name}: no such folder of volumes")
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(_SUFFIXES))


def read_subject(path: Path) -> Subject:
    volume = read_volume(path)
    canonical = to_canonical(volume.image)
    return Subject(Volume(canonical, volume.name, volume.info), foreground_mask(canonical))


def persons_of(subjects: Sequence[Subject]) -> list[int]:
    """The person whom each scan shows, by number: scans on one grid that look alike belong together.

    A study judged against its own person's other scan is a follow-up, not few-shot; two references of one
    person agree far better than a study can. Where fewer than SHOTS + 2 persons would be left, every scan
    counts as one.
    """
    persons = list(range(len(subjects)))
    for b, a in itertools.combinations(range(len(subjects)), 2):
        one, two = subjects[a], subjects[b]
        shared = one.body & two.body if one.body.shape == two.body.shape else np.zeros(1, bool)
        if shared.sum() < 2:
            continue
        values = [np.asarray(s.volume.array(), np.float64)[shared] for s in (one, two)]
        if np.corrcoef(values)[0, 1] > _ONE_PERSON:
            persons = [persons[b] if p == persons[a] else p for p in persons]
    return persons if len(set(persons)) >= SHOTS + 2 else list(range(len(subjects)))


def draws_of(persons: Sequence[int], rng: np.random.Generator) -> dict[int, list[int]]:
    """For each scan one scan of every other person, in random order."""
    draws = {}
    for number, person in enumerate(persons):
        chosen: dict[int, int] = {}
        for other in rng.permutation(len(persons)):
            if persons[other] != person:
                chosen.setdefault(persons[other], int(other))
        draws[number] = list(chosen.values())
    return draws


def _slimmed(detection: Detection) -> Detection:
    """Without the volumes that nothing asks for later: a run holds a hundred of these."""
    return replace(
        detection, residual_map=detection.anomaly_map, weights=(), expected_normal=detection.anomaly_map,
        labels=np.zeros(0, np.uint16), record={},
    )  # fmt: skip


def _case(number: int, lesion: ImplantedLesion | None, detection: Detection) -> Row:
    return {
        "subject": number,
        "kind": lesion.kind if lesion else "",
        "diameter_mm": lesion.diameter_mm if lesion else 0.0,
        "contrast": lesion.contrast if lesion else 0.0,
        "score": detection.score,
        "threshold": detection.threshold,
        "findings": len(detection.findings),
        "seconds": round(sum(detection.record["seconds"].values()), 2),
    }


def voxel_metrics(
    detection: Detection, mask: NDArray[np.bool_], body: NDArray[np.bool_], rng: np.random.Generator
) -> Row:
    """Voxel AP and AUROC over the body of the study."""
    scores = np.asarray(detection.anomaly_map.array())
    inside = np.flatnonzero(body | mask)
    if inside.size > _SAMPLED:
        kept = rng.choice(inside, _SAMPLED, replace=False)
        inside = np.union1d(kept, np.flatnonzero(mask))
    truth, values = mask.ravel()[inside], scores.ravel()[inside]
    peak = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return {
        "voxel_ap": float(average_precision_score(truth, values)),
        "voxel_auroc": float(roc_auc_score(truth, values)),
        "peak_in_lesion": bool(mask[peak]),
    }


def threshold_at(untouched: Sequence[Detection], false_findings: float) -> float:
    """The lowest threshold at which normal studies have at most so many findings each on average."""
    highest = max(float(np.max(d.anomaly_map.array())) for d in untouched)
    chosen = highest
    for threshold in np.linspace(highest, 0.5, 80):
        total = sum(
            len(find(d.anomaly_map, float(threshold), d.plane, d.min_volume_ml)[0]) for d in untouched
        )
        if total / len(untouched) > false_findings:
            break
        chosen = float(threshold)
    return chosen


def is_found(detection: Detection, mask: NDArray[np.bool_], threshold: float) -> bool:
    """Whether a finding has its peak in the lesion, or a tenth of its voxels."""
    findings, labels = find(detection.anomaly_map, threshold, detection.plane, detection.min_volume_ml)
    scores = np.asarray(detection.anomaly_map.array())
    for finding in findings:
        own = labels == finding.rank
        if (own & mask).sum() >= 0.1 * own.sum():
            return True
        peak = np.unravel_index(int(np.argmax(np.where(own, scores, -np.inf))), scores.shape)
        if mask[peak]:
            return True
    return False


def summarise(cases: Sequence[Row]) -> list[Row]:
    """One row a group: all lesions, those of LARGE_MM and more, each kind, each size, each contrast.

    sample_auroc: of lesioned against untouched studies.
    """
    normal = [c["score"] for c in cases if not c["kind"]]
    lesions = [c for c in cases if c["kind"]]
    groups: dict[str, list[Row]] = {
        "all": lesions,
        f"{LARGE_MM:g} mm and more": [c for c in lesions if c["diameter_mm"] >= LARGE_MM],
    }
    for kind in KINDS:
        groups[f"{kind}, {LARGE_MM:g} mm and more"] = [
            c for c in lesions if c["kind"] == kind and c["diameter_mm"] >= LARGE_MM
        ]
    for size in sorted({c["diameter_mm"] for c in lesions}):
        groups[f"{size:g} mm"] = [c for c in lesions if c["diameter_mm"] == size]
    for contrast in sorted({c["contrast"] for c in lesions}):
        groups[f"contrast {contrast:g}"] = [c for c in lesions if c["contrast"] == contrast]
    rows = []
    for name, group in groups.items():
        if not group:
            continue
        scores = [c["score"] for c in group]
        labels = np.repeat([0, 1], [len(normal), len(scores)])
        rows.append(
            {
                "group": name,
                "lesions": len(group),
                "sample_auroc": float(roc_auc_score(labels, normal + scores)),
                **{
                    key: float(np.mean([c[key] for c in group]))
                    for key in ("voxel_ap", "voxel_auroc", "peak_in_lesion", "found", "found_by_default")
                },
            }
        )
    return rows
