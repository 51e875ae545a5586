"""Methods on small features whose answer is known."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from D24FADLib.benchmark.distillation import StudentMethod, TeacherStudentMethod
from D24FADLib.benchmark.features import FeatureStore, TeacherBlocks, of_stride, student_inputs
from D24FADLib.benchmark.judgement import GRID, Judgement, calibrated_threshold
from D24FADLib.benchmark.padim import PaDiM, mahalanobis
from D24FADLib.benchmark.patchcore import PatchCore, nearest
from D24FADLib.benchmark.shipped import ShippedMethod
from D24FADLib.inference.calibration import calibrate, smooth
from D24FADLib.inference.comparison import Comparer, Evidence
from D24FADLib.inference.pictures import PictureComparer, PictureEvidence
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.model import D24FADModel, upsampled_sum

SIZE = 64


@pytest.fixture(scope="module")
def encoder() -> TeacherBlocks:
    torch.manual_seed(0)
    return TeacherBlocks(EfficientNetLite0().eval(), "random", SIZE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_blocks_end_with_what_the_teacher_returns(encoder: TeacherBlocks, images: Tensor) -> None:
    blocks = encoder(images)
    assert [len(of_stride(blocks, SIZE, s)) for s in (4, 8, 16, 32)] == [2, 2, 6, 5]
    with torch.inference_mode():
        features, embedding = encoder.teacher(images)
    found, deepest = student_inputs(blocks, SIZE)
    for a, b in zip([*found, deepest], [*features, embedding], strict=True):
        torch.testing.assert_close(a, b)


def test_nearest_is_the_smallest_cosine_distance() -> None:
    query, supports = torch.randn(2, 5, 3, 4), torch.randn(3, 5, 3, 4)
    found = nearest(query, supports)
    assert found.shape == (2, 3, 3, 4)
    points = supports[2].flatten(1).T
    expected = 1 - torch.cosine_similarity(query[1, :, 2, 1][None], points).max()
    torch.testing.assert_close(found[1, 2, 2, 1], expected)


def test_patchcore_with_more_supports_is_never_further(encoder: TeacherBlocks, images: Tensor) -> None:
    features = encoder(images)
    query, supports = [f[:3] for f in features], [f[2:] for f in features]
    for method in (PatchCore(encoder, (16,), "all"), PatchCore(encoder, (8, 16), "last")):
        judged = method.judge(query, supports, [1, 4])
        assert judged[1].maps.shape == (3, GRID, GRID)
        assert (judged[4].maps <= judged[1].maps + 1e-6).all()
        assert judged[1].maps[2].max() < 1e-5  # it is the first support
        assert judged[1].maps[0].min() > 1e-3


def test_padim_is_the_mahalanobis_distance() -> None:
    """With the same features everywhere and no local share to speak of, that of the pooled Gaussian."""
    rng = torch.Generator().manual_seed(2)
    supports = torch.randn(8, 3, 10, 10, generator=rng) * torch.tensor([1.0, 3.0, 0.2])[:, None, None]
    query = torch.zeros(2, 3, 10, 10)
    query[1, 1], query[1, 2] = 3.0, 0.6
    distance = mahalanobis(query, supports)
    assert distance.shape == (2, 10, 10)
    # one sd of the second channel and three of the third: sqrt(1 + 9), give or take what 72 samples tell
    assert float(distance[1].median()) == pytest.approx(10**0.5, rel=0.15)
    assert float(distance[0].median()) < 0.5


def test_padim_knows_positions(encoder: TeacherBlocks, images: Tensor) -> None:
    features = encoder(images)
    supports = [f[:4] for f in features]
    method = PaDiM(encoder)
    same = method.judge([f[:1] for f in features], supports, [4])[4]
    turned = method.judge([f[:1].flip(2, 3) for f in features], supports, [4])[4]
    assert turned.scores()["mean"][0] > 1.2 * same.scores()["mean"][0]


@pytest.fixture(scope="module")
def model(encoder: TeacherBlocks) -> D24FADModel:
    torch.manual_seed(3)
    return D24FADModel(encoder.teacher).eval()


def test_the_papers_method_is_the_models_own_residual(
    encoder: TeacherBlocks, images: Tensor, model: D24FADModel
) -> None:
    features = encoder(images)
    method = StudentMethod("paper", encoder, model)
    judged = method.judge([f[:2] for f in features], [f[2:] for f in features], [4])[4]
    with torch.inference_mode():
        maps, weights = model.residual_map(images[:2], images[2:])
    np.testing.assert_allclose(judged.maps.mean((1, 2)), maps.mean((1, 2)), rtol=0.02)
    np.testing.assert_allclose(judged.weights, weights.mean(1), rtol=1e-4)


def test_uniform_weights_count_alike(encoder: TeacherBlocks, images: Tensor, model: D24FADModel) -> None:
    features = encoder(images)
    query, supports = [f[:2] for f in features], [f[2:] for f in features]
    uniform = StudentMethod("uniform", encoder, model, "uniform").judge(query, supports, [2, 4])
    assert (uniform[4].weights == 0.25).all()
    backwards = [f.flip(0) for f in supports]
    turned = StudentMethod("uniform", encoder, model, "uniform").judge(query, backwards, [4])
    np.testing.assert_allclose(turned[4].maps, uniform[4].maps, atol=1e-5)


def test_teacher_student_residual_ignores_supports(
    encoder: TeacherBlocks, images: Tensor, model: D24FADModel
) -> None:
    features = encoder(images)
    method = TeacherStudentMethod("rd4ad", encoder, model)
    query = [f[:2] for f in features]
    one, other = (method.judge(query, [f[i : i + 1] for f in features], [1])[1] for i in (3, 4))
    np.testing.assert_array_equal(one.maps, other.maps)
    assert one.scores()["mean"].std() > 0


def test_scores_of_a_map() -> None:
    maps = np.zeros((1, GRID, GRID), np.float32)
    maps[0, :8, :8] = 2.0  # 64 of 4096 pixels, 1.5 %
    scores = Judgement(maps).scores()
    assert scores["max"][0] == 2.0
    assert scores["mean"][0] == pytest.approx(2 * 64 / 4096)
    assert scores["top5"][0] == pytest.approx(2 * 64 / 205)
    assert Judgement(maps, own=np.array([7.0])).scores()["own"][0] == 7.0


def test_threshold_comes_from_the_supports_against_each_other(encoder: TeacherBlocks, images: Tensor) -> None:
    features = encoder(images)
    supports = [f[2:] for f in features]
    method = PatchCore(encoder, (16,), "all")
    judged = method.judge([f[:2] for f in features], supports, [4])[4]
    threshold = calibrated_threshold(method, supports, judged)
    others = [f[torch.tensor([0, 1, 3])] for f in supports]
    maps = method.judge([f[2:3] for f in supports], others, [3])[3].maps
    assert maps.min() < threshold < 1.05 * maps.max()
    assert calibrated_threshold(method, [f[:1] for f in supports], judged) is None
    assert calibrated_threshold(method, supports, Judgement(judged.maps, threshold=4.5)) == 4.5


def test_store_keeps_features_by_content(tmp_path, encoder: TeacherBlocks, miniature) -> None:
    class Counting:
        key, size = "counting", SIZE
        seen = 0

        def __call__(self, images: Tensor) -> list[Tensor]:
            self.seen += len(images)
            return [images[:, :, ::16, ::16], images.mean((1, 2, 3))[:, None, None, None]]

    paths = sorted((miniature / "ankle" / "train_normal").iterdir())[:3]
    counting, store = Counting(), FeatureStore(tmp_path)
    first = store.load(counting, paths)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    again = FeatureStore(tmp_path).load(counting, [*paths[::-1], copy])
    assert counting.seen == 3
    torch.testing.assert_close(again[0][[2, 1, 0]], first[0])
    torch.testing.assert_close(again[0][3], first[0][0])


def test_shipped_is_the_librarys_comparison_and_calibration(model: D24FADModel, images: Tensor) -> None:
    about = {"input_size": SIZE, "evidence": {"student": 1.0, "teacher": 1.0}}
    method = ShippedMethod(model, about, "random", "torch")
    features = method.encoder(images)
    query, supports = [f[:2] for f in features], [f[2:] for f in features]
    judged = method.judge(query, supports, [1, 4])[4]
    together = [torch.cat([q[1:2], s])[:, None] for q, s in zip(query, supports, strict=True)]
    comparer = Comparer(model, Evidence(1.0, 1.0), torch.device("cpu"))
    grid = together[0].shape[-2:]
    covered = torch.ones(4, 1, *grid, dtype=torch.bool)
    _, reduced, left_out, weights = comparer.compare_features(together, covered)
    fitted = calibrate(np.stack([smooth(o.numpy(), (0, 1, 1)) for o in left_out]), (1.0, 4.0, 4.0))
    deep = np.full((1, *grid), np.inf, np.float32)
    expected = fitted.scores(smooth(reduced.numpy(), (0, 1, 1)), deep)
    highest = np.sort(smooth(reduced.numpy(), (0, 1, 1)).ravel())[::-1]
    assert judged.own[1] == pytest.approx(np.log(highest[: len(highest) // 4].mean()), rel=1e-4)
    expected_map = upsampled_sum([torch.from_numpy(expected)], (64, 64))[0].numpy()
    np.testing.assert_allclose(judged.maps[1], expected_map, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(judged.weights[1], weights[0].mean(0), rtol=1e-5)
    assert judged.threshold >= 2.0


def test_shipped_compares_pictures_as_the_detector_does(model: D24FADModel, images: Tensor) -> None:
    evidence = PictureEvidence(((SIZE, 8), (SIZE, 16)), ((SIZE // 2, 32),))
    method = ShippedMethod(model, {"pictures": json.loads(json.dumps(asdict(evidence)))}, "random", "torch")
    features = method.encoder(images)
    query, supports = [f[:2] for f in features], [f[2:] for f in features]
    judged = method.judge(query, supports, [4])[4]
    comparer = PictureComparer(model, evidence, torch.device("cpu"))
    found = comparer.compare(comparer.encode(images[:2]), comparer.encode_supports(images[2:]))
    whole = smooth(found.overall[0].numpy(), (0, 1, 1))
    expected = [np.log(np.sort(m.ravel())[-len(m.ravel()) // 4 :].mean()) for m in whole]
    np.testing.assert_allclose(judged.own, expected, rtol=1e-4)
    np.testing.assert_allclose(judged.weights[1], found.weights, rtol=1e-4)


@pytest.mark.parametrize("pictures", [True, False])
def test_draws_of_the_same_pictures_are_compared_as_they_would_be_alone(
    model: D24FADModel, images: Tensor, pictures: bool
) -> None:
    evidence = PictureEvidence(((SIZE, 8), (SIZE, 16)), ((SIZE // 2, 32),))
    about = {"pictures": json.loads(json.dumps(asdict(evidence)))} if pictures else {"input_size": SIZE}
    method = ShippedMethod(model, about, "random", "torch")
    features = method.encoder(images)
    asked, chosen = np.array([5, 1]), np.array([3, 0, 2])
    together = method.among(features, 4)(asked, chosen)
    alone = method.compare([f[asked] for f in features], [f[chosen] for f in features])
    torch.testing.assert_close(together.overall[0], alone.overall[0])
    torch.testing.assert_close(together.left_out, alone.left_out)
