from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from D24FADLib.errors import InputError
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.training.features import FeatureSet, cached_teacher_features, teacher_features
from D24FADLib.training.images import ImageSet, find_pictures, load_picture, load_pictures

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def teacher() -> EfficientNetLite0:
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # the default start shrinks the signal to nothing
            torch.nn.init.kaiming_normal_(module.weight)
    return network.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = tmp_path / "normals"
    images.mkdir()
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (50 + i, 70, 3), dtype=np.uint8)).save(images / f"{i}.png")
    return images


def load_image(path: Path, size: int) -> torch.Tensor:
    """(3, size, size) in [0, 1]."""
    return load_picture(path, size).float() / 255


def counted(teacher: EfficientNetLite0, *arguments: object) -> tuple[FeatureSet, int]:
    """Features and how many images the teacher looked at for them."""
    seen: list[int] = []
    handle = teacher.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        made = cached_teacher_features(teacher, *arguments)  # type: ignore[arg-type]
    finally:
        handle.remove()
    return made, sum(seen)


def test_cached_features_are_the_computed_ones(
    tmp_path: Path, folder: Path, teacher: EfficientNetLite0
) -> None:
    cache = tmp_path / "cache" / "new"
    images = load_pictures(folder, "liver", 64)
    first, ran = counted(teacher, "sha", images, cache)
    again, ran_again = counted(teacher, "sha", images, cache)
    computed = teacher_features(teacher, images)
    assert (ran, ran_again) == (5, 0)
    assert (again.task, again.shape, len(again)) == ("liver", (64, 64), 5)
    for a, b, c in zip(first.parts, again.parts, computed.parts, strict=True):
        assert a.dtype == torch.float16
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert [tuple(p.shape[1:]) for p in again.parts] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert not list(cache.glob("*.partial"))


def test_features_belong_to_their_images(folder: Path, teacher: EfficientNetLite0) -> None:
    """In the order of the file names, however the batches fall, to half precision."""
    made = teacher_features(teacher, load_pictures(folder, "liver", 64), batch=2)
    for i, path in enumerate(sorted(folder.iterdir())):
        with torch.inference_mode():
            features, embedding = teacher(load_image(path, 64)[None])
        for got, wanted in zip(
            (*made.features([i]), made.embedding([i])), (*features, embedding), strict=True
        ):
            assert wanted.std() > 0.01
            torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3 * wanted.abs().max().item())


def test_mirrored_images_have_left_and_right_exchanged(folder: Path) -> None:
    images = load_pictures(folder, "liver", 64)
    mirrored = images.mirrored()
    for x in (0, 5, 63):
        assert torch.equal(mirrored.pixels[..., x], images.pixels[..., 63 - x])
    assert mirrored.fingerprint() != images.fingerprint()
    assert np.array_equal(mirrored.studies, images.studies)


def test_cache_knows_what_it_depends_on(tmp_path: Path, folder: Path, teacher: EfficientNetLite0) -> None:
    cache = tmp_path / "cache"

    def ran(sha: str = "sha", size: int = 64, mirrored: bool = False) -> int:
        images = load_pictures(folder, "liver", size)
        return counted(teacher, sha, images.mirrored() if mirrored else images, cache)[1]

    assert ran() == 5
    assert ran() == 0
    assert ran(sha="other") == 5
    assert ran(size=32) == 5
    assert ran(mirrored=True) == 5
    pixels = np.asarray(Image.open(folder / "3.png")).copy()
    pixels[:40] = 0
    Image.fromarray(pixels).save(folder / "3.png")
    assert ran() == 5
    (folder / "4.png").unlink()
    assert ran() == 4
    assert ran() == 0


def test_progress_counts_the_images(folder: Path, teacher: EfficientNetLite0) -> None:
    told: list[int] = []
    teacher_features(teacher, load_pictures(folder, "liver", 32), batch=2, progress=told.append)
    assert told == [2, 2, 1]


def test_gray_pictures_take_a_third_of_the_memory(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(np.full((40, 40), 50 * (i + 1), np.uint8)).save(tmp_path / f"{i}.png")
    images: ImageSet = load_pictures(tmp_path, "liver", 32)
    assert images.pixels.shape == (2, 1, 32, 32)
    assert torch.equal(images.images([1]), torch.full((1, 3, 32, 32), 100 / 255))
    Image.fromarray(np.full((40, 40, 3), (9, 0, 0), np.uint8)).save(tmp_path / "2.png")
    assert load_pictures(tmp_path, "liver", 32).pixels.shape == (3, 3, 32, 32)


def test_images_are_found_by_name(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "0B.BMP")
    assert [p.name for p in find_pictures(folder)] == ["0.png", "0B.BMP", "1.png", "2.png", "3.png", "4.png"]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match=f"{tmp_path.name}: at least two images"):
        load_pictures(tmp_path, "liver", 32)
    with pytest.raises(InputError, match="absent: at least two images"):
        load_pictures(tmp_path / "absent", "liver", 32)


def test_image_values_and_axes(tmp_path: Path) -> None:
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :, 0] = 255  # red above
    pixels[:, 48:, 2] = 51  # a little blue on the right
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    image = load_image(tmp_path / "colour.png", 32)
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert image[0, 4, 16] == 1.0
    assert image[0, 28, 16] == 0.0
    assert image[2, 16, 4] == 0.0
    assert image[2, 16, 28].item() == pytest.approx(0.2)
    assert image[1].abs().max() == 0.0


def test_gray_images_have_three_equal_channels(tmp_path: Path) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(gray).save(tmp_path / "gray.png")
    image = load_image(tmp_path / "gray.png", 8)
    assert torch.equal(image, torch.from_numpy(gray).float().expand(3, 8, 8) / 255)


def test_reduction_is_lanczos(tmp_path: Path) -> None:
    """Halving with the Lanczos kernel of three lobes, written out for the middle of one row."""
    row = np.random.default_rng(3).integers(60, 190, 64)
    Image.fromarray(np.tile(row, (64, 1)).astype(np.uint8)).save(tmp_path / "row.png")
    got = load_image(tmp_path / "row.png", 32)[0, 16].numpy() * 255
    for target in range(4, 28):
        centre = 2 * target + 1
        places = np.arange(centre - 6, centre + 6)
        distance = (places + 0.5 - centre) / 2
        kernel = np.sinc(distance) * np.sinc(distance / 3)
        assert got[target] == pytest.approx((kernel / kernel.sum()) @ row[places], abs=1.0)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(InputError, match=r"broken\.png: not a readable image"):
        load_image(tmp_path / "broken.png", 32)


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    """Their conversion to 8 bit would turn everything above 255 white."""
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        with pytest.raises(InputError, match=rf"{name}: .*8 bit"):
            load_image(tmp_path / name, 8)
