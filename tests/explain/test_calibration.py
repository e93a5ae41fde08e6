"""A fit finds what made the data, its errors are those of the formulas, and its file gives it back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checking import OTHERS, noise, two_towers
from heedful.explain import Calibration, InputError, calibrate
from heedful.explain.calibration import brier, calibration_error, fit
from heedful.explain.comparing import FEATURES
from hypothesis import given
from hypothesis import strategies as st

PLAIN = Calibration((0.0, 1.0, 0.0), (1.0, 2.0, 1.0), (1.0, 2.0, 0.0), 0.5, others=OTHERS)
FEATURE = st.tuples(*[st.floats(-50, 50)] * 3)


def drawn(count: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, their true probabilities by a known logistic, and what came of them."""
    rng = np.random.default_rng(seed)
    features = rng.normal([3.0, -1.0, 0.0], [4.0, 2.0, 1.0], (count, len(FEATURES)))
    shares = 1 / (1 + np.exp(-(0.8 * features[:, 0] - 0.5 * features[:, 1] - 1.0)))
    return features, shares, rng.random(count) < shares


def test_fit_finds_the_logistic_that_made_the_data() -> None:
    features, shares, present = drawn()

    found = fit(features, present)
    told = np.array([found.probability(row) for row in features])

    assert np.abs(told - shares).mean() < 0.02
    slopes = np.array(found.weights) / found.scale
    assert slopes == pytest.approx([0.8, -0.5, 0.0], abs=0.12)
    assert calibration_error(told, present) < 0.02
    assert brier(told, present) == pytest.approx(float(np.mean(shares * (1 - shares))), abs=0.01)


def test_fit_is_where_the_loss_has_no_slope() -> None:
    features, _, present = drawn(300)
    found = fit(features, present, ridge=0.01)
    told = np.array([found.probability(row) for row in features])
    rows = (features - features.mean(0)) / features.std(0)

    slope = rows.T @ (told - present) / len(rows) + 0.01 * np.array(found.weights)

    assert np.abs(slope).max() < 1e-6
    assert abs(float(np.mean(told - present))) < 1e-6


def test_data_that_can_be_separated_have_a_finite_fit() -> None:
    features = np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]] * 30)

    found = fit(features, features[:, 0] > 0)

    assert np.isfinite(found.weights).all()
    assert found.probability((1.0, 0.0, 0.0)) > 0.9


@given(FEATURE, st.floats(0, 5))
def test_probability_is_one_and_grows_with_what_speaks_for_it(row: tuple[float, ...], more: float) -> None:
    share = PLAIN.probability(row)

    assert 0 <= share <= 1
    assert PLAIN.probability((row[0] + more, *row[1:])) >= share
    assert PLAIN.probability((row[0], row[1], row[2] + more)) == share


def test_errors_by_hand() -> None:
    told, present = np.array([0.05, 0.05, 0.95, 0.95]), np.array([False, True, True, True])

    assert calibration_error(told, present) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert brier(told, present) == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.05**2) / 4)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_saved_and_loaded(tmp_path: Path) -> None:
    named = replace(PLAIN, words=("frog", "red bow"), fitted={"words": 3})
    named.save(tmp_path / "c.json")

    assert Calibration.load(tmp_path / "c.json") == named


@pytest.mark.parametrize(
    "change", [{"format": "x"}, {"features": ["a"]}, {"bias": None}, {"scale": [0, 1, 1]}]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    PLAIN.save(tmp_path / "c.json")
    told = json.loads((tmp_path / "c.json").read_text()) | change
    (tmp_path / "c.json").write_text(json.dumps(told))

    with pytest.raises(InputError):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot read the calibration"):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"weights": (1.0,)}, "for each of with_without, best_swap, alone"),
        ({"bias": float("nan")}, "finite"),
        ({"band": 0.5}, "less than 0.5"),
    ],
)
def test_refuses_other_numbers(change: dict[str, object], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        replace(PLAIN, **change)


def test_knows_its_words_and_never_a_second_one() -> None:
    named = replace(PLAIN, words=("Frog", "red bow"))

    assert [named.knows(word) for word in ("frog", "red  BOW", "bow", "frog#2")] == [True, True, False, False]
    assert [PLAIN.knows(word) for word in ("anything", "frog#2")] == [True, False]


def test_calibrates_any_model() -> None:
    model, processor = two_towers("clip")
    images = [noise(seed=seed) for seed in range(25)]
    words, present = [["frog", "bow"]] * 25, [[True, False]] * 25

    found = calibrate(model, processor, images, words, present, others=OTHERS, fitted={"by": "me"})

    assert found.others == OTHERS
    assert found.fitted == {"words": 50, "present": 25, "model": "CLIPModel", "by": "me"}


@pytest.mark.parametrize(
    ("words", "present", "wrong"),
    [
        ([["frog"]], [[True]], "at least 20"),
        ([["frog"]], [[True, False]], "came with 2 truths"),
        ([["frog"], ["cat"]], [[True]], "for every image"),
        (["frog"], [[True]], "for every image"),
    ],
)
def test_calibrate_refuses(words: list, present: list, wrong: str) -> None:
    model, processor = two_towers("clip")

    with pytest.raises(InputError, match=wrong):
        calibrate(model, processor, [noise()], words, present)
