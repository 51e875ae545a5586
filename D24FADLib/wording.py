"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 slice", "3 slices"; `plural` where it is not the noun with an s, or a verb goes along."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
