"""How responsive the panel is during and after a run, on the test host (not in Slicer desktop).

    python Testing/Benchmarks/gui_block.py --side 256 --repeat 5

Prints medians, and the worst of all repeats: the longest time the GUI thread was blocked from the click on
Find anomalies to the findings, the time from a new threshold to segmentation, table and count, and the time
from a click on Cancel to the end of a worker that ignores polite requests. The worker is the made-up one of
the tests: what is measured is the panel and its logic, on real MRML, not the detector.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "D24FAD"), str(ROOT / "Testing" / "Host")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()

    from d24fadhost import start
    from d24fadhost.responsiveness import cancelSeconds, loadStudy, longestBlock, thresholdTimes

    host = start()
    import slicer

    slicer.modules.add("D24FAD", ROOT / "D24FAD" / "D24FAD.py")
    slicer.app.layoutManager()
    import D24FAD

    panel = D24FAD.D24FADWidget()
    panel.logic.missingPackages = panel.logic.helpfulPackages = list
    with tempfile.TemporaryDirectory() as folder:
        panel.logic.tempFolder = folder
        loadStudy(panel, args.side, args.references)
        host.process_events(0.3)
        blocks = [longestBlock(panel, host) for _ in range(args.repeat)]
        thresholds = [time for _ in range(args.repeat) for time in thresholdTimes(panel, host)]
        cancels = [1000 * cancelSeconds(panel, host) for _ in range(args.repeat)]
        panel.cleanup()
    print(f"{args.side}^3, {args.references} references, load average {os.getloadavg()[0]:.1f}, ms:")
    say("GUI thread blocked at most, in a run (wall)", [wall for wall, _cpu in blocks])
    say("GUI thread computing at most, in a run (CPU)", [cpu for _wall, cpu in blocks])
    say("new threshold to segmentation, table, count (wall)", [wall for wall, _cpu in thresholds])
    say("new threshold to segmentation, table, count (CPU)", [cpu for _wall, cpu in thresholds])
    say("Cancel to the worker's end", cancels)


def say(what: str, values: list[float]) -> None:
    print(f"  {what:51} median {statistics.median(values):5.0f}, worst {max(values):5.0f}")


if __name__ == "__main__":
    main()
