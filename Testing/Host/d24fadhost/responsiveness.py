"""How long the panel keeps the GUI thread to itself, and how soon it follows: for a test and a benchmark."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from d24fadhost.fixtures import behaving


def loadStudy(panel: Any, side: int = 256, references: int = 3) -> list[Any]:
    """A study of side^3 noisy voxels with one bright block, and references without, chosen in the panel."""
    import slicer

    random = np.random.default_rng(0)
    nodes = []
    for number in range(references + 1):
        array = (500 + 20 * random.standard_normal((side, side, side), np.float32)).astype(np.int16)
        if number == 0:
            at = side * 2 // 5
            array[at : at + 12, at : at + 12, at : at + 12] += 600
        nodes.append(slicer.util.addVolumeFromArray(array, name=f"Volume {number}"))
    panel.logic.setQuery(nodes[0])
    for node in nodes[1:]:
        panel.logic.addReferenceNode(node)
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    panel.refresh()
    return nodes


def longestBlock(panel: Any, host: Any) -> tuple[float, float]:
    """Run once, by a click: (longest gap between ticks of a 2 ms timer, longest computing in one), in ms."""
    from PySide6 import QtCore

    gaps, busy, last = [], [], [time.perf_counter(), time.thread_time()]

    def tick() -> None:
        now = [time.perf_counter(), time.thread_time()]
        gaps.append(1000 * (now[0] - last[0]))
        busy.append(1000 * (now[1] - last[1]))
        last[:] = now

    timer = QtCore.QTimer()
    timer.setInterval(2)
    timer.timeout.connect(tick)
    panel.logic.workerArguments = behaving("well")
    timer.start()
    last[:] = [time.perf_counter(), time.thread_time()]
    panel.ui.applyButton.click()
    ended = host.process_events(120, until=lambda: not panel.logic.isRunning())
    timer.stop()
    if not ended or "candidate" not in panel.ui.countLabel.text:
        raise RuntimeError(f"the run did not end well: {panel.ui.runMessage.text}")
    return max(gaps), max(busy)


def thresholdTimes(panel: Any, host: Any, count: int = 15) -> list[tuple[float, float]]:
    """From a new slider value to segmentation, table and count, over the slider's range: (wall, computing)
    in ms."""
    slider = panel.ui.thresholdSlider
    low, high = slider.minimum, slider.maximum
    times = []
    for value in np.linspace(low, high, count + 1)[:-1]:
        slider.value = value
        host.process_events(0.1)  # the slider settles; what follows is timed alone
        start = time.perf_counter(), time.thread_time()
        panel.logic.setThreshold(float(value) + 1e-3)
        panel.findings.refresh()
        end = time.perf_counter(), time.thread_time()
        times.append((1000 * (end[0] - start[0]), 1000 * (end[1] - start[1])))
    return times


def cancelSeconds(panel: Any, host: Any) -> float:
    """Seconds from the click on Cancel to the end of a worker that does not want to end."""
    panel.logic.workerArguments = behaving("stubborn")
    panel.ui.applyButton.click()
    if not host.process_events(60, until=lambda: "Comparing" in panel.ui.progressLabel.text):
        raise RuntimeError("the worker did not start")
    host.process_events(0.3)
    start = time.perf_counter()
    panel.ui.applyButton.click()
    host.process_events(10, until=lambda: not panel.logic.isRunning())
    return time.perf_counter() - start
