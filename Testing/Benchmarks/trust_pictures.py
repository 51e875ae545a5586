"""Coverage, contamination, other organs, repeatability and mirrored references, on pictures with cached
features.

Whatever is fitted is fitted without the tested organ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from D24FADLib.benchmark.calibration_data import Workbench
from D24FADLib.benchmark.calibration_fit import OrganNormals, fit, scores_of, tails
from D24FADLib.benchmark.datasets import Task
from D24FADLib.benchmark.features import load_image
from D24FADLib.benchmark.normals import BINS
from D24FADLib.benchmark.shipped import SIGMA
from D24FADLib.imaging.planes import Plane
from D24FADLib.inference.calibration import LEARNED_WORTH, smooth, to_normal
from D24FADLib.inference.mirrored import check_mirrored
from D24FADLib.inference.outliers import MAP, WHOLE, map_scores, standing_out
from D24FADLib.inference.priors import Priors
from D24FADLib.inference.resemblance import directions, distance, mean_logs
from D24FADLib.inference.study_score import PICTURE, VOLUME, study_score

Rows = list[dict[str, object]]
LEVELS = (0.05, 0.01)
_ILL = 12  # abnormal test pictures
_GOOD, _BAD = 16, 8  # pictures that references are drawn from, for contamination


def fits(bench: Workbench, tasks: Sequence[Task]) -> dict[str, Priors]:
    """By task, what the other organs tell."""
    organs = {task.name: bench.normals(task) for task in tasks}
    return {task.name: fit(others(organs, task.organ), bench.splits) for task in tasks}


def others(organs: Mapping[str, OrganNormals], organ: str) -> dict[str, OrganNormals]:
    return {name: normals for name, normals in organs.items() if normals.organ != organ}


def coverage(bench: Workbench, tasks: Sequence[Task], priors: Mapping[str, Priors], queries: int) -> Rows:
    """False-positive rates of pictures and positions, and findings of a normal picture, at nominal 5 %, 1
    % and 1; AUROC of the score before and after calibration; for K = 2, 4 and 8 test normals never used as
    supports."""
    rows: Rows = []
    for task in tasks:
        learned = priors[task.name]
        pool = bench.sample(task.train, 1)
        normal, abnormal = bench.sample(task.normal, 2), bench.sample(task.abnormal, 3, _ILL)
        for shots in (2, 4, 8):
            draws = bench.draws(
                f"{task.name}-test", pool, [*normal, *abnormal], shots, 2 * queries, 1 / learned.findings
            )
            is_normal = draws.queries < len(normal)
            prior = learned.score(PICTURE, shots)
            t = tails(draws.query_score, draws.support_score, prior)
            high = stats.t.sf(t, prior.freedom)
            knots = learned.knots_for(shots)
            assert knots is not None
            share = 1 / (1 + shots / LEARNED_WORTH)
            middles = ((BINS[1:] + BINS[:-1]) / 2).astype(np.float32)
            over = []
            for own, histogram, kept in zip(draws.knots, draws.histogram, is_normal, strict=True):
                z = to_normal(middles, (1 - share) * own + share * knots)
                counts = histogram[kept].sum(axis=0)
                over.append(
                    [counts[z > stats.norm.isf(level)].sum() / max(counts.sum(), 1) for level in LEVELS]
                )
            usual = [(m, ~m) for m in is_normal if m.any() and (~m).any()]
            both = [n for n, m in enumerate(is_normal) if m.any() and (~m).any()]
            before, after = (
                np.mean([roc_auc_score(~is_normal[n], values[n]) for n in both])
                for values in (draws.query_score, -high)
            )
            peaks = scores_of(draws, VOLUME, knots.tolist())[0]
            rows.append(
                {
                    "task": task.name, "K": shots, "draws": len(high), "normals": len(normal),
                    "judged": int(is_normal.sum()),
                    "picture 5 %": (high[is_normal] < 0.05).mean(),
                    "picture 1 %": (high[is_normal] < 0.01).mean(),
                    "bland 5 %": (high[is_normal] > 0.95).mean(),
                    "position 5 %": np.mean([o[0] for o in over]),
                    "position 1 %": np.mean([o[1] for o in over]),
                    "findings at 1": draws.findings[is_normal].mean(),
                    "AUROC before": before, "AUROC after": after,
                    "AUROC map's maximum": np.mean([roc_auc_score(~is_normal[n], peaks[n]) for n in both]),
                    "abnormal at 5 %": (high[~is_normal] < 0.05).mean() if usual else float("nan"),
                }
            )  # fmt: skip
    return rows


def repeatability(
    bench: Workbench, tasks: Sequence[Task], priors: Mapping[str, Priors], queries: int
) -> Rows:
    """How much one picture's standardised score varies between draws of four supports, against how much
    pictures vary, and how often a picture called unusual at 5 % by one draw is so by another."""
    rows: Rows = []
    for task in tasks:
        tested = [*bench.sample(task.normal, 2), *bench.sample(task.abnormal, 3, _ILL)]
        learned = priors[task.name]
        draws = bench.draws(
            f"{task.name}-test", bench.sample(task.train, 1), tested, 4, 2 * queries, 1 / learned.findings
        )
        prior = learned.score(PICTURE, 4)
        t = tails(draws.query_score, draws.support_score, prior)
        by_picture = [t[draws.queries == n] for n in range(len(tested))]
        several = [values for values in by_picture if len(values) > 1]
        within = np.sqrt(np.mean([v.var(ddof=1) for v in several]))
        limit = stats.t.isf(0.05, prior.freedom)
        called = [(v > limit) for v in several]
        # Of two judgements of one picture: how often the second is unusual where the first is.
        first = sum(c.sum() * (len(c) - 1) for c in called)
        both = sum(c.sum() * (c.sum() - 1) for c in called)
        rows.append(
            {
                "task": task.name, "pictures": len(several), "sd within": within,
                "sd between": np.std([v.mean() for v in several]),
                "again at 5 %": both / first if first else float("nan"),
            }
        )  # fmt: skip
    return rows


def organ(bench: Workbench, tasks: Sequence[Task], priors: Mapping[str, Priors]) -> Rows:
    """Queries called unsuitable: normals and abnormals of the references' own task, and normals of other
    organs (with the limit fitted without the tested organ)."""
    pictures = {
        task.name: {
            "pool": bench.descriptors(bench.sample(task.train, 1)),
            "normal": bench.descriptors(bench.sample(task.normal, 2)),
            "abnormal": bench.descriptors(bench.sample(task.abnormal, 3)),
        }
        for task in tasks
    }
    rows: Rows = []
    rng = np.random.default_rng(1)
    for task in tasks:
        space = priors[task.name].resemblance
        assert space is not None

        def seen(name: str, kind: str, space=space) -> np.ndarray:
            return directions(pictures[name][kind], space.centre, space.splits)

        pool = seen(task.name, "pool")
        for shots in (1, 2, 4, 8):
            called: dict[str, list[bool]] = {"normal": [], "abnormal": [], "other organ": []}
            for _ in range(12):
                references = pool[rng.permutation(len(pool))[:shots]]
                asked = {"normal": seen(task.name, "normal"), "abnormal": seen(task.name, "abnormal")}
                strangers = [seen(o.name, "normal") for o in tasks if o.organ != task.organ]
                asked["other organ"] = np.concatenate(strangers)
                for kind, vectors in asked.items():
                    called[kind] += [
                        distance(v, references, space.shrinkage, space.single) > space.limit for v in vectors
                    ]
            rows.append({"task": task.name, "K": shots, **{k: np.mean(v) for k, v in called.items()}})
    return rows


def contamination(
    bench: Workbench, tasks: Sequence[Task], priors: Mapping[str, Priors], draws: int, queries: int
) -> Rows:
    """Some of the supports abnormal pictures, or pictures of another organ: flagged; the most outlying of all
    (what a rule that always names one would reach); falsely flagged; and AUROC with clean supports, with
    spoilt ones, and after the one that stands out most is dropped if it is flagged."""
    rows: Rows = []
    for position, task in enumerate(tasks):
        stranger = next(t for t in (*tasks[position + 1 :], *tasks) if t.organ != task.organ)
        kinds = {
            "good": bench.sample(task.train, 1)[:_GOOD],
            "abnormal": bench.sample(task.abnormal, 4)[:_BAD],
            "other organ": bench.sample(stranger.train, 1)[:_BAD],
        }
        spare = [p for p in bench.sample(task.abnormal, 3) if p not in kinds["abnormal"]]
        tested = [*bench.sample(task.normal, 2)[:queries], *spare[:queries]]
        labels = np.array([0] * (len(tested) - len(spare[:queries])) + [1] * len(spare[:queries]))
        pictures = [p for group in kinds.values() for p in group]
        places = {k: [n for n, p in enumerate(pictures) if p in group] for k, group in kinds.items()}
        among = _Among(bench, priors[task.name], pictures, tested)
        for shots, spoilt, by in ((4, 1, "abnormal"), (8, 2, "abnormal"), (4, 1, "other organ")):
            rng = np.random.default_rng([shots, spoilt])
            found: list[dict[str, float]] = []
            for _ in range(draws):
                good = rng.permutation(places["good"])[:shots]
                dirty = np.concatenate([rng.permutation(places[by])[:spoilt], good[spoilt:]])
                found.append(among.spoilt(good, dirty, spoilt, labels))
            means = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
            rows.append({"task": task.name, "K": shots, "spoilt": spoilt, "by": by, **means})
    return rows


class _Among:
    """Comparisons among pictures that may be references, and of the tested ones behind them."""

    def __init__(
        self, bench: Workbench, learned: Priors, pictures: Sequence[Path], tested: Sequence[Path]
    ) -> None:
        self._compare = bench.among(pictures, tested)
        self._tested = len(pictures) + np.arange(len(tested))
        self._learned = learned
        space = learned.resemblance
        assert space is not None
        self._vectors = directions(bench.descriptors(pictures), space.centre, space.splits)

    def spoilt(
        self, good: NDArray[np.intp], dirty: NDArray[np.intp], count: int, labels: NDArray[np.intp]
    ) -> dict[str, float]:
        """Of these references, and of those whose first `count` are no normals."""
        limit = self._learned.outlier_limit
        own, t = (np.array(self._outlying(chosen)) for chosen in (good, dirty))
        worst = int(np.argmax(t))
        kept = np.delete(dirty, worst) if t[worst] > limit else dirty
        return {
            "flagged": float(np.mean(t[:count] > limit)), "most outlying": float(worst < count),
            "false flags": float(np.mean(own > limit)), "a clean draw": float((own > limit).any()),
            "good ones beside spoilt": float(np.mean(t[count:] > limit)),
            **{
                f"AUROC {name}": self._auroc(chosen, labels)
                for name, chosen in (("clean", good), ("spoilt", dirty), ("dropped", kept))
            },
        }  # fmt: skip

    def _outlying(self, chosen: NDArray[np.intp]) -> list[float]:
        left_out = self._compare(chosen[:1], chosen).left_out
        assert left_out is not None
        numbers = {
            MAP: map_scores(smooth(left_out.numpy(), SIGMA)[:, None]),
            WHOLE: mean_logs(self._vectors[chosen]).tolist(),
        }
        return standing_out(numbers, self._learned) or []

    def _auroc(self, chosen: NDArray[np.intp], labels: NDArray[np.intp]) -> float:
        maps = smooth(self._compare(self._tested, chosen).overall[0].numpy(), SIGMA)
        return float(roc_auc_score(labels, [study_score(PICTURE, m.ravel(), m.ravel()) for m in maps]))


def flipped(bench: Workbench, tasks: Sequence[Task], draws: int) -> Rows:
    """One of four references mirrored: named, and another one, or one of unmirrored references, named."""
    rows: Rows = []
    rng = np.random.default_rng(2)
    for task in tasks:
        pool = bench.sample(task.train, 1)
        right, wrong, alarm = [], [], []
        for _ in range(draws):
            chosen = [pool[i] for i in rng.permutation(len(pool))[:5]]
            arrays = [_grey(load_image(p, 128))[None] for p in chosen]
            mirrored = [*arrays[:4], np.ascontiguousarray(arrays[4][..., ::-1])]
            names = ["a", "b", "c", "d"]
            found = check_mirrored(names, mirrored[0], mirrored[1:], Plane.AXIAL)
            right.append(any(c.subject == 4 for c in found))
            wrong.append(any(c.subject != 4 for c in found))
            alarm.append(bool(check_mirrored(names, arrays[0], arrays[1:], Plane.AXIAL)))
        rows.append(
            {"task": task.name, "mirrored one named": np.mean(right), "another named": np.mean(wrong),
             "named in unmirrored": np.mean(alarm)}
        )  # fmt: skip
    return rows


def _grey(image: torch.Tensor) -> np.ndarray:
    return np.asarray(image.mean(0).numpy(), np.float32)
