"""The whole detector on normal volumes that share a grid, and on changed ones. No two scans of one person
stand as references and query, see `benchmark.volumes`."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.benchmark.lesions import KINDS, ImplantedLesion, choose_center, implant
from D24FADLib.benchmark.volumes import (
    SHOTS,
    Subject,
    draws_of,
    find_volumes,
    is_found,
    persons_of,
    read_subject,
    voxel_metrics,
)
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detection import Detection
from D24FADLib.inference.detector import detect

Rows = list[dict[str, object]]
Array = NDArray[np.float64]
_SILENT = {"unlearned", "input"}


def volumes(args: argparse.Namespace) -> Rows:
    """Coverage: normal studies, each against four others, in several draws."""
    p, low, over, counts, suitable, flags, codes = [], [], [], [], [], [], []
    for _, query, references in _cases(args):
        found = _judged(query, references, args)
        p.append(found.p_value)
        low.append(found.p_value_low)
        values = found.anomaly_map.array()[found.anomaly_map.array() != 0]
        over.append([np.mean(values > found.heights[share]) for share in ("5 %", "1 %")])
        counts.append(len(found.findings))
        suitable.append(found.suitable)
        flags += [r.stands_out for r in found.supports]
        codes += [c.code for c in found.checks if c.code not in _SILENT]
    return [
        {
            "studies": len(p), "study 5 %": np.mean(np.array(p) < 0.05),
            "study 1 %": np.mean(np.array(p) < 0.01), "bland 5 %": np.mean(np.array(low) < 0.05),
            "voxel 5 %": np.mean([o[0] for o in over]), "voxel 1 %": np.mean([o[1] for o in over]),
            "findings at 1": np.mean(counts), "median": np.median(counts),
            "unsuitable": 1 - np.mean(suitable), "references flagged": np.mean(flags),
            "checks": ", ".join(f"{code} {codes.count(code)}" for code in sorted(set(codes))),
        }
    ]  # fmt: skip


def spoilt(args: argparse.Namespace) -> Rows:
    """The first of four references has a lesion of 12 to 20 mm: flagged, and what it costs a study with a
    lesion of that kind and size elsewhere: found with clean references, with the spoilt one, and with what
    stands out left out."""
    cases: list[dict[str, object]] = []
    for number, query, references in _cases(args):
        rng = np.random.default_rng([number, 6])
        lesion = ImplantedLesion(
            KINDS[number % len(KINDS)], (12.0, 16.0, 20.0)[number // len(KINDS) % 3], 1.0
        )
        bad = _with_lesion(references[0], lesion, references[1], rng)[0]
        ill, mask = _with_lesion(query, lesion, references[1], rng)
        clean = [r.volume for r in references]
        row: dict[str, object] = {"lesion": lesion.kind, "mm": lesion.diameter_mm}
        for case, supports in (
            ("clean", clean),
            ("spoilt", [bad, *clean[1:]]),
            ("left out", [bad, *clean[1:]]),
        ):
            drop = case == "left out"
            found = detect(ill, supports, align="none", device="cpu", model=args.model, drop_outliers=drop)
            row[f"found, {case}"] = is_found(found, mask, found.threshold)
            row[f"AP, {case}"] = voxel_metrics(found, mask, query.body, rng)["voxel_ap"]
            if case == "clean":
                row["false flags"] = np.mean([r.stands_out for r in found.supports])
            if case == "spoilt":
                row["flagged"] = found.supports[0].stands_out
                row["t"] = found.supports[0].outlier_t
                row["others flagged"] = np.mean([r.stands_out for r in found.supports[1:]])
        cases.append(row)
        print(row, flush=True)
    rows: Rows = []
    for kind in (*KINDS, "all"):
        group = [c for c in cases if kind in (c["lesion"], "all")]
        numbers = [key for key in group[0] if key != "lesion"] if group else []
        means = {key: np.mean([float(c[key]) for c in group]) for key in numbers}  # type: ignore[arg-type]
        if group:
            rows.append({"lesion": kind, "draws": len(group), **means})
    return rows


CHANGES: dict[str, Callable[[Array], Array]] = {
    "none": lambda v: v,
    "noise": lambda v: v + np.random.default_rng(3).normal(0, 0.04, v.shape),
    "bias field": lambda v: v * (1 + 0.3 * np.linspace(-1, 1, v.shape[0])[:, None, None]),
    "blur, 1 voxel": lambda v: ndimage.gaussian_filter(v, 1.0),
    "blur, 2 voxels": lambda v: ndimage.gaussian_filter(v, 2.0),
    "gamma": lambda v: np.clip(v, 0, None) ** 1.5,
}


def shift_volumes(args: argparse.Namespace) -> Rows:
    """A normal volume changed as a whole: how far the score drifts, and what says so."""
    rows: Rows = []
    cases = list(_cases(args))
    for name, change in CHANGES.items():
        found = []
        for _, query, references in cases:
            array = np.asarray(query.volume.array(), np.float64)
            top = float(np.percentile(array, 99.9))
            changed = (change(array / top) * top).astype(np.float32)
            found.append(_judged(query, references, args, query.volume.with_array(changed, "query")))
        p = np.array([d.p_value for d in found])
        said = [{c.code for c in d.checks if c.subject == "query"} - _SILENT for d in found]
        kinds = [f.departs_by[0] for d in found for f in d.findings if f.departs_by]
        rows.append(
            {
                "change": name, "queries": len(found), "median p": float(np.median(p)),
                "p below 5 %": np.mean(p < 0.05), "mean score": np.mean([d.score for d in found]),
                "findings": np.mean([len(d.findings) for d in found]),
                "first by": ", ".join(f"{k} {kinds.count(k)}" for k in sorted(set(kinds))),
                "a check says so": np.mean([bool(s) for s in said]),
                "checks": ", ".join(sorted(set(itertools.chain(*said)))),
            }
        )  # fmt: skip
    return rows


def _cases(args: argparse.Namespace) -> Iterator[tuple[int, Subject, list[Subject]]]:
    """Number, query and references of `args.queries` draws: each subject in turn, other draws each time."""
    subjects = [read_subject(path) for path in find_volumes(args.volumes)]
    persons = persons_of(subjects)
    for number in range(args.queries):
        if number % len(subjects) == 0:
            others = draws_of(persons, np.random.default_rng([number, 5]))
        which = number % len(subjects)
        yield number, subjects[which], [subjects[i] for i in others[which][:SHOTS]]


def _judged(
    query: Subject, references: Sequence[Subject], args: argparse.Namespace, instead: Volume | None = None
) -> Detection:
    supports = [r.volume for r in references]
    return detect(instead or query.volume, supports, align="none", device="cpu", model=args.model)


def _with_lesion(
    subject: Subject, lesion: ImplantedLesion, donor: Subject, rng: np.random.Generator
) -> tuple[Volume, NDArray[np.bool_]]:
    spacing = subject.volume.spacing[::-1]
    center = choose_center(subject.body, spacing, lesion.diameter_mm, rng)
    array, foreign = (np.asarray(s.volume.array(), np.float32) for s in (subject, donor))
    changed, mask = implant(array, subject.body, spacing, center, lesion, foreign, rng)
    return subject.volume.with_array(changed, subject.volume.name), mask
