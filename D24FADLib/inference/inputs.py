"""Whether a study and its references can be compared, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from D24FADLib.errors import InputError
from D24FADLib.references.suitability import Check, Kind, check_alone, check_references
from D24FADLib.references.traits import Traits, traits_of_volume

if TYPE_CHECKING:
    from D24FADLib.imaging.volume import Volume


def check_inputs(query: Volume, supports: Sequence[Volume], anyway: bool = False) -> list[str]:
    """What does not quite fit or may be wrong, in words. Raises InputError where `require_suitable` does."""
    misfits = require_suitable(
        query.name,
        traits_of_volume(query),
        [(support.name, traits_of_volume(support)) for support in supports],
        anyway,
    )
    return [f"{one.name}: {doubt}." for one in (query, *supports) for doubt in one.info.doubts] + misfits


def require_suitable(
    name: str, study: Traits, references: Sequence[tuple[str, Traits]], anyway: bool = False
) -> list[str]:
    """What does not quite fit between a study and its references (name, traits), in words.

    Raises InputError where a comparison is not possible or, unless `anyway`, where it would mean nothing.
    """
    if not references:
        raise InputError("no normal reference was given; choose 2 to 8 normal studies of the same protocol")
    warnings = []
    if len(references) == 1:
        warnings.append("One reference only: nothing tells how much normal studies differ. Use 2 to 8.")
    alone = check_alone(study)
    checks = check_references(study, [traits for _, traits in references])
    named = [(name, alone), *((of, check) for (of, _), check in zip(references, checks, strict=True))]
    _raise_refusals(named, anyway)
    # Of references that are as the study is in itself, the study's own line says enough.
    said = {(reason.kind, reason.reference) for reason in alone.reasons}
    for of, check in named:
        for reason in check.reasons:
            own = reason.kind in (Kind.NOT_HOUNSFIELD, Kind.FEW_SLICES, Kind.CONTENT)
            if check is alone or not (own and (reason.kind, reason.reference) in said):
                warnings.append(f"{of}: {reason}.")
    return warnings


def _raise_refusals(named: Sequence[tuple[str, Check]], anyway: bool) -> None:
    lines, overrule = [], True
    for name, check in named:
        found = [reason for reason in check.refusals if reason.impossible or not anyway]
        if found:
            lines.append(f"  {name}: {'; '.join(map(str, found))}")
            overrule = overrule and not any(reason.impossible for reason in found)
    if lines:
        more = "\nTo compare them all the same, add --unsuitable-anyway." if overrule else ""
        first = (
            f"These do not suit a comparison with {named[0][0]}. Choose normal studies of its own protocol:"
        )
        raise InputError("\n".join([first, *lines]) + more)
