"""What went wrong and the way out, and what numbers mean: in a sentence or two for the reader."""

from dataclasses import dataclass

from slicer.i18n import tr as _

# What PythonSlicer, a launcher, says where the Python it started crashed; its exit code is but 1 then.
_LAUNCHED_CRASHED = "exit abnormally"


@dataclass(frozen=True)
class Problem:
    """`details` is what the worker said last: for a report to the developers, never for the log."""

    kind: str
    text: str
    details: str = ""


def failure(kind, text, details=""):
    """A failure that the worker reported itself."""
    if kind == "memory":
        return Problem(kind, f"{text or _('Memory ran out.')} {_wayOutOfMemory()}", details)
    if kind == "dependency":
        return Problem(kind, _("{text} Press Find anomalies again to install it.").format(text=text), details)
    # What the command line calls an option is a tick here.
    text = text.replace("add --unsuitable-anyway", _("tick Go on with unsuitable references under Advanced"))
    if kind in ("input", "model", "output"):
        return Problem(kind, text or _("The detector could not use its input."), details)
    text = text or _("The detector failed.")
    return Problem("internal", _("{text} Nothing was changed in the scene.").format(text=text), details)


def ended(exitCode, crashed, details=""):
    """The worker ended without a result and without saying why."""
    if "could not be started" in details:
        text = _(
            "The detector could not be started. Restart Slicer; if that does not help, reinstall D24FAD."
        )
        return Problem("start", text, details)
    if crashed or exitCode in (137, -9, 139, -11, 134, -6) or _LAUNCHED_CRASHED in details:
        said = _("The detector ended unexpectedly, most often because memory ran out.")
        return Problem("crash", f"{said} {_wayOutOfMemory()}", details)
    text = _("The detector ended without a result (code {code}). Details tell more; nothing was changed.")
    return Problem("nonsense", text.format(code=exitCode), details)


def silent(minutes, details=""):
    """The worker lived but gave no sign of life for so long that it was ended."""
    said = _("The detector gave no sign of life for {minutes} minutes and was ended.").format(minutes=minutes)
    return Problem("silent", f"{said} {_wayOutOfMemory()}", details)


def unreadable(reason):
    """The worker said it was done, but its files are not what they should be."""
    text = _(
        "The detector's results cannot be read ({reason}). Nothing was changed in the scene; run it again."
    )
    return Problem("output", text.format(reason=reason))


def gone(what):
    """A volume was deleted, or the scene closed, while the run needed it."""
    return Problem(
        "gone", _("{what} while the detector was running, so the run was ended.").format(what=what)
    )


def _wayOutOfMemory():
    return _("Try a smaller batch, or the CPU as device (Advanced).")


def threshold(about, value):
    """What the threshold means, for the reader who moves it; `about` is `results.Results.about`."""
    if about.get("withheld"):
        return ""
    if not about.get("calibrated"):
        return _("With one reference nothing says what is normal variation: the threshold is a guess.")
    budget, chosen = about.get("budget"), float(about.get("threshold", value))
    if not budget:
        return ""
    said = _("At {threshold}, a normal study has at most {budget} on average, judging by the references.")
    many = _("1 false finding") if budget == 1 else _("{count} false findings").format(count=f"{budget:g}")
    if abs(value - chosen) < 0.005:
        said = _("Here, a normal study has at most {budget} on average, judging by the references.")
    return said.format(threshold=f"{chosen:.2f}", budget=many)


def withheld(why):
    """Why no findings are shown and the way out, "" where they are shown."""
    if not why:
        return ""
    text = _("{why} Choose other references, or go on anyway (Advanced): what is found then means little.")
    return text.format(why=why)


_BLAND = 0.01  # of normal studies score as low: the study is smoothed, or empty of detail


def study(about):
    """How unusual the study is as a whole, "" where nothing is known of it."""
    high, low = about.get("unusual") or (None, None)
    if high is None or about.get("withheld"):
        return ""
    if low is not None and low < _BLAND:
        text = _("Unusually bland: of normal studies, {share} would score as low. Is it smoothed?")
        return text.format(share=_percent(low))
    return _("Of normal studies, {share} would score as high as this one.").format(share=_percent(high))


def _percent(share):
    if share > 0.99:
        return _("more than 99 %")
    return _("fewer than 0.1 %") if share < 0.001 else f"{100 * share:.2g} %"


def finding(number, weights, said, names):
    """Why a finding is one. `weights` as `Results.judgedBy` gives, `said` as `Results.explanationOf`."""
    lines = []
    if said.get("departsBy"):
        kinds = _kinds()
        how = ", ".join(kinds.get(kind, kind) for kind in said["departsBy"])
        lines.append(_("Compared with the references it is {how}.").format(how=how))
    if said.get("falsePositives") is not None:
        text = _("A normal study has {count} findings as strong on average.")
        lines.append(text.format(count=f"{said['falsePositives']:.2g}"))
    if weights:
        listed = ", ".join(f"{name} ({weight:.2f})" for name, weight in weights)
        text = _("Slice {number} was judged against {references}.")
        lines.append(text.format(number=number, references=listed))
    nearest = said.get("nearest")
    if nearest is not None and nearest < len(names):
        lines.append(_("At its peak {reference} is most like it.").format(reference=names[nearest]))
    if len(said.get("residuals") or ()) == 3:
        fine, middle, coarse = (f"{value:.2f}" for value in said["residuals"])
        text = _("Difference in fine, middle, coarse detail: {fine}, {middle}, {coarse}.")
        lines.append(text.format(fine=fine, middle=middle, coarse=coarse))
    return "\n".join(lines)


def _kinds():
    return {
        "brighter": _("brighter"),
        "darker": _("darker"),
        "noisier": _("noisier"),
        "blander": _("blander"),
        "texture": _("of another texture"),
    }


def duration(seconds):
    """As one would say it: coarse, because it is an estimate."""
    if seconds < 10:
        return _("a few seconds")
    if seconds < 55:
        return _("about {count} s").format(count=round(seconds / 5) * 5)
    if seconds < 3300:
        return _("about {count} min").format(count=max(1, round(seconds / 60)))
    return _("about {count} h").format(count=f"{seconds / 3600:.1f}")
