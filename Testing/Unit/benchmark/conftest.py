"""A miniature data set of generated pictures: dull texture is normal, a bright blob is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

SIDE = 96


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(rng: np.random.Generator, wavelength: float, *, blob: bool) -> tuple[np.ndarray, np.ndarray]:
    """uint8 stripes of one wavelength with noise, and the mask of the blob."""
    y, x = np.mgrid[:SIDE, :SIDE]
    stripes = 0.4 + 0.15 * np.sin(2 * np.pi * (x + rng.uniform(0, 3)) / wavelength)
    values = stripes + 0.04 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1)
    center = rng.integers(30, SIDE - 30, 2)
    mask = blob & ((y - center[0]) ** 2 + (x - center[1]) ** 2 < 15**2)
    values = np.where(mask, 0.95, values)
    return (np.clip(values, 0, 1) * 255).astype(np.uint8), mask


def fill(
    folder: Path, count: int, rng: np.random.Generator, wavelength: float, *, blob: bool, masked: bool = False
) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels, mask = picture(rng, wavelength, blob=blob)
        Image.fromarray(pixels).save(folder / f"image_{number:02d}.png")
        if masked:
            masks = folder.parent / "masks"
            masks.mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8)).save(masks / f"image_{number:02d}.png")


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA with three tasks, masks for the first; the organs of "ankle" and "foot" are one, by a manifest."""
    data = tmp_path_factory.mktemp("miniature") / "tasks"
    rng = np.random.default_rng(4)
    for task, wavelength in (("ankle", 8.0), ("foot", 12.0), ("wrist", 20.0)):
        fill(data / task / "train_normal", 10, rng, wavelength, blob=False)
        fill(data / task / "test_normal", 6, rng, wavelength, blob=False)
        fill(data / task / "test_abnormal", 7, rng, wavelength, blob=True, masked=task == "ankle")
    (data / "MANIFEST.csv").write_text(
        "relpath,task_or_volume,organ\na,ankle,leg\nb,foot,leg\nc,wrist,arm\n", encoding="utf-8"
    )
    return data


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT in the layout of the official code, its spellings mixed as they are there."""
    root = tmp_path_factory.mktemp("official") / "data"
    rng = np.random.default_rng(5)
    for number, name in enumerate(("His", "LAG", "APTOS", "RSNA", "Brain_Tumor")):
        wavelength = 7.0 + 4 * number
        fill(root / name / "train" / "good", 6, rng, wavelength, blob=False)
        fill(root / name / "test" / "good", 4, rng, wavelength, blob=False)
        bad = "ungood" if name == "LAG" else "bad"
        fill(root / name / "test" / bad, 4, rng, wavelength, blob=True)
    fill(root / "RSNA" / "train" / "shot2" / "good2", 2, rng, 19.0, blob=False)
    return root
