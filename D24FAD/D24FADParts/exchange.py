"""Volumes to the worker and its results back, in short steps and without a word about the patient."""

import csv
import json

import numpy as np
import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import InputError, OutputError
from D24FADLib.worker import nrrd

from . import geometry, layers
from .results import Outcome
from .runrecord import RunRecord, number_

FILES = {
    "map": "anomaly_map.nrrd",
    "expected": "expected_normal.nrrd",
    "slices": "slices.csv",
    "record": "run.json",
}
_PASSED_AS_THEY_ARE = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def requireSpace(folder, volumeNodes, references):
    """Raises OutputError where the temporary folder cannot hold what goes through it."""
    voxels = volumeNodes[0].GetImageData().GetNumberOfPoints()
    need = sum(node.GetImageData().GetActualMemorySize() * 1024 for node in volumeNodes)
    need += voxels * 4 * (references + 4)
    free = folder.free_bytes()
    if free < need * 1.1:
        text = _("The temporary folder has {free} MB free; this run needs {need} MB. Free some.")
        raise OutputError(text.format(free=free // 2**20, need=int(need * 1.1) // 2**20 + 1))


def writeVolumes(work):
    """Write [(volume node, file)]; a generator of (done, total) bytes over all of them."""
    total = sum(slicer.util.arrayFromVolume(node).nbytes for node, _path in work)
    before = 0
    for node, path in work:
        array = slicer.util.arrayFromVolume(node)
        if array.dtype.name not in _PASSED_AS_THEY_ARE:
            array = array.astype(np.float32)
        for done, _all in nrrd.write(path, array, geometry.ijkToWorld(node)):
            yield before + done, total
        before += array.nbytes


class OutcomeReader:
    """Reads what the worker wrote; `outcome` is complete when the generator `read` has ended."""

    def __init__(self, folder, summary, queryNode, references, named=str):
        self._folder, self._query, self._references = folder, queryNode, references
        self._named = named
        self.record = RunRecord(summary)
        self.outcome = None

    def read(self):
        """A generator of (done, total); raises InputError where a file is not what it should be."""
        try:
            yield from self._read()
        except (OSError, nrrd.NrrdError, ValueError, KeyError, TypeError) as error:
            raise InputError(str(error)) from error

    def _read(self):
        self.record.record = self._record()
        record = self.record
        paths = [self._folder / FILES["map"], self._folder / FILES["expected"]]
        paths += [
            self._folder / f"weights_{number:02d}.nrrd" for number in range(1, len(self._references) + 1)
        ]
        images = []
        for number, path in enumerate(paths):
            if number > 0 and not path.exists():
                images.append(None)
                continue
            header = nrrd.read_header(path)
            self._requireGrid(path.name, header)
            image, array = layers.emptyImage(header.shape, np.float32)
            for done, size in nrrd.read_into(path, header, array):
                yield number + done / size, len(paths)
            images.append(image)
        peaks, means, weights = self._slices()
        self.outcome = Outcome(
            map=images[0],
            expected=images[1],
            weights=[image for image in images[2:] if image is not None],
            peaks=peaks,
            means=means,
            sliceWeights=weights,
            threshold=float(record.find("threshold")),
            calibrated=bool(record.find("calibrated")),
            plane=str(record.find("plane", "axial")),
            warnings=[str(text) for text in record.summary.get("warnings") or []],
            references=self._references,
            score=float(record.find("score", 0.0)),
            # What the threshold was chosen by; 0 where it was not chosen by the references.
            budget=float(record.find("false_positives_per_study", 0.0)) if record.find("calibrated") else 0.0,
            leastVoxels=self._leastVoxels(float(record.find("min_volume_ml", 0))),
            withheld=record.withheld(self._named),
            unusual=record.unusual(),
            explanations=record.explanations(),
            fused=bool(record.find("map_kinds", [])),
        )

    def _leastVoxels(self, milliliters):
        """What the detector leaves out as too small, in voxels of the study; as it counts them."""
        voxelMl = abs(float(np.linalg.det(geometry.ijkToWorld(self._query)[:3, :3]))) / 1000.0
        return max(1, round(milliliters / voxelMl))

    def _requireGrid(self, name, header):
        query = self._query.GetImageData().GetDimensions()[::-1]
        world = geometry.ijkToWorld(self._query)
        corner = np.array([*(np.array(query[::-1]) - 1), 1.0])
        apart = max(
            np.abs((header.ijk_to_ras - world) @ place).max() for place in (np.array([0, 0, 0, 1.0]), corner)
        )
        if tuple(header.shape) != tuple(query) or apart > 0.05:
            raise InputError(_("{name} does not lie on the study's grid").format(name=name))

    def _record(self):
        try:
            return json.loads((self._folder / FILES["record"]).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def _slices(self):
        """Per slice along the query's own axis: highest score, mean score, a weight for each reference."""
        with open(self._folder / FILES["slices"], encoding="utf-8", newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row.get("slice", row.get("index"))))
        names = list(rows[0]) if rows else []
        columns = [name for name in names if name.lower().startswith("weight")]
        weights = [[number_(row[column]) for row in rows] for column in columns]
        count = len(self._references)
        weights = (weights + [[float("nan")] * len(rows)] * count)[:count]
        return [number_(row["peak"]) for row in rows], [number_(row["mean"]) for row in rows], weights
