"""What the detector says of a run in words and numbers: how references fared, its checks, its findings
explained. Read from the worker's result and its run.json; whatever an older detector does not say is left
out."""

from dataclasses import dataclass, field

_NOTHING = object()
_MOST_EXPLAINED = 50
REFUSE = "refuse"  # severity of a check for which no findings are given


@dataclass(frozen=True)
class ReferenceOutcome:
    """How a reference fared; `note` is for its tooltip, "" where there is nothing to say."""

    weight: float = -1.0
    standsOut: bool = False
    dropped: bool = False
    note: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why a finding is one. `falsePositives`: findings as strong in a normal study, on average; `residuals`:
    the difference at fine, middle and coarse detail; `nearest`: the reference most like it there, from 0;
    `departsBy`: of volumes, what it rests on ("darker", "texture", ...), the strongest first."""

    peakPlace: tuple  # world RAS
    falsePositives: float | None = None
    residuals: tuple = ()
    nearest: int | None = None
    departsBy: tuple = ()


@dataclass
class RunRecord:
    """`named(text)` puts the reader's names in place of the worker's neutral ones."""

    summary: dict
    record: dict = field(default_factory=dict)

    def find(self, name, default=_NOTHING):
        """The first value of this name in the result or the record, or one level below their top."""
        for place in (self.summary, self.record):
            for document in (place, *(value for value in place.values() if isinstance(value, dict))):
                if document.get(name) is not None:
                    return document[name]
        if default is _NOTHING:
            raise KeyError(f"the run record has no {name}")
        return default

    def references(self, named=str):
        """A ReferenceOutcome of each reference, in their order; [] where the worker said none."""
        found = []
        for number, support in enumerate(_dictionaries(self.find("supports", [])), 1):
            said = [str(support.get("note") or "")]
            said += [
                str(check.get("message") or "")
                for check in self._checks()
                if check.get("subject") == number and check.get("severity") != "info"
            ]
            found.append(
                ReferenceOutcome(
                    number_(support.get("mean_weight", -1)),
                    bool(support.get("stands_out")),
                    bool(support.get("dropped")),
                    "\n".join(dict.fromkeys(named(text) for text in said if text)),
                )
            )
        return found

    def withheld(self, named=str):
        """Why no findings are given; "" where they are."""
        return "\n".join(
            named(str(check.get("message"))) for check in self._checks() if check.get("severity") == REFUSE
        )

    def explanations(self):
        found = []
        for finding in _dictionaries(self.find("findings", []))[:_MOST_EXPLAINED]:
            if len(finding.get("peak_ras") or ()) == 3:
                nearest = finding.get("nearest_reference")
                found.append(
                    Explanation(
                        tuple(float(value) for value in finding["peak_ras"]),
                        finding.get("false_positives"),
                        tuple(float(value) for value in finding.get("residuals") or ()),
                        int(nearest) - 1 if nearest else None,
                        tuple(str(kind) for kind in finding.get("departs_by") or ()),
                    )
                )
        return found

    def unusual(self):
        """(share of normal studies that score at least as high as this one, at most as high); each None where
        it is not known."""
        shares = (self.find(name, None) for name in ("p_value", "p_value_low"))
        return tuple(None if share is None else float(share) for share in shares)

    def _checks(self):
        # Refusals that the user went on with are no longer a reason to withhold anything.
        anyway = bool(self.find("unsuitable_anyway", False))
        checks = _dictionaries(self.find("checks", []))
        return [check for check in checks if not (anyway and check.get("severity") == REFUSE)]


def number_(text):
    return float(text) if text not in ("", None) else float("nan")


def _dictionaries(values):
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
