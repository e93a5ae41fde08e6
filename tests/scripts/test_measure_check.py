"""What `check` is measured on is true: words are there or not, and unsure ones count as wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heedful.emoji.world import scene
from heedful.scripts.measure_check import (
    CALIBRATION_SEED,
    TEST_SEED,
    Measured,
    coloured_words,
    generated,
    named_words,
    softened,
)


def test_named_words_are_asked_in_their_sentence_with_the_truth() -> None:
    drawn = list(named_words(5, 60))

    for index, one in enumerate(drawn):
        truth = scene(5_000_000 + index, noisy=0.5, pairs="any")
        shown = {subject.name for subject in truth.subjects}
        assert one.present == tuple(word in shown for word in one.words)
        assert all(word in one.prompt for word in one.words)
        assert np.array_equal(np.asarray(one.image), truth.image)
    present = [there for one in drawn for there in one.present]
    assert 0.15 < 1 - np.mean(present) < 0.5
    assert any(len(one.words) == 1 and not one.present[0] for one in drawn)


def test_coloured_words_are_wrong_in_colour_too() -> None:
    drawn = list(coloured_words(5, 80))

    kinds = {"right": 0, "other colour": 0}
    for index, one in enumerate(drawn):
        truth = scene(5_000_000 + index, noisy=0.3, pairs="any")
        colours = {subject.name: subject.colour for subject in truth.subjects}
        for word, there in zip(one.words, one.present, strict=True):
            colour, _, name = word.rpartition(" ")
            assert there == (name in colours and (not colour or colours[name] == colour))
            if colour and name in colours:
                kinds["right" if there else "other colour"] += 1
    assert min(kinds.values()) > 5


def test_softened_images_differ_and_keep_their_truth() -> None:
    drawn = list(named_words(5, 3))

    soft = softened(drawn, 1)

    assert [(one.words, one.present) for one in soft] == [(one.words, one.present) for one in drawn]
    assert all(one.image.tobytes() != other.image.tobytes() for one, other in zip(soft, drawn, strict=True))


def test_unsure_counts_as_wrong() -> None:
    shares, present = np.array([0.95, 0.55, 0.05, 0.2]), np.array([True, True, False, True])

    row = Measured("x", 2, shares, present, band=0.1).row()

    assert row[:2] == ["x", "2 / 4"]
    assert row[2].startswith("**50.0**")
    assert row[3:6] == ["33.3 (n 3)", "100.0 (n 1)", "25.0"]


def test_seeds_are_apart() -> None:
    assert not {CALIBRATION_SEED + step for step in range(3)} & {TEST_SEED + step for step in range(4)}


def test_images_that_were_not_made_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluate_emoji"):
        generated(tmp_path)
