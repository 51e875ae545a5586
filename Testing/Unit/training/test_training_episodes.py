from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from D24FADLib.errors import InputError
from D24FADLib.training.episodes import Episode, episodes, split
from D24FADLib.training.features import FeatureSet


def numbered(task: str, count: int, size: int = 64) -> FeatureSet:
    """Features whose every value is the number of the image."""
    parts = tuple(
        torch.arange(count).half()[:, None, None, None].expand(count, c, size // s, size // s)
        for c, s in ((2, 4), (3, 8), (4, 16), (5, 32))
    )
    return FeatureSet(task, size, parts)  # type: ignore[arg-type]


def numbers(features: torch.Tensor) -> list[int]:
    """Which images these are; every value of one image must agree."""
    flat = features.flatten(1)
    assert torch.equal(flat, flat[:, :1].expand_as(flat))
    return [int(n) for n in flat[:, 0]]


def draw(count: int, seed: int = 0, **options: object) -> list[Episode]:
    sets = [numbered("a", 9), numbered("b", 90), numbered("c", 900)]
    pools = [list(range(0, len(s), 2)) for s in sets]
    chosen = {"batch": 6, "shots": (2, 4, 8), **options}
    return list(islice(episodes(sets, pools, rng=np.random.default_rng(seed), **chosen), count))  # type: ignore[arg-type]


def test_supports_are_never_among_the_queries() -> None:
    lengths = set()
    for episode in draw(600):
        query, support = numbers(episode.query_embedding), numbers(episode.support_embedding)
        assert not set(query) & set(support)
        assert len(set(query)) == len(query)
        assert len(set(support)) == len(support)
        assert all(n % 2 == 0 for n in query + support)  # from the pool only
        assert [numbers(f) for f in episode.query_features] == [query] * 3
        lengths.add((episode.task, len(query), len(support)))
    assert {row for row in lengths if row[0] != "a"} == {(t, 6, k) for t in "bc" for k in (2, 4, 8)}
    # five images in the pool: at least one query is left, and all images are used
    assert {row for row in lengths if row[0] == "a"} == {("a", 3, 2), ("a", 1, 4)}


def test_features_are_single_precision_and_of_one_size() -> None:
    episode = draw(1)[0]
    assert [f.shape[1:] for f in episode.query_features] == [(2, 16, 16), (3, 8, 8), (4, 4, 4)]
    assert episode.query_embedding.shape[1:] == episode.support_embedding.shape[1:] == (5, 2, 2)
    assert {f.dtype for f in (*episode.query_features, episode.query_embedding)} == {torch.float32}


def signature(drawn: list[Episode]) -> list[tuple[str, list[int], list[int]]]:
    return [(e.task, numbers(e.query_embedding), numbers(e.support_embedding)) for e in drawn]


def test_a_seed_fixes_the_episodes() -> None:
    assert signature(draw(20, seed=5)) == signature(draw(20, seed=5))
    assert signature(draw(20, seed=5)) != signature(draw(20, seed=6))


def test_tasks_images_and_shots_are_drawn_alike() -> None:
    """Tasks of 5, 45 and 450 images: each a third of the episodes, within four standard deviations."""
    drawn = draw(1800)
    tasks = Counter(e.task for e in drawn)
    assert all(abs(tasks[t] - 600) < 80 for t in "abc")
    shots = Counter(len(e.support_embedding) for e in drawn if e.task != "a")
    assert all(abs(shots[k] / shots.total() - 1 / 3) < 0.06 for k in (2, 4, 8))
    queries = Counter(n for e in drawn if e.task == "b" for n in numbers(e.query_embedding))
    assert len(queries) == 45
    assert max(queries.values()) < 2 * min(queries.values())


def test_split_parts_each_task_once() -> None:
    sets = [numbered("a", 40, 64), numbered("b", 21), numbered("a", 40, 96), numbered("a", 40, 128)]
    parts = split(sets, 0.15, 7)
    assert parts[0] == parts[2] == parts[3]  # an image held out at one size is held out at all
    for features, (training, held_out) in zip(sets, parts, strict=True):
        assert sorted(training + held_out) == list(range(len(features)))
        assert len(held_out) == round(0.15 * len(features))
    assert split(sets, 0.15, 7) == parts
    assert split(sets, 0.15, 8) != parts


def test_split_holds_back_two_so_that_validation_has_a_query_and_a_support() -> None:
    training, held_out = split([numbered("a", 5)], 0.01, 0)[0]
    assert (len(training), len(held_out)) == (3, 2)


@pytest.mark.parametrize(("count", "held_out"), [(2, 0.15), (3, 0.15), (10, 0.95)])
def test_too_few_normals_to_train_and_validate_are_refused(count: int, held_out: float) -> None:
    """An empty training part would go on to give losses that are not numbers."""
    with pytest.raises(InputError, match=rf"liver: {count} "):
        split([numbered("liver", count)], held_out, 0)
