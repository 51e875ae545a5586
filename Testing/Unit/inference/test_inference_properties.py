"""What holds for every study: invariants of a detection over shapes, grids, voxel types and numbers of
references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from D24FADLib.imaging.planes import Plane
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detector import detect

TYPES = (np.uint8, np.int16, np.uint16, np.float32)
QUICK = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def studies(draw: st.DrawFn) -> tuple[Volume, list[Volume]]:
    """A query and one to four references of one odd grid, of textured blobs on air."""
    shape = [draw(st.integers(2, 5)), draw(st.integers(18, 30)), draw(st.integers(18, 30))]
    kind = draw(st.sampled_from(TYPES))
    spacing = [draw(st.floats(0.4, 6.0)) for _ in range(3)]
    turn = sitk.VersorTransform((0.3, -0.2, 0.9), draw(st.floats(-0.6, 0.6))).GetMatrix()
    flip = np.diag([draw(st.sampled_from((1.0, -1.0))), 1.0, 1.0])
    direction = (np.array(turn).reshape(3, 3) @ flip).ravel()
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def one(name: str) -> Volume:
        place = np.stack(np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij"))
        body = (place[1] ** 2 + place[2] ** 2 < 0.75).astype(float)
        texture = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 1.5, 1.5))
        values = body * (90 + 25 * texture / texture.std()) + 3 * rng.random(shape)
        image = sitk.GetImageFromArray(values.clip(0, 200).astype(kind))
        image.SetSpacing(spacing)
        image.SetOrigin((3.3, -7.1, 12.7))
        image.SetDirection(direction)
        return Volume(image, name)

    count = draw(st.integers(1, 4))
    return one("query"), [one(f"reference {k + 1}") for k in range(count)]


@QUICK
@given(case=studies(), plane=st.sampled_from(list(Plane)))
def test_grid_weights_and_order_of_references(options, case, plane: Plane) -> None:
    query, supports = case
    found = detect(query, supports, options(plane=plane))
    for volume in (found.anomaly_map, found.residual_map, found.expected_normal, *found.weights):
        for ask in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(volume.image, ask)() == getattr(query.image, ask)(), ask
        assert np.isfinite(volume.array()).all()
    weights = np.stack([w.array() for w in found.weights])
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-5)
    assert weights.min() >= 0
    assert len(found.supports) == len(supports)

    order = list(range(len(supports)))[::-1]
    turned = detect(query, [supports[k] for k in order], options(plane=plane))
    np.testing.assert_allclose(turned.anomaly_map.array(), found.anomaly_map.array(), atol=2e-3)
    again = np.stack([w.array() for w in turned.weights])[order]
    np.testing.assert_allclose(again, weights, atol=1e-4)
    assert turned.threshold == pytest.approx(found.threshold, abs=5e-3)


@QUICK
@given(case=studies(), scale=st.floats(0.5, 20.0), offset=st.floats(0.0, 300.0))
def test_the_intensities_scale_and_offset_do_not_matter(options, case, scale: float, offset: float) -> None:
    query, supports = case
    plain, changed = (
        detect(
            dataclasses.replace(query, image=sitk.Cast(query.image, sitk.sitkFloat32) * a + b),
            [dataclasses.replace(s, image=sitk.Cast(s.image, sitk.sitkFloat32)) for s in supports],
            options(plane=Plane.AXIAL),
        )
        for a, b in ((1.0, 0.0), (scale, offset))
    )
    np.testing.assert_allclose(changed.residual_map.array(), plain.residual_map.array(), atol=0.03)


@QUICK
@given(case=studies(), count=st.integers(2, 4))
def test_identical_references_are_one(options, case, count: int) -> None:
    query, supports = case
    copies = [dataclasses.replace(supports[0], name=f"copy {k}") for k in range(count)]
    one, many = (detect(query, s, options(plane=Plane.AXIAL)) for s in (supports[:1], copies))
    np.testing.assert_allclose(many.anomaly_map.array(), one.anomaly_map.array(), atol=1e-5)
    assert many.threshold == pytest.approx(one.threshold)
    assert not many.calibrated
    assert many.p_value is None
    # The first may be taken for a copy of the query: made studies of 20 pixels are mostly edge.
    assert {c.subject for c in many.checks if c.code == "duplicate"} >= set(range(2, count + 1))
    weights = np.stack([w.array() for w in many.weights])
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-5)
