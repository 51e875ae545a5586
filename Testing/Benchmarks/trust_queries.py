"""The whole detector on changed, empty and repeated pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from trust_rows import keep, kept_rows

from D24FADLib.benchmark.datasets import read_tasks
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detector import detect

Rows = list[dict[str, object]]


def _changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Volume], Volume]:
    """A change of pictures (rows, cols) in [0, 1] as one of volumes; colours each alike."""

    def apply(volume: Volume) -> Volume:
        array = volume.array().astype(np.float64)[0]
        top = max(float(array.max()), 1e-9)
        planes = np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None]
        done = np.stack([change(plane / top) for plane in planes]).clip(0, 1) * top
        out = np.moveaxis(done, 0, -1) if array.ndim == 3 else done[0]
        image = sitk.GetImageFromArray(out[None].round().astype(np.uint8), isVector=array.ndim == 3)
        return Volume(image, volume.name, volume.info)

    return apply


def _bias(plane: np.ndarray) -> np.ndarray:
    rows, cols = np.mgrid[-1 : 1 : plane.shape[0] * 1j, -1 : 1 : plane.shape[1] * 1j]  # type: ignore[misc]
    return np.asarray(plane * (1 + 0.3 * rows + 0.2 * cols))


def _noise(plane: np.ndarray) -> np.ndarray:
    return np.asarray(plane + np.random.default_rng(3).normal(0, 0.08, plane.shape))


def _crop(plane: np.ndarray) -> np.ndarray:
    r, c = (round(0.1 * s) for s in plane.shape)
    return plane[r : plane.shape[0] - r, c : plane.shape[1] - c]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda p: p,
    "noise": _noise,
    "bias field": _bias,
    "blur": lambda p: ndimage.gaussian_filter(p, 2.0),
    "gamma": lambda p: p**1.5,
    "rotation 10 degrees": lambda p: ndimage.rotate(p, 10, reshape=False, order=1, mode="nearest"),
    "crop 20 %": _crop,
    "half resolution": lambda p: ndimage.zoom(p, 0.5, order=1),
    "double resolution": lambda p: ndimage.zoom(p, 2.0, order=1),
}


def shift(args: argparse.Namespace) -> Rows:
    """Normal pictures changed: how far the score drifts, how often it is unusual, whether a check says so.
    Each judgement is kept in DIR/shift-judged.csv: this part goes on where it ended."""
    kept = args.output / "shift-judged.csv"
    done = kept_rows(kept)
    tasks = [t for t in read_tasks(args.data) if not args.tasks or t.name in args.tasks]
    wanted = [(n, t, q) for q in range(args.queries) for t in tasks for n in CHANGES]
    for name, task, number in wanted[len(done) :]:
        supports, queries = _pictures(task, number + 1)
        found = detect(_changed(CHANGES[name])(queries[number]), supports, device="cpu", model=args.model)
        codes = {c.code for c in found.checks if c.subject == "query"} - {"unlearned", "input"}
        row = {"change": name, "p": found.p_value, "score": found.score, "said": " ".join(sorted(codes))}
        keep(kept, done, row)
    rows: Rows = []
    for name in CHANGES:
        group = [row for row in done if row["change"] == name]
        p = np.array([float(row["p"]) for row in group])
        said = [row["said"].split() for row in group]
        rows.append(
            {"change": name, "queries": len(p), "median p": float(np.median(p)),
             "p below 5 %": np.mean(p < 0.05),
             "mean score": np.mean([float(row["score"]) for row in group]),
             "a check says so": np.mean([bool(s) for s in said]),
             "called unsuitable": np.mean(["unsuitable" in s for s in said]),
             "checks": ", ".join(sorted({code for s in said for code in s}))}
        )  # fmt: skip
    return rows


def _pictures(task, count: int) -> tuple[list[Volume], list[Volume]]:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    supports = [read_volume(task.train[i]) for i in rng.permutation(len(task.train))[:4]]
    queries = [read_volume(task.normal[i]) for i in rng.permutation(len(task.normal))[:count]]
    return supports, queries


def empty(args: argparse.Namespace) -> Rows:
    """Queries that show nothing, and one that is a reference: refused, or said."""
    rows: Rows = []
    for task in (t for t in read_tasks(args.data) if not args.tasks or t.name in args.tasks):
        supports, (query, *_) = _pictures(task, 2)
        rng = np.random.default_rng(1)
        shape = query.array().shape

        def like(array: np.ndarray, query: Volume = query) -> Volume:
            image = sitk.GetImageFromArray(array.astype(np.uint8), isVector=array.ndim == 4)
            image.CopyInformation(query.image)
            return replace(query, image=image, name="query")

        near = _changed(_noise_a_little)(supports[1])
        cases = {
            "constant": like(np.full(shape, 7)),
            "air": like(np.abs(rng.normal(0, 2, shape))),
            "a reference": replace(supports[1], name="query"),
            "nearly a reference": replace(near, name="query"),
        }
        for case, volume in cases.items():
            try:
                found = detect(volume, supports, device="cpu", model=args.model)
                codes = sorted({c.code for c in found.checks if c.code not in ("unlearned", "input")})
                said = ", ".join(codes)
                count: int | str = len(found.findings)
            except Exception as error:
                said, count = f"refused: {type(error).__name__}", ""
            rows.append({"task": task.name, "query": case, "said": said, "findings": count})
    return rows


def _noise_a_little(plane: np.ndarray) -> np.ndarray:
    return np.asarray(plane + np.random.default_rng(3).normal(0, 0.01, plane.shape))
