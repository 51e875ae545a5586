"""Candidates above a threshold, fast enough to follow a slider.

As in the detector, voxels above the threshold that touch by a face or an edge form a candidate. Instead of
labelling the whole volume, the voxels above the slider's lowest value are found once; for a threshold, those
above it are joined into runs along i, and touching runs into components. Cost follows the number of voxels
above the threshold, not the size of the volume.
"""

from dataclasses import dataclass

import numpy as np

MOST_LISTED = 50  # candidates that become segments and table rows; all are counted
_MOST_VOXELS = 250_000  # that the lowest threshold leaves: what labels in well under 200 ms


@dataclass(frozen=True)
class Candidate:
    """One connected component above the threshold; rank 1 has the highest peak."""

    rank: int
    peak: float
    mean: float
    voxels: int
    peakIjk: tuple
    centerIjk: tuple


class CandidateFinder:
    """Finds the candidates of one map; `array` is (k, j, i) and must not change meanwhile."""

    def __init__(self, array, lowest=None):
        self.shape = array.shape
        flat = array.reshape(-1)
        self.highest = float(flat.max()) if flat.size else 0.0
        self.lowest = _lowest(flat, lowest)
        self._index = np.flatnonzero(flat >= self.lowest)
        self._value = flat[self._index].astype(np.float32)

    def find(self, threshold, leastVoxels=1):
        """(all candidates' number, the listed ones, flat voxel indices, their rank) at this threshold."""
        above = self._value > threshold
        index, value = self._index[above], self._value[above]
        if not index.size:
            return 0, [], index, np.zeros(0, np.uint8)
        start, stop, component, count = _components(index, self.shape)
        length = stop - start
        voxels = np.bincount(component, length, count).astype(int)
        peak = np.full(count, -np.inf, np.float32)
        np.maximum.at(peak, component, np.maximum.reduceat(value, start))
        kept = np.flatnonzero(voxels >= leastVoxels)
        listed = kept[np.argsort(-peak[kept], kind="stable")][:MOST_LISTED]
        rankOf = np.zeros(count, np.uint8)
        rankOf[listed] = np.arange(1, len(listed) + 1)
        rank = np.repeat(rankOf[component], length)
        shown = rank > 0
        index, value, rank = index[shown], value[shown], rank[shown]
        return len(kept), self._describe(index, value, rank, len(listed)), index, rank

    def _describe(self, index, value, rank, count):
        k, j, i = np.unravel_index(index, self.shape)
        voxels = np.bincount(rank, minlength=count + 1)
        total = np.bincount(rank, value, count + 1)
        peak = np.full(count + 1, -np.inf, np.float32)
        np.maximum.at(peak, rank, value)
        least = np.full(count + 1, np.inf, np.float32)
        np.minimum.at(least, rank, value)
        share = value - least[rank] + 1e-6
        whole = np.bincount(rank, share, count + 1)
        center = [np.bincount(rank, share * axis, count + 1) for axis in (i, j, k)]
        atPeak = np.flatnonzero(value == peak[rank])
        first = np.zeros(count + 1, int)
        first[rank[atPeak][::-1]] = atPeak[::-1]
        return [
            Candidate(
                number,
                float(peak[number]),
                float(total[number] / voxels[number]),
                int(voxels[number]),
                tuple(int(axis[first[number]]) for axis in (i, j, k)),
                tuple(float(axis[number] / whole[number]) for axis in center),
            )
            for number in range(1, count + 1)
        ]


def _lowest(flat, wished):
    """The wished lowest threshold, or higher where it would leave too many voxels to be quick."""
    step = max(1, flat.size // 500_000)
    sample = np.sort(flat[::step])
    most = int(sample.size * min(1.0, _MOST_VOXELS / max(1, flat.size)))
    quick = float(sample[-most]) if most else float(sample[-1])
    positive = float(np.nextafter(np.float32(0), np.float32(1)))
    return max(
        positive, quick if sample.size > most else positive, wished if wished is not None else positive
    )


def _components(index, shape):
    """Runs of neighbours along i (start, stop in `index`), and the component of each run."""
    rows, columns = shape[1], shape[2]
    line = index // columns
    width = columns + 2  # a gap, so that the end of a line never touches the start of the next
    key = index + 2 * line
    breaks = np.flatnonzero(np.diff(key) != 1) + 1
    start = np.concatenate(([0], breaks))
    stop = np.concatenate((breaks, [len(index)]))
    first, last = key[start], key[stop - 1]
    row = line[start] % rows
    pairs = []
    # The four lines before which a run's own line comes; the other four find it from their side. A line
    # that differs in row and slice touches by an edge only straight across, but for a single slice.
    straight = 1 if min(shape) == 1 else 0
    for offset, reach, inside in (
        (1, 1, row < rows - 1),
        (rows - 1, straight, row > 0),
        (rows, 1, row >= 0),
        (rows + 1, straight, row < rows - 1),
    ):
        run = np.flatnonzero(inside)
        low = np.searchsorted(last, first[run] + offset * width - reach)
        count = np.searchsorted(first, last[run] + offset * width + reach, side="right") - low
        touches = count > 0
        run, low, count = run[touches], low[touches], count[touches]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        pairs.append((np.repeat(run, count), np.repeat(low, count) + within))
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    root = _joined(a, b, len(start))
    isRoot = root == np.arange(len(start))
    number = np.cumsum(isRoot) - 1
    return start, stop, number[root], int(isRoot.sum())


def _joined(a, b, count):
    """For each of `count` things the least one it is joined to, directly or not, by the pairs (a, b).

    Each round joins the roots of all pairs at once and then shortens all ways to a root; few rounds
    suffice. (scipy has this too, but importing it would block the application for half a second.)
    """
    root = np.arange(count)
    while a.size:
        low = np.minimum(root[a], root[b])
        np.minimum.at(root, root[a], low)
        np.minimum.at(root, root[b], low)
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root = shorter
        apart = root[a] != root[b]
        a, b = a[apart], b[apart]
    return root
