"""From folders to episodes: tasks, slices of volumes, planted supports, augmentation, validation cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from D24FADLib.errors import InputError
from D24FADLib.imaging.alignment import Alignment
from D24FADLib.imaging.planes import Plane
from D24FADLib.inference.comparison import Evidence
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.augmentation import augment
from D24FADLib.training.dataset import Episode, Episodes, ImageEpisode, implanted
from D24FADLib.training.features import teacher_features
from D24FADLib.training.images import ImageSet
from D24FADLib.training.options import RECIPES, TrainingOptions
from D24FADLib.training.sources import find_tasks, load_task
from D24FADLib.training.volumes import VolumeOptions, find_volumes, load_slices

sitk = pytest.importorskip("SimpleITK")
Image = pytest.importorskip("PIL.Image")

OPTIONS = replace(RECIPES["d24fad"].options, batch=4, shots=(3,))


class MeanTeacher(nn.Module):
    """Features whose every value is the image's mean: they tell which image they are of."""

    architecture, stride, embedding_channels, signed_features = "mean", 32, 5, True
    channels = (4, 4, 4)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        n, _, height, width = x.shape
        mean = x.mean(dim=(1, 2, 3))[:, None, None, None]
        parts = [mean.expand(n, c, height // s, width // s) for c, s in ((4, 4), (4, 8), (4, 16), (5, 32))]
        return parts[:3], parts[3]


def numbered(task: str, count: int, first: int = 0) -> ImageSet:
    """Image i has the gray value first + i."""
    values = torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None]
    return ImageSet(task, values.expand(count, 1, 64, 64).clone(), np.arange(count))


def head(shift: int, brightness: float = 1.0) -> object:
    """A small head: an ellipsoid with a bright spot, 40 x 40 x 24 voxels of 2 x 2 x 3 mm, moved by voxels."""
    z, y, x = np.mgrid[:24, :40, :40].astype(np.float32)
    x = x - shift
    body = ((x - 19) / 15) ** 2 + ((y - 20) / 17) ** 2 + ((z - 12) / 10) ** 2 < 1
    spot = ((x - 24) / 5) ** 2 + ((y - 14) / 5) ** 2 + ((z - 13) / 5) ** 2 < 1
    waves = 15 * np.sin(x / 3) * np.cos(y / 4)
    noise = np.random.default_rng(shift + 10).normal(0, 1, body.shape)
    array = (body * (100 + waves) + spot * 60) * brightness + noise
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 3.0))
    return image


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    folder = tmp_path / "t1"
    folder.mkdir()
    for number, (shift, brightness) in enumerate(((0, 1.0), (3, 4.0), (-2, 0.3))):
        sitk.WriteImage(head(shift, brightness), str(folder / f"{number}.nii.gz"))
    return folder


def test_aligned_volumes_give_slices_of_the_same_anatomy(volumes: Path, tmp_path: Path) -> None:
    """The second head lies 6 mm aside and is four times as bright; as supports in detection, they meet."""
    options = VolumeOptions(align=Alignment.RIGID, slices=6)
    images = load_slices(find_volumes(volumes), "t1", 64, options, tmp_path / "cache")
    unmoved = load_slices(
        find_volumes(volumes), "t1", 64, replace(options, align=Alignment.NONE), tmp_path / "cache"
    )
    assert images.places is not None
    assert images.pixels.dtype == torch.float16
    assert images.shape == (64, 64)
    assert images.images([0]).shape == (1, 3, 64, 64)
    first = images.places[images.studies == 0].tolist()
    assert len(first) in (5, 6)
    assert first == sorted(set(first))
    compared = 0
    for study in (1, 2):
        for place in places_of(images, study) & places_of(unmoved, study) & set(first):
            errors = [
                float((pixels_at(data, 0, place) - pixels_at(data, study, place)).abs().mean())
                for data in (images, unmoved)
            ]
            assert errors[0] < 0.05
            assert errors[0] < 0.7 * errors[1]
            compared += 1
    assert compared >= 5


def places_of(data: ImageSet, study: int) -> set[int]:
    assert data.places is not None
    return set(data.places[data.studies == study].tolist())


def pixels_at(data: ImageSet, study: int, place: int) -> Tensor:
    assert data.places is not None
    return data.pixels[np.flatnonzero((data.studies == study) & (data.places == place))[0]].float()


def test_slices_are_those_of_detection(volumes: Path, tmp_path: Path) -> None:
    from D24FADLib.imaging.reading import read_volume
    from D24FADLib.inference.comparison import input_size, to_input
    from D24FADLib.inference.preparation import prepare_study

    query, support = read_volume(volumes / "0.nii.gz"), read_volume(volumes / "1.nii.gz")
    prepared = prepare_study(query, [support], Plane.SAGITTAL, Alignment.POSITION)
    options = VolumeOptions(align=Alignment.POSITION, plane=Plane.SAGITTAL, slices=4)
    images = load_slices(find_volumes(volumes), "t1", 160, options, tmp_path)
    assert images.places is not None
    box = prepared.box
    shape = input_size(
        (box[1].stop - box[1].start) * prepared.spacing[1],
        (box[2].stop - box[2].start) * prepared.spacing[2], 160, 32,
    )  # fmt: skip
    assert images.shape == shape
    assert shape[0] != shape[1]  # the aspect is kept
    for index in np.flatnonzero(images.studies == 1):
        wanted = to_input(prepared.supports[0][images.places[index]][None, box[1], box[2]], shape)
        torch.testing.assert_close(images.images([int(index)]), wanted, atol=1e-3, rtol=0)


def test_unaligned_volumes_keep_their_own_slices(volumes: Path, tmp_path: Path) -> None:
    images = load_slices(find_volumes(volumes), "t1", 64, VolumeOptions(aligned=False, slices=5), tmp_path)
    assert images.places is None
    assert {int((images.studies == s).sum()) for s in range(3)} <= {4, 5}


def test_prepared_slices_are_kept_until_a_file_changes(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from D24FADLib import reading

    read: list[str] = []
    real = reading.read_study

    def counting(path: Path) -> object:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(reading, "read_study", counting)
    options = VolumeOptions(align=Alignment.NONE, slices=3)

    def load(size: int = 64) -> ImageSet:
        read.clear()
        return load_slices(find_volumes(volumes), "t1", size, options, tmp_path / "cache")

    first = load()
    assert read == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    again = load()
    assert read == []
    assert torch.equal(first.pixels, again.pixels)
    assert np.array_equal(first.studies, again.studies)
    load(32)
    assert len(read) == 3
    sitk.WriteImage(head(5), str(volumes / "2.nii.gz"))
    load()
    assert len(read) == 3


def test_tasks_are_found_in_folders_of_either_kind(volumes: Path, tmp_path: Path) -> None:
    for name in ("liver/train_normal", "skin", "skin/masks", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("liver/train_normal/a.png", "skin/a.png", "skin/masks/a.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    found = find_tasks([tmp_path])
    assert found == {
        "liver": tmp_path / "liver" / "train_normal", "skin": tmp_path / "skin", "t1": volumes
    }  # fmt: skip
    assert find_tasks([volumes, tmp_path / "skin"], ["t1"]) == {"skin": tmp_path / "skin"}
    with pytest.raises(InputError, match="--leave-out brain: no such task"):
        find_tasks([tmp_path], ["brain"])
    with pytest.raises(InputError, match="skin: two folders of this name"):
        find_tasks([tmp_path, tmp_path / "skin"])
    with pytest.raises(InputError, match="empty: holds no folders of normals"):
        find_tasks([tmp_path / "empty"])
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_tasks([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: Image.new("L", (8, 8)).save(f / "a.png"), "t1: holds pictures and volumes"),
        (lambda f: [p.unlink() for p in sorted(f.iterdir())[1:]], "t1: at least two normal volumes"),
        (lambda f: sitk.WriteImage(head(0)[:, :, 12:13], str(f / "1.nii.gz")), r"1\.nii\.gz: a single image"),
        (lambda f: (f / "2.nii.gz").write_bytes(b"no"), r"2\.nii\.gz: "),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used_are_named(
    volumes: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(volumes)
    with pytest.raises(InputError, match=message):
        load_task(volumes, "t1", 64, VolumeOptions(align=Alignment.NONE), tmp_path / "cache")


def gray(features: Tensor) -> list[int]:
    """Which images `MeanTeacher` saw; every value of one image must agree."""
    flat = (features.flatten(1) * 255).round()
    assert torch.equal(flat, flat[:, :1].expand_as(flat))
    return [int(n) for n in flat[:, 0]]


@pytest.mark.parametrize("kept", [True, False], ids=["kept-features", "end-to-end"])
@pytest.mark.parametrize("own", [True, False], ids=["own-supports", "shared"])
def test_episodes_hold_what_was_drawn(kept: bool, own: bool) -> None:
    data, teacher = numbered("a", 30), MeanTeacher()
    options = replace(OPTIONS, own_supports=own)
    sets = [teacher_features(teacher, data)] if kept else [data]
    episodes = Episodes(sets, [range(0, 30, 2)], options)
    for number in range(20):
        episode = episodes[number]
        if isinstance(episode, ImageEpisode):
            episode = episode.encoded(teacher)
        query, support = gray(episode.query_embedding), np.array(gray(episode.support_embedding))
        assert [gray(f) for f in episode.query_features] == [query] * 3
        columns = episode.supports_of([episode.support_embedding])[0]
        assert columns.shape[:2] == (3, 4) if own else columns.shape[0] == 3
        rows = support[episode.rows.numpy()].T if episode.rows is not None else [support] * 4
        for one, others in zip(query, rows, strict=True):
            assert len({one, *others}) == 4
            assert all(n % 2 == 0 for n in (one, *others))


@pytest.mark.parametrize("kept", [True, False], ids=["kept-features", "end-to-end"])
def test_bad_supports_are_foreign_or_anomalous(kept: bool) -> None:
    """Task a is 0..29, b is 100..129; with its anomaly an image's mean is something else."""
    sets, teacher = [numbered("a", 30, 10), numbered("b", 30, 100)], MeanTeacher()
    options = replace(OPTIONS, bad_support_probability=1.0)
    given = [teacher_features(teacher, data) for data in sets] if kept else sets
    anomalous = [teacher_features(teacher, implanted(data, 0)[0]) for data in sets] if kept else None
    episodes = Episodes(given, [range(30)] * 2, options, anomalous)
    plain = Episodes(given, [range(30)] * 2, OPTIONS)
    foreign = changed = 0
    for number in range(60):
        pair = [episodes[number], plain[number]]
        encoded = [e.encoded(teacher) if isinstance(e, ImageEpisode) else e for e in pair]
        one, other = (e.support_embedding[:, 0, 0, 0] * 255 for e in encoded)
        assert torch.equal(encoded[0].query_embedding, encoded[1].query_embedding)
        differs = (one - other).abs() > 0.02
        bad = encoded[0].bad
        assert bad is not None
        assert [k for k in range(3) if differs[k]] in ([bad], [])
        foreign += int((one[bad] - other[bad]).abs() > 50)
        changed += int(differs[bad])
    assert 15 < foreign < 45  # about half
    assert changed > 50


def test_implanted_images_differ_inside_their_masks_only() -> None:
    data = ImageSet("a", (torch.rand(4, 1, 64, 64) * 255).to(torch.uint8), np.arange(4))
    changed, masks = implanted(data, 3)
    assert changed.pixels.shape == (4, 3, 64, 64)
    assert masks.shape == (4, 64, 64)
    difference = (changed.images(range(4)) - data.images(range(4))).abs().amax(1)
    for number in range(4):
        assert difference[number][masks[number]].mean() > 10 * difference[number][~masks[number]].mean()
    again, _ = implanted(data, 3)
    assert torch.equal(again.pixels, changed.pixels)
    assert not torch.equal(implanted(data, 4)[0].pixels, changed.pixels)


def test_augmentation_changes_each_image_and_mirrors_all_or_none() -> None:
    ramp = torch.linspace(0.2, 0.8, 64).expand(6, 3, 64, 64).contiguous()
    mirrored = 0
    for seed in range(20):
        made = augment(ramp, np.random.default_rng(seed))
        assert made.shape == ramp.shape
        assert 0 <= made.min() <= made.max() <= 1
        rising = {bool(image[..., 40:].mean() > image[..., :24].mean()) for image in made}
        assert len(rising) == 1
        mirrored += not rising.pop()
        assert len({float(image.mean()) for image in made}) > 1
        assert torch.equal(made, augment(ramp, np.random.default_rng(seed)))
    assert 4 < mirrored < 16
    assert torch.equal(ramp[0, 0, 0], torch.linspace(0.2, 0.8, 64))


@pytest.mark.parametrize("aligned", [False, True])
def test_validation_scores_follow_the_maps(aligned: bool) -> None:
    """Without a student's share the map is the teacher's distance, which the Comparer of detection gives."""
    pytest.importorskip("torchmetrics")
    from sklearn.metrics import roc_auc_score

    from D24FADLib.inference.comparison import Comparer
    from D24FADLib.training.validation import make_cases, validate

    torch.manual_seed(0)
    blobs = nn.functional.interpolate(torch.rand(12, 1, 8, 8), (64, 64), mode="bicubic").clamp(0, 1)
    studies = np.repeat(np.arange(6), 2) if aligned else np.arange(12)
    data = ImageSet("a", blobs.half(), studies, np.tile(np.arange(2), 6) if aligned else None)
    model = D24FADModel.build("efficientnet_lite0")
    for module in model.teacher.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    model.teacher.eval()
    evidence = Evidence(student=0.0, teacher=1.0)
    options = TrainingOptions(validation_episodes=1, seed=3)
    (case,) = make_cases(model.teacher, [data], [range(12)], options, evidence)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    scores = validate(model, [case], evidence)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    highest = case.teacher.flatten(1).sort(dim=1).values[:, -5:].mean(1)
    count = len(case.masks)
    truth = np.repeat([0, 1], count)
    assert scores.image_auroc == pytest.approx(roc_auc_score(truth, highest), abs=1e-4)
    pixels = torch.cat([torch.zeros_like(case.masks), case.masks]).flatten()
    assert scores.pixel_auroc == pytest.approx(roc_auc_score(pixels, case.teacher.flatten()), abs=1e-4)
    assert scores.pixel_auroc > 0.6
    # the same distances by detection's own code, query by query
    episode = case.episode
    comparer = Comparer(model, evidence, torch.device("cpu"))
    supports = model.teacher(find_supports(data, episode, model.teacher))[0]
    shape = case.masks.shape[-2:]
    for b in range(count):
        rows = range(4) if episode.rows is None else episode.rows[:, b].tolist()
        stacked = [
            torch.cat([q[b : b + 1], s[list(rows)]])[:, None]
            for q, s in zip(episode.query_features, supports, strict=True)
        ]
        full, *_ = comparer.compare_features(
            [*stacked, *stacked], torch.ones(4, 1, *shape, dtype=torch.bool)
        )  # the student's share is nought: its features do not count
        torch.testing.assert_close(case.teacher[b], full[0], atol=1e-4, rtol=1e-3)


def find_supports(data: ImageSet, episode: Episode, teacher: nn.Module) -> Tensor:
    """The supports' images, found by their embedding."""
    with torch.no_grad():
        embeddings = teacher(data.images(slice(None)))[1].flatten(1)
    wanted = episode.support_embedding.flatten(1)
    return data.images(torch.cdist(wanted, embeddings).argmin(dim=1).tolist())
