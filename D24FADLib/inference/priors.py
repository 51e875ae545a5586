"""What other organs' normals say about normal variation: a bundle's configs/calibration.json.

Made by `d24fad calibrate` (see `benchmark.calibration_fit`) with the very model and evidence of the bundle; a
file that belongs to another model is not used. Without one detection still works, with its references alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.errors import ModelError
from D24FADLib.inference.predictive import ScorePrior

CALIBRATION = Path("configs/calibration.json")
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Resemblance:
    """The space in which a study is compared as a whole (see `resemblance`).

    centre: mean descriptor of the organs, channels in a row; splits: channels of each part; limit: of the
    log distance, from which on a study is unsuitable; shrinkage: weight of the references' own distances;
    single: what is taken off the log distance to one reference alone.
    """

    centre: NDArray[np.float64]
    splits: tuple[int, ...]
    limit: float
    shrinkage: float
    single: float = 0.0


@dataclass(frozen=True, eq=False)
class Priors:
    """Learned across organs.

    scores: of the study's score, by its kind (`study_score`) and the number of references. knots: z of a
    reference's own map at the `calibration.LEVELS`, by number of references. findings: how many findings a
    further normal study has for each one of a reference. outlier: of a reference's own scores;
    outlier_limit: of their t. about: how it was made.
    """

    scores: dict[str, dict[int, ScorePrior]] = field(default_factory=dict)
    knots: dict[int, tuple[float, ...]] = field(default_factory=dict)
    findings: float = 1.0
    outlier: dict[str, ScorePrior] = field(default_factory=dict)
    outlier_limit: float = 3.0
    resemblance: Resemblance | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def score(self, kind: str, references: int) -> ScorePrior:
        """For this many references: interpolated in 1 / K, the nearest one beyond."""
        learned = self.scores.get(kind)
        if not learned:
            return ScorePrior()
        known = sorted(learned, reverse=True)  # 1 / K rises
        rows = np.array([list(asdict(learned[k]).values()) for k in known])
        places = [1 / k for k in known]
        return ScorePrior(*(float(np.interp(1 / references, places, column)) for column in rows.T))

    def knots_for(self, references: int) -> NDArray[np.float64] | None:
        if not self.knots:
            return None
        known = sorted(self.knots, reverse=True)
        rows = np.array([self.knots[k] for k in known])
        places = [1 / k for k in known]
        return np.array([np.interp(1 / references, places, column) for column in rows.T])


def belongs_to(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a calibration depends on, of a bundle's metadata."""
    about = metadata["d24fad"]
    return {key: about.get(key) for key in ("sha256", "evidence", "pictures", "input_size", "cosine_weights")}


def _teacher(model: Mapping[str, Any]) -> Any:
    """The checksum of the teacher's weights."""
    return next((value for name, value in model["sha256"].items() if "teacher" in name), None)


def read_priors(folder: Path, metadata: Mapping[str, Any]) -> tuple[Priors, str]:
    """A bundle's priors and a note for the reader: where there are none, or they are of another model.

    ModelError for a file that is damaged.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return Priors(), "The model has no calibration of its own: only the references tell what is normal."
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["format"] != _FORMAT or kept["model"] != belongs_to(metadata):
            # What organs look like to the teacher does not depend on how residuals are made.
            same = kept["format"] == _FORMAT and _teacher(kept["model"]) == _teacher(belongs_to(metadata))
            usable = Priors(resemblance=_priors(kept).resemblance) if same else Priors()
            return usable, "The model's calibration is of another version of it: d24fad calibrate renews it."
        return _priors(kept), ""
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            f"{folder.name}: {CALIBRATION} cannot be used ({error!r}); install it again"
        ) from None


def _priors(kept: Mapping[str, Any]) -> Priors:
    space = kept.get("resemblance")
    return Priors(
        scores={
            kind: {int(k): ScorePrior(**v) for k, v in rows.items()} for kind, rows in kept["scores"].items()
        },
        knots={int(k): tuple(map(float, v)) for k, v in kept["knots"].items()},
        findings=float(kept["findings"]),
        outlier={name: ScorePrior(**v) for name, v in kept["outlier"].items()},
        outlier_limit=float(kept["outlier_limit"]),
        resemblance=None
        if space is None
        else Resemblance(
            np.asarray(space["centre"], np.float64),
            tuple(int(n) for n in space["splits"]),
            float(space["limit"]),
            float(space["shrinkage"]),
            float(space["single"]),
        ),
        about=dict(kept.get("about", {})),
    )


def write_priors(folder: Path, priors: Priors, metadata: Mapping[str, Any]) -> Path:
    """Write them into a bundle, whole or not at all."""
    space = priors.resemblance
    kept = {
        "format": _FORMAT,
        "model": belongs_to(metadata),
        "about": priors.about,
        "scores": {
            kind: {str(k): asdict(v) for k, v in sorted(rows.items())} for kind, rows in priors.scores.items()
        },
        "knots": {str(k): list(v) for k, v in sorted(priors.knots.items())},
        "findings": priors.findings,
        "outlier": {name: asdict(v) for name, v in priors.outlier.items()},
        "outlier_limit": priors.outlier_limit,
        "resemblance": None
        if space is None
        else {
            "limit": space.limit,
            "shrinkage": space.shrinkage,
            "single": space.single,
            "splits": list(space.splits),
            "centre": [round(float(v), 5) for v in space.centre],
        },
    }
    path = folder / CALIBRATION
    partial = path.with_suffix(".partial")
    text = json.dumps(kept, indent=1)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    return path
