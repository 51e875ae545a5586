"""Made studies of any size, and detections of them in processes of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from D24FADLib.imaging.volume import Volume
from D24FADLib.imaging.writing import write_volume
from D24FADLib.simulation import Lesion, load_template, make_subject

LESION = Lesion(center_ras=(28.0, -30.0, 26.0), diameter_mm=16.0, kind="dark")


def resampled(volume: Volume, size: Sequence[int]) -> Volume:
    """The same field of view in `size` voxels."""
    image = volume.image
    spacing = [s * n / m for s, n, m in zip(image.GetSpacing(), image.GetSize(), size, strict=True)]
    origin, direction = image.GetOrigin(), image.GetDirection()
    made = sitk.Resample(image, list(size), sitk.Transform(), sitk.sitkLinear, origin, spacing, direction, 0)
    return Volume(made, volume.name, volume.info)


def write_studies(folder: Path, size: Sequence[int], supports: int) -> list[Path]:
    """A simulated brain with a lesion, and normal ones: the query first."""
    template = load_template()
    paths = []
    for seed in range(supports + 1):
        subject, _ = make_subject(10 + seed, template=template, lesion=None if seed else LESION)
        paths.append(write_volume(resampled(subject, size), folder / f"subject_{seed}.nrrd"))
    return paths


# Runs the command line and tells its own peak memory: a parent sees only the largest of all its children.
_CHILD = (
    "import json, resource, subprocess, sys; "
    "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    "last = json.loads(done.stdout.splitlines()[-1]); "
    "print(json.dumps({'of_cores': used.ru_utime + used.ru_stime, 'peak_gib': used.ru_maxrss / 2**20, "
    "'seconds': last['seconds']}))"
)


def timed_detection(paths: Sequence[Path], cache: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Wall seconds, seconds of all cores together, peak memory (GiB) and wall seconds by stage of
    `d24fad detect`, file to outputs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "D24FADLib", "detect", str(paths[0]), "--json", "--overwrite"]
        command += ["--align", "affine", "--output", f"{folder}/results", *options]
        for path in paths[1:]:
            command += ["--support", str(path)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *command],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env=environment,
        )
        return {"wall": time.perf_counter() - start, **json.loads(done.stdout)}


def median_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run of median wall time, with the spread of all."""
    walls = [run["wall"] for run in runs]
    middle = min(runs, key=lambda run: abs(run["wall"] - statistics.median(walls)))
    return {**middle, "runs": len(runs), "fastest": min(walls), "slowest": max(walls)}
