from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from D24FADLib.errors import InputError
from D24FADLib.training.episodes import Draw, draw, split
from D24FADLib.training.images import ImageSet
from D24FADLib.training.options import RECIPES, TrainingOptions

torch = pytest.importorskip("torch")

OPTIONS = replace(RECIPES["d24fad"].options, batch=6, shots=(2, 4, 8))


def pictures(task: str, count: int) -> ImageSet:
    return ImageSet(task, torch.zeros(count, 1, 32, 32, dtype=torch.uint8), np.arange(count))


def slices(task: str, studies: int, places: range, aligned: bool = True) -> ImageSet:
    """Every study shows every place, but study 0 lacks the last one."""
    pairs = [(s, p) for s in range(studies) for p in places if (s, p) != (0, places[-1])]
    of_study, at = (np.array(column) for column in zip(*pairs, strict=True))
    pixels = torch.zeros(len(pairs), 1, 32, 32, dtype=torch.uint8)
    return ImageSet(task, pixels, of_study, at if aligned else None)


def drawn(count: int, options: TrainingOptions = OPTIONS, sets: list[ImageSet] | None = None) -> list[Draw]:
    sets = sets or [pictures("a", 9), pictures("b", 90), pictures("c", 900)]
    pools = [list(range(0, len(s), 2)) for s in sets]
    return [draw(sets, pools, options, np.random.default_rng([3, n])) for n in range(count)]


def test_shared_supports_are_never_among_the_queries() -> None:
    lengths = set()
    for episode in drawn(600):
        query, support = episode.query.tolist(), episode.support.tolist()
        assert not set(query) & set(support)
        assert len(set(query)) == len(query)
        assert len(set(support)) == len(support)
        assert all(n % 2 == 0 for n in query + support)  # from the pool only
        assert episode.rows is None
        assert episode.bad is None
        lengths.add((episode.chosen, len(query), len(support)))
    assert {row for row in lengths if row[0]} == {(t, 6, k) for t in (1, 2) for k in (2, 4, 8)}
    # five images in the pool: at least one query is left, and all images are used
    assert {row for row in lengths if not row[0]} == {(0, 3, 2), (0, 1, 4)}


def test_tasks_images_and_shots_are_drawn_alike() -> None:
    """Tasks of 5, 45 and 450 images: each a third of the episodes, within four standard deviations."""
    episodes = drawn(1800)
    tasks = Counter(e.chosen for e in episodes)
    assert all(abs(tasks[t] - 600) < 80 for t in range(3))
    shots = Counter(len(e.support) for e in episodes if e.chosen)
    assert all(abs(shots[k] / shots.total() - 1 / 3) < 0.06 for k in (2, 4, 8))
    queries = Counter(n for e in episodes if e.chosen == 1 for n in e.query.tolist())
    assert len(queries) == 45
    assert max(queries.values()) < 2 * min(queries.values())


def test_by_size_draws_data_sets_in_proportion() -> None:
    tasks = Counter(e.chosen for e in drawn(2000, replace(OPTIONS, by_size=True)))
    for chosen, share in enumerate((0.01, 0.09, 0.9)):
        assert tasks[chosen] / 2000 == pytest.approx(share, abs=0.03)


def test_own_supports_are_drawn_for_each_query() -> None:
    options = replace(OPTIONS, own_supports=True, shots=(3,))
    seen = set()
    for episode in drawn(100, options, [pictures("b", 90)]):
        assert episode.rows is not None
        supports = episode.support[episode.rows]  # (K, B)
        assert supports.shape == (3, 6)
        for query, column in zip(episode.query.tolist(), supports.T.tolist(), strict=True):
            assert len({query, *column}) == 4
        seen.add(len(episode.support))
    assert max(seen) > 10  # not one set of supports for the batch


def test_slices_of_aligned_volumes_meet_their_own_place() -> None:
    data = slices("t1", 7, range(10, 15))
    for number in range(200):
        episode = draw(
            [data], [list(range(len(data)))], replace(OPTIONS, shots=(3,)), np.random.default_rng(number)
        )
        assert episode.rows is not None
        assert data.places is not None
        supports = episode.support[episode.rows]
        assert supports.shape == (3, len(episode.query)) == (3, 6)
        assert (data.places[supports] == data.places[episode.query]).all()
        studies = {frozenset(data.studies[supports[:, b]].tolist()) for b in range(6)}
        assert len(studies) == 1  # the same three volumes for the whole batch
        assert not studies.pop() & set(data.studies[episode.query].tolist())


def test_slices_without_alignment_come_from_other_volumes() -> None:
    data = slices("t1", 5, range(4), aligned=False)
    places = set()
    for number in range(50):
        episode = draw(
            [data], [list(range(len(data)))], replace(OPTIONS, shots=(2,)), np.random.default_rng(number)
        )
        support, query = data.studies[episode.support], data.studies[episode.query]
        assert len(set(support.tolist())) == 2
        assert not set(support.tolist()) & set(query.tolist())
        places |= set(episode.support.tolist())
    assert len(places) == len(data)


@pytest.mark.parametrize("own", [False, True])
def test_bad_supports_come_as_often_as_asked_and_change_nothing_else(own: bool) -> None:
    options = replace(OPTIONS, own_supports=own, shots=(2, 4))
    plain = drawn(800, options, [pictures("b", 90)])
    planted = drawn(800, replace(options, bad_support_probability=0.25), [pictures("b", 90)])
    places = Counter()
    for a, b in zip(plain, planted, strict=True):
        assert np.array_equal(a.query, b.query)
        assert np.array_equal(a.support, b.support)
        shots = len(b.support) if b.rows is None else len(b.rows)
        if shots == 2:
            assert b.bad is None  # nothing tells which of two is the bad one
        elif b.bad is not None:
            wanted = [b.bad] if b.rows is None else sorted(set(b.rows[b.bad].tolist()))
            assert b.bad_rows.tolist() == wanted
        places[b.bad if shots == 4 else "two"] += 1
    four = 800 - places["two"]
    assert (four - places[None]) / four == pytest.approx(0.25, abs=0.09)
    assert {0, 1, 2, 3} <= places.keys()


def test_split_parts_each_task_once() -> None:
    sets = [pictures("a", 40), pictures("b", 21), pictures("a", 40)]
    parts = split(sets, 0.15, 7)
    assert parts[0] == parts[2]  # an image held out at one size is held out at all
    for data, (training, held_out) in zip(sets, parts, strict=True):
        assert sorted(training + held_out) == list(range(len(data)))
        assert len(held_out) == round(0.15 * len(data))
    assert split(sets, 0.15, 7) == parts
    assert split(sets, 0.15, 8) != parts


def test_split_holds_out_whole_volumes() -> None:
    data = slices("t1", 8, range(5))
    training, held_out = split([data], 0.25, 0)[0]
    assert len(set(data.studies[held_out].tolist())) == 2
    assert not set(data.studies[held_out].tolist()) & set(data.studies[training].tolist())
    assert sorted(training + held_out) == list(range(len(data)))


def test_split_holds_back_two_so_that_validation_has_a_query_and_a_support() -> None:
    training, held_out = split([pictures("a", 5)], 0.01, 0)[0]
    assert (len(training), len(held_out)) == (3, 2)


@pytest.mark.parametrize(("count", "held_out"), [(2, 0.15), (3, 0.15), (10, 0.95)])
def test_too_few_normals_to_train_and_validate_are_refused(count: int, held_out: float) -> None:
    """An empty training part would go on to give losses that are not numbers."""
    with pytest.raises(InputError, match=rf"liver: {count} "):
        split([pictures("liver", count)], held_out, 0)
