"""Noise, blur and emptiness of an image, against those of its references.

Measured on the images as they came, before anything interpolates them:

noise: standard deviation of the diagonal Haar detail, by its median absolute deviation (Donoho and
    Johnstone, Biometrika 81, 1994), over the range of the tissue's grey values.
detail: root mean square of the difference between the image and itself smoothed by two pixels, less the
    noise, over the same range. Motion and defocus lower it.

How far is too far follows the references of a volume: a further study of theirs lies beyond

    exp(t sd sqrt(1 + pi / (2 K)))   t: 99.5 % of Student's t with K - 1 degrees of freedom; sd: of their logs

times their median in about one case of 200, but a factor of 1.5 never counts as too much, and 3 (noise) or
0.4 (detail) always do. Fewer than three references do not tell, nor do pictures, whose compression makes
noise jump (9 % of normal chest X-rays would be called noisy): there those two limits hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from D24FADLib.imaging.planes import Plane, slices, to_canonical
from D24FADLib.imaging.volume import Volume, array_view
from D24FADLib.inference.checks import QUERY, REFUSE, WARN, Check

NOISIER, BLURRED = 3.0, 0.4  # of what the references have: too much in any case
_ALIKE = 1.5  # a factor that says nothing
_CONFIDENCE = 0.995
_SLICES = 8
_LEAST_NOISE = 2e-3  # of the range: less is rounding
_FAINT = 5e-3  # of the range: differences below it cannot be seen
_LEAST_FILLED = 0.01  # of the voxels


@dataclass(frozen=True)
class Quality:
    """noise, detail: shares of the tissue's range of grey values; filled: share of voxels that are not
    flat."""

    noise: float
    detail: float
    filled: float


def measure(volume: Volume, plane: Plane) -> Quality:
    """Of at most 8 slices of the plane, at their own resolution."""
    whole = slices(array_view(to_canonical(volume.image)), plane)
    middle = np.linspace(0.2, 0.8, _SLICES) * (len(whole) - 1)
    chosen = np.asarray(whole[np.unique(middle.round().astype(int))], np.float32)
    if chosen.ndim == 4:
        chosen = chosen.mean(axis=-1)
    low, high = np.percentile(chosen, (1, 99))
    if high <= low:
        low, high = chosen.min(), chosen.max()
    if high <= low:
        return Quality(0.0, 0.0, 0.0)
    scaled = (chosen - low) / (high - low)
    tissue = ndimage.uniform_filter(scaled, (0, 5, 5)) > 0.1
    even = scaled[:, : scaled.shape[1] // 2 * 2, : scaled.shape[2] // 2 * 2]
    haar = (even[:, ::2, ::2] - even[:, ::2, 1::2] - even[:, 1::2, ::2] + even[:, 1::2, 1::2]) / 2
    inside = tissue[:, : even.shape[1] : 2, : even.shape[2] : 2]
    values = haar[inside] if inside.sum() > 100 else haar.ravel()
    noise = float(np.median(np.abs(values))) / 0.6745 if values.size else 0.0
    rough = scaled - ndimage.gaussian_filter(scaled, (0, 2, 2))
    power = float(np.mean(rough[tissue] ** 2)) if tissue.any() else 0.0
    return Quality(noise, float(np.sqrt(max(power - noise**2, 0.0))), _filled(chosen))


def _filled(chosen: NDArray[np.float32]) -> float:
    """Share of pixels whose surroundings are not one flat value."""
    spread = ndimage.maximum_filter(chosen, (0, 3, 3)) - ndimage.minimum_filter(chosen, (0, 3, 3))
    return float((spread > 0).mean())


def check_quality(query: Volume, supports: Sequence[Volume], plane: Plane) -> list[Check]:
    """The query against its references, each reference against the others, and whether the query is empty."""
    volumes = [query, *supports]
    measured = [measure(v, plane) for v in volumes]
    telling = 3 if not query.is_single_image else len(volumes)  # references whose spread tells a limit
    found = []
    if measured[0].filled < _LEAST_FILLED:
        found.append(
            Check(
                "empty", REFUSE, QUERY,
                f"{query.name} is empty: {measured[0].filled:.1%} of it shows anything. Choose another one.",
                measured[0].filled,
            )
        )  # fmt: skip
    for n, own in enumerate(measured):
        others = [m for j, m in enumerate(measured[1:], start=1) if j != n]
        if not others or own.filled < _LEAST_FILLED:
            continue
        noise, noisier = _against(own.noise, [m.noise for m in others], NOISIER, telling)
        detail, sharper = _against(own.detail, [m.detail for m in others], 1 / BLURRED, telling)
        for code, wrong, what, value in (
            ("noise", noise > noisier, f"{noise:.1f} times as noisy", noise),
            (
                "blur",
                detail < 1 / sharper and noise <= noisier,
                f"blurred or moved ({detail:.0%} of the fine detail)",
                detail,
            ),
        ):
            if wrong:
                subject = QUERY if n == 0 else n
                text = (
                    f"{volumes[n].name} is {what} compared with the {'' if n == 0 else 'other '}references."
                )
                found.append(Check(code, WARN, subject, text, value))
    return found


def _against(own: float, others: Sequence[float], most: float, telling: int) -> tuple[float, float]:
    """How many times the others' median, and the factor either way from which on that is too far; `most`
    where fewer than `telling` others are there."""
    middle = max(float(np.median(others)), _LEAST_NOISE)
    if len(others) < telling or max(own, middle) < _FAINT:
        return own / middle, most
    spread = float(np.log(np.maximum(others, _LEAST_NOISE)).std(ddof=1))
    t = float(special.stdtrit(len(others) - 1, _CONFIDENCE))
    usual = t * spread * np.sqrt(1 + np.pi / 2 / len(others))
    return own / middle, float(np.exp(np.clip(usual, np.log(_ALIKE), np.log(most))))
