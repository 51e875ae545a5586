"""A worker that behaves as told: well, or in one of the ways a real one can go wrong.

`python fake_worker.py MODE QUERY OUTPUT SUPPORT...`. It speaks the worker's protocol and writes the
detector's files, with a map that is simply |query - first support| over its spread: enough to test what
the module does with a detector's results, and no detector.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def emit(**event: object) -> None:
    print(json.dumps(event), flush=True)


def main() -> int:
    mode, query, output, supports = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]
    name, _, argument = mode.partition(":")
    os.setsid()
    emit(event="started", pid=os.getpid())
    if name == "batch":
        # Memory suffices only for a batch of at most the argument; the last word of argv is the batch.
        batch = int(supports.pop())
        if batch > int(argument):
            emit(event="error", kind="memory", text="CUDA out of memory.")
            return 1
        name = "well"
    emit(event="progress", step="compare", done=1, total=20, text="")
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "memory":
        emit(event="error", kind="memory", text="CUDA out of memory.")
        return 1
    if name == "nonsense":
        print("<<<< this is \x00 no JSON {]" * 50)
        print("[1, 2, 3]")
        return 0
    if name == "refuse":
        emit(event="error", kind="input", text="support_01.nrrd: nothing in it but air.")
        return 2
    if name in ("hang", "stubborn", "family"):
        if name != "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if name == "family":
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
            print(f"child {child.pid}", file=sys.stderr, flush=True)
        time.sleep(600)
    if name == "slow":
        for done in range(2, 21):
            time.sleep(float(argument or 0.15))
            emit(event="progress", step="compare", done=done, total=20, text="")
    write(query, supports, output, name)
    return 0


def write(query: str, supports: list[str], output: Path, mode: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    image = sitk.ReadImage(query)
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    other = np.zeros_like(array)
    if Path(supports[0]).is_file():
        support = sitk.Resample(sitk.ReadImage(supports[0]), image, sitk.Transform(), sitk.sitkLinear, 0.0)
        other = sitk.GetArrayFromImage(support).astype(np.float32)
    difference = np.abs(array - other)
    score = difference / max(1e-6, float(difference.std()))

    def save(values: np.ndarray, name: str) -> None:
        made = sitk.GetImageFromArray(values.astype(np.float32))
        made.CopyInformation(image)
        sitk.WriteImage(made, str(output / name), False)

    save(score, "anomaly_map.nrrd")
    save(other, "expected_normal.nrrd")
    total = len(supports) * (len(supports) + 1) / 2
    shares = [number / total for number in range(len(supports), 0, -1)]  # the first counts most
    for number, share in enumerate(shares, 1):
        save(np.full_like(array, share), f"weights_{number:02d}.nrrd")
    with open(output / "slices.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["slice", "peak", "mean", *(f"weight_{n + 1:02d}" for n in range(len(supports)))])
        for index, piece in enumerate(score):
            writer.writerow([index, piece.max(), piece.mean(), *shares])
    record: dict = {"plane": "axial", "options": {"false_positives_per_study": 1.0}}
    reports: list = [{"mean_weight": share, "stands_out": n == 0} for n, share in enumerate(shares)]
    if mode == "explained":
        k, j, i = np.unravel_index(score.argmax(), score.shape)
        x, y, z = image.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))
        explained = {"false_positives": 0.125, "residuals": [0.31, 0.22, 0.1], "nearest_reference": 2}
        record["findings"] = [{"rank": 1, "peak_ras": [-x, -y, z], **explained}]
        record |= {"p_value": 0.02, "p_value_low": 0.98}
        text = "support_02 is blurred or moved compared with the other references."
        record["checks"] = [{"code": "blur", "severity": "warn", "subject": 2, "message": text}]
        reports[2]["dropped"] = True
    if mode == "withheld":
        text = "query does not resemble its references."
        record["checks"] = [{"code": "unsuitable", "severity": "refuse", "subject": "query", "message": text}]
    (output / "run.json").write_text(json.dumps(record))
    if mode == "cut":
        with open(output / "anomaly_map.nrrd", "r+b") as file:
            file.truncate(1000)
    emit(event="result", output=str(output), threshold=6.0, calibrated=True, score=9.0, supports=reports)


if __name__ == "__main__":
    sys.exit(main())
