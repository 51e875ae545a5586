"""Seconds by stage and peak memory of one detection, file to outputs, on a made study of a given size.

    python Testing/Benchmarks/detect_time.py --size 182 218 182 --supports 4 --align affine

The study and its references are simulated brains resampled to the size; the detection runs in a process of
its own through the command line, as a user runs it. Times include reading and writing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk

from D24FADLib.imaging.volume import Volume
from D24FADLib.imaging.writing import write_volume
from D24FADLib.simulation import Lesion, load_template, make_subject

LESION = Lesion(center_ras=(28.0, -30.0, 26.0), diameter_mm=16.0, kind="dark")


def resampled(volume: Volume, size: list[int]) -> Volume:
    """The same field of view in `size` voxels."""
    image = volume.image
    spacing = [s * n / m for s, n, m in zip(image.GetSpacing(), image.GetSize(), size, strict=True)]
    origin, direction = image.GetOrigin(), image.GetDirection()
    made = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, origin, spacing, direction, 0)
    return Volume(made, volume.name, volume.info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=[182, 218, 182])
    parser.add_argument("--supports", type=int, default=4)
    parser.add_argument("--align", default="affine")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    template = load_template()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for seed in range(args.supports + 1):
            subject, _ = make_subject(10 + seed, template=template, lesion=None if seed else LESION)
            path = Path(folder) / f"subject_{seed}.nrrd"
            paths.append(str(write_volume(resampled(subject, args.size), path)))
        command = [sys.executable, "-m", "D24FADLib", "detect", paths[0], "--json", "--overwrite"]
        command += [
            "--align",
            args.align,
            "--runtime",
            args.runtime,
            "--output",
            str(Path(folder) / "results"),
        ]
        for path in paths[1:]:
            command += ["--support", path]
        for _ in range(args.repeat):
            start = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            wall = time.perf_counter() - start
            result = json.loads(done.stdout.splitlines()[-1])
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["seconds"].items())
            print(f"{args.size}, K = {args.supports}: {wall:.1f} s in all ({stages}), peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
