"""`detect` on simulated brains: geometry, repeatability, what it finds and what it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from D24FADLib.errors import Cancelled, InputError
from D24FADLib.imaging.alignment import Alignment
from D24FADLib.imaging.planes import Plane, slice_axis
from D24FADLib.imaging.volume import Volume, VolumeInfo
from D24FADLib.inference.detector import STEPS, detect
from D24FADLib.inference.options import DetectionOptions
from D24FADLib.inference.outputs import write_outputs
from D24FADLib.inference.record import score_meaning


def reoriented(volume: Volume, code: str) -> Volume:
    """The same voxels at the same places in another array order."""
    return dataclasses.replace(volume, image=sitk.DICOMOrient(volume.image, code))


def tilted(volume: Volume) -> Volume:
    """The patient turned in the scanner: an oblique grid, axes far from where the array order suggests."""
    rotation = sitk.VersorTransform((0.3, -0.2, 0.9), 0.35).GetMatrix()
    turn = np.array(rotation).reshape(3, 3)
    image = sitk.DICOMOrient(volume.image, "PSL")
    direction = turn @ np.array(image.GetDirection()).reshape(3, 3)
    image.SetDirection(direction.ravel())
    image.SetOrigin(turn @ np.array(image.GetOrigin()) + (3.3, -7.7, 0.123456789))
    return dataclasses.replace(volume, image=image)


def assert_grid(image: sitk.Image, reference: sitk.Image) -> None:
    for ask in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, ask)() == getattr(reference, ask)(), ask


def volumes_of(detection) -> list[Volume]:
    return [
        detection.anomaly_map,
        detection.residual_map,
        detection.expected_normal,
        *detection.weights,
    ]


def center_of(mask: Volume) -> np.ndarray:
    """RAS mm."""
    k, j, i = np.argwhere(mask.array() > 0).mean(axis=0)
    x, y, z = mask.image.TransformContinuousIndexToPhysicalPoint((i, j, k))
    return np.array([-x, -y, z])


GRIDS = {
    "as made": lambda v: v,
    "left-handed": lambda v: reoriented(v, "LPI"),
    "oblique": tilted,
}


@pytest.mark.parametrize(
    ("grid", "plane"),
    [
        ("as made", Plane.CORONAL),
        ("left-handed", Plane.AXIAL),
        ("left-handed", Plane.SAGITTAL),
        ("oblique", Plane.AXIAL),
        ("oblique", Plane.CORONAL),
        ("oblique", Plane.SAGITTAL),
    ],
)
def test_everything_lies_on_exactly_the_querys_grid(simulated, options, grid: str, plane: Plane) -> None:
    query = GRIDS[grid](simulated.query)
    supports = [GRIDS[grid](v) for v in simulated.supports[:2]]
    if grid == "left-handed":
        assert np.linalg.det(np.array(query.image.GetDirection()).reshape(3, 3)) < 0
    detection = detect(query, supports, options(plane=plane, threshold=2.0))
    assert detection.plane is plane
    for volume in volumes_of(detection):
        assert_grid(volume.image, query.image)
    assert detection.labels.shape == query.size[::-1]

    # One weight a slice and support, summing to 1 along the query's own axis of the plane.
    axis = slice_axis(query.image, plane)
    weights = np.stack([w.array() for w in detection.weights])
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-5)
    across = tuple(n + 1 for n in range(3) if n != 2 - axis)
    np.testing.assert_array_equal(weights.max(axis=across), weights.min(axis=across))
    rows = np.array([row.weights for row in detection.slices])
    assert [row.index for row in detection.slices] == list(range(query.size[axis]))
    along = np.moveaxis(weights, 1 + 2 - axis, 1)[:, :, 0, 0]
    np.testing.assert_allclose(rows.T, along, atol=1e-6)

    # The lesion is where the lesion is, whatever the array order: within its radius of its centre.
    truth = GRIDS[grid](simulated.truth)
    assert detection.findings
    assert np.linalg.norm(np.array(detection.findings[0].center_ras) - center_of(truth)) < 11.0
    peak = np.unravel_index(int(np.argmax(detection.anomaly_map.array())), detection.labels.shape)
    assert detection.findings[0].slice == peak[2 - axis]


@pytest.mark.parametrize("code", ["RAS", "LPI", "SAR"])
def test_the_array_order_does_not_matter(simulated, detected, options, code: str) -> None:
    query = reoriented(simulated.query, code)
    detection = detect(query, [reoriented(v, code) for v in simulated.supports], options(plane=Plane.AXIAL))
    back = reoriented(detection.anomaly_map, "LPS")
    np.testing.assert_allclose(back.array(), detected.anomaly_map.array(), atol=1e-4)
    assert_grid(detection.anomaly_map.image, query.image)


def test_a_clear_lesion_is_the_top_finding(simulated, detected) -> None:
    truth = np.asarray(simulated.truth.array()) > 0
    top = detected.labels == 1
    assert (top & truth).sum() > 0.5 * top.sum()
    assert (top & truth).sum() > 0.2 * truth.sum()
    finding = detected.findings[0]
    # mm; a voxel is 4, a feature position 6
    assert np.linalg.norm(np.array(finding.center_ras) - center_of(simulated.truth)) < 8.0
    np.testing.assert_allclose(finding.volume_ml, top.sum() * 0.064, rtol=1e-5)
    assert finding.peak == pytest.approx(float(detected.anomaly_map.array().max()))
    assert detected.calibrated
    assert detected.score > detected.threshold


def test_left_and_right_are_not_swapped(simulated, detected, options) -> None:
    mirrored = detect(simulated.mirrored, simulated.supports, options(plane=Plane.AXIAL))
    centers = [np.array(d.findings[0].center_ras) for d in (detected, mirrored)]
    assert centers[0][0] > 15.0  # R of RAS is positive to the right
    assert centers[1][0] < -15.0
    assert np.linalg.norm(centers[1] - center_of(simulated.mirrored_truth)) < 8.0


def test_the_expected_normal_lacks_the_lesion(simulated, detected) -> None:
    """In the query's own intensities: like the query outside the lesion, darker than it inside."""
    query, normal = (np.asarray(v.array(), float) for v in (simulated.query, detected.expected_normal))
    lesion = np.asarray(simulated.truth.array()) > 0
    outside = ~lesion & (query > np.percentile(query, 20))
    assert normal[outside].mean() == pytest.approx(query[outside].mean(), rel=0.15)
    assert normal[lesion].mean() < 0.9 * query[lesion].mean()


def without_time(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in ("written", "seconds")}


def test_same_input_same_output_to_the_bit(simulated, small_model: Path, tmp_path: Path) -> None:
    """With the runtime that is the default here, OpenVINO where it is installed."""
    asked = DetectionOptions(model=str(small_model), device="cpu", align=Alignment.POSITION)
    runs = []
    for name in ("first", "second"):
        detection = detect(simulated.query, simulated.supports[:2], asked)
        write_outputs(detection, tmp_path / name)
        runs.append(detection)
    for one, other in zip(volumes_of(runs[0]), volumes_of(runs[1]), strict=True):
        np.testing.assert_array_equal(one.array(), other.array())
    np.testing.assert_array_equal(runs[0].labels, runs[1].labels)
    assert runs[0].findings == runs[1].findings
    names = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "second").iterdir())
    assert len(names) >= 9
    for name in names:
        one, other = ((tmp_path / run / name).read_bytes() for run in ("first", "second"))
        if name == "run.json":
            assert without_time(json.loads(one)) == without_time(json.loads(other))
        else:
            assert one == other, name


def test_the_order_of_the_supports_does_not_matter(simulated, detected, options) -> None:
    order = [2, 0, 1]
    permuted = detect(simulated.query, [simulated.supports[k] for k in order], options(plane=Plane.AXIAL))
    for new, old in enumerate(order):
        np.testing.assert_allclose(permuted.weights[new].array(), detected.weights[old].array(), atol=1e-5)
        assert permuted.supports[new].name == detected.supports[old].name
    assert not np.allclose(detected.weights[0].array(), detected.weights[1].array(), atol=1e-4)
    np.testing.assert_allclose(permuted.anomaly_map.array(), detected.anomaly_map.array(), atol=1e-3)
    np.testing.assert_allclose(
        permuted.expected_normal.array(), detected.expected_normal.array(), rtol=1e-3, atol=1.0
    )
    assert permuted.threshold == pytest.approx(detected.threshold, abs=1e-3)


def test_one_support_works_and_says_that_nothing_is_calibrated(simulated, options) -> None:
    detection = detect(simulated.query, simulated.supports[:1], options())
    assert not detection.calibrated
    assert any("One reference only" in w for w in detection.warnings)
    assert any("raw residual" in w for w in detection.warnings)
    assert detection.record["map_units"].startswith("raw residual")
    assert "not calibrated" in detection.record["threshold_meaning"]
    np.testing.assert_array_equal(detection.weights[0].array(), 1.0)
    assert detection.anomaly_map.array().min() >= 0.0
    assert np.isfinite(detection.threshold)
    assert detection.supports[0].leave_one_out_score is None


def test_the_study_among_its_supports_is_refused_unless_told(simulated, detected, options) -> None:
    same = dataclasses.replace(simulated.query, name="copy.nrrd")
    with pytest.raises(InputError, match=r"copy\.nrrd: it is the study itself"):
        detect(simulated.query, [simulated.supports[0], same], options())
    detection = detect(simulated.query, [simulated.supports[0], same], options(), unsuitable_anyway=True)
    assert [w for w in detection.warnings if "copy.nrrd: it is the study itself" in w]
    assert not [w for w in detected.warnings if "itself" in w]
    assert detection.residual_map.array().max() < detected.residual_map.array().max()


def test_another_modality_is_refused(simulated, options) -> None:
    other = dataclasses.replace(simulated.supports[0], name="other.nrrd", info=VolumeInfo(modality="PT"))
    with pytest.raises(InputError, match=r"other\.nrrd: modality PT, the study's is MR"):
        detect(simulated.query, [other, simulated.supports[1]], options())


def test_no_support_and_colour_supports_are_refused(simulated, options) -> None:
    with pytest.raises(InputError, match="no normal reference"):
        detect(simulated.query, [], options())
    pixels = np.random.default_rng(0).integers(0, 255, (1, 20, 30, 3)).astype(np.uint8)
    photo = Volume(sitk.GetImageFromArray(pixels, isVector=True), "photo.png")
    with pytest.raises(InputError, match=r"(?s)query\.nrrd.*photo\.png: a colour picture"):
        detect(simulated.query, [photo], options())


def test_progress_comes_in_order(simulated, options) -> None:
    told: list[tuple[str, int, int]] = []
    detect(simulated.query, simulated.supports[:2], options(batch=5), progress=lambda *a: told.append(a))
    steps = list(dict.fromkeys(step for step, _, _ in told))
    assert steps == list(STEPS)
    assert [step for step, _, _ in told] == sorted((step for step, _, _ in told), key=STEPS.index)
    for step in steps:
        events = [(done, total) for name, done, total in told if name == step]
        assert len({total for _, total in events}) == 1, step
        assert events == sorted(events), step
        assert events[-1][0] <= events[-1][1], step
    for step in ("align", "compare", "findings"):
        last = [(done, total) for name, done, total in told if name == step][-1]
        assert last[0] == last[1], step
    assert [done for step, done, _ in told if step == "compare"] == [0, 4, 8, 12]


@pytest.mark.parametrize("moment", [("align", 0, 2), ("compare", 2, 12)])
def test_cancelling_stops_before_the_next_batch(simulated, options, moment: tuple[str, int, int]) -> None:
    told: list[tuple[str, int, int]] = []
    with pytest.raises(Cancelled):
        detect(
            simulated.query,
            simulated.supports[:2],
            options(batch=2, align=Alignment.RIGID if moment[0] == "align" else Alignment.NONE),
            progress=lambda *a: told.append(a),
            should_cancel=lambda: moment in told,
        )
    assert told[-1] == moment


def test_a_given_threshold_is_used(simulated, detected, options) -> None:
    high = detect(simulated.query, simulated.supports, options(plane=Plane.AXIAL, threshold=1e6))
    assert high.findings == ()
    assert not high.labels.any()
    assert high.record["threshold_meaning"] == "as given"
    np.testing.assert_array_equal(high.anomaly_map.array(), detected.anomaly_map.array())


def test_an_outlier_is_flagged_and_left_out_where_asked(simulated, options) -> None:
    """A reference that is mostly noise: named, weighed 0, and the rest judged as without it."""
    rng = np.random.default_rng(4)
    bad = simulated.supports[1]
    array = bad.array().astype(np.float32)
    noise = rng.normal(0, 0.8 * array.std(), array.shape).astype(np.float32)
    spoilt = bad.with_array(array + noise, "bad.nrrd")
    supports = [simulated.supports[0], spoilt, simulated.supports[2], *_shifted(simulated.supports)]
    ask = options(plane=Plane.AXIAL)
    flagged = detect(simulated.query, supports, ask)
    assert [r.stands_out for r in flagged.supports] == [False, True, False, False, False]
    assert ("stands-out", 2) in [(c.code, c.subject) for c in flagged.checks]
    assert not any(r.dropped for r in flagged.supports)

    left = detect(simulated.query, supports, ask, drop_outliers=True)
    assert [r.dropped for r in left.supports] == [False, True, False, False, False]
    assert left.supports[1].mean_weight == 0
    assert not left.weights[1].array().any()
    rest = detect(simulated.query, [s for s in supports if s is not spoilt], ask)
    np.testing.assert_allclose(left.anomaly_map.array(), rest.anomaly_map.array(), atol=1e-4)
    assert {c["code"] for c in left.record["checks"]} >= {"stands-out", "dropped"}


def _shifted(supports) -> list[Volume]:
    """Two further normals: mixtures of two, so that no voxel equals another's."""
    first, _, third = (s.array().astype(np.float32) for s in supports)
    return [
        supports[0].with_array(0.7 * first + 0.3 * third, "mixed_1.nrrd"),
        supports[2].with_array(0.3 * first + 0.7 * third, "mixed_2.nrrd"),
    ]


def test_the_score_has_a_meaning_and_a_finding_an_explanation(detected) -> None:
    assert 0 < detected.p_value < 1
    assert detected.p_value + detected.p_value_low == pytest.approx(1)
    assert "a normal study scores this high in" in detected.record["score_meaning"]
    shares = {0.00005: "less than 0.1 %", 0.0412: "4.1 %", 0.5: "50 %", 0.997: "more than 99 %"}
    for share, text in shares.items():
        words = score_meaning(dataclasses.replace(detected, p_value=share, p_value_low=1 - share))
        assert words.startswith(f"a normal study scores this high in {text} of cases")
    top = detected.findings[0]
    assert 0 < top.false_positives < 5
    assert sum(top.weights) == pytest.approx(1, abs=1e-5)
    assert len(top.residuals) == 3
    assert top.nearest_reference in (1, 2, 3)


@pytest.mark.parametrize("plane", list(Plane))
def test_a_study_of_one_slice_whose_axes_run_the_other_way(simulated, options, plane: Plane) -> None:
    """Cut along its slice, a study is lines of pixels; numpy calls a flipped axis of one voxel contiguous."""
    turned = [reoriented(v, "RAI") for v in (simulated.query, *simulated.supports[:2])]
    query, *supports = (dataclasses.replace(v, image=v.image[:, :, 6:7]) for v in turned)
    detection = detect(query, supports, options(plane=plane, unsuitable_anyway=True, threshold=0.1))
    assert detection.anomaly_map.size == query.size
    assert detection.anomaly_map.array().any()
