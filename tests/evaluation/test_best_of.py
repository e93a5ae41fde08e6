"""Best-of-N at equal cost: what mixing gives, who chooses, and that nobody chooses better than the judge."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from evaluating import row
from heedful.evaluation import EvaluationError
from heedful.evaluation.best_of import best_of, candidates, drawn_for
from hypothesis import given
from hypothesis import strategies as st

ITEMS = st.lists(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1)), min_size=3, max_size=3),
    min_size=1, max_size=5,
)  # fmt: skip


def planted(items: list[list[tuple[bool, bool, float]]]) -> tuple[list[dict], ...]:
    """Three candidates of each item: what is seen of two subjects, and how much check likes it."""
    return tuple(
        [
            row(number, {"cat": item[place][0], "frog": item[place][1]}, check=[0.0, item[place][2]])
            for number, item in enumerate(items)
        ]
        for place in range(3)
    )


def complete(record: dict) -> float:
    return float(record["all"])


@given(ITEMS, st.integers(1, 3))
def test_a_whole_number_is_the_best_of_so_many(items: list, count: int) -> None:
    among = planted(items)

    chosen = [max(range(count), key=lambda place: (item[place][2], -place)) for item in items]
    by_check = [float(all(item[place][:2])) for item, place in zip(items, chosen, strict=True)]
    by_judge = [float(any(all(one[:2]) for one in item[:count])) for item in items]
    assert best_of(among, count, "check", complete).tolist() == by_check
    assert best_of(among, count, "judge", complete).tolist() == by_judge


@given(ITEMS, st.floats(1, 2.999))
def test_a_fraction_is_the_mean_over_drawing_one_more_that_often(items: list, ratio: float) -> None:
    among, whole = planted(items), math.floor(ratio)
    few, more = (best_of(among, count, "check", complete) for count in (whole, whole + 1))

    found = best_of(among, ratio, "check", complete)
    assert found == pytest.approx(few + (ratio - whole) * (more - few), abs=1e-5)


@given(ITEMS, st.floats(1, 3))
def test_nobody_chooses_better_than_the_judge(items: list, ratio: float) -> None:
    among = planted(items)
    by_check, by_judge = (best_of(among, ratio, by, complete) for by in ("check", "judge"))

    assert (by_judge >= by_check - 1e-9).all()


def test_a_mixture_by_hand_equals_drawing_at_random() -> None:
    among = planted([[(True, False, 0.2), (True, True, 0.9), (False, False, 0.0)]])

    assert best_of(among, 1.25, "check", complete).tolist() == [0.25]
    random = np.random.default_rng(0).random(20_000) < 0.25  # one image in four is the better of two
    assert random.mean() == pytest.approx(0.25, abs=0.01)


def test_less_than_one_image_is_one_image() -> None:
    among = planted([[(True, True, 0.2), (False, False, 0.9), (False, False, 0.0)]])

    assert best_of(among, 0.8, "check", complete).tolist() == [1.0]
    assert [drawn_for(ratio) for ratio in (0.5, 1.0, 1.0000000001, 1.01, 2.0, 2.3)] == [1, 1, 1, 2, 2, 3]


def test_candidates_are_taken_as_far_as_all_are_there() -> None:
    names = ("plain", "plain-2", "plain-4", "default")
    rows = {name: [row(0, {"cat": True})] for name in names}

    assert len(candidates(rows)) == 2
    assert candidates({"default": []}) == ()


def test_what_cannot_be_chosen_is_refused() -> None:
    among = planted([[(True, True, 0.2)] * 3])
    unchecked = ([row(0, {"cat": True})],) * 2

    with pytest.raises(EvaluationError, match=r"a cost ratio of 3.5 needs 4 candidates, there are 3"):
        best_of(among, 3.5, "judge", complete)
    with pytest.raises(EvaluationError, match="drawn without a model for check"):
        best_of(unchecked, 1.5, "check", complete)
    for ratio, by in product((math.nan, math.inf), ("check", "judge")):
        with pytest.raises(EvaluationError, match="must be a finite number"):
            best_of(among, ratio, by, complete)
