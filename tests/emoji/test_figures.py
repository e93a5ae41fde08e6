"""Figures are counted right, and cards keep them without losing a word of prose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from heedful.emoji.cards import BEGIN, END, write_figures
from heedful.emoji.figures import Sampled, judged, precision_recall
from heedful.emoji.judge import Judge, Sighting
from heedful.emoji.prompts import Prompt
from PIL import Image


def test_precision_and_recall_of_each_label() -> None:
    truth = np.array([[True, False, False], [True, True, False], [False, True, False], [True, False, False]])
    seen = np.array([[True, True, False], [True, False, False], [False, True, False], [False, False, False]])
    precision, recall = precision_recall(truth, seen)
    assert precision.tolist() == [1.0, 0.5, 1.0]
    assert recall == pytest.approx([2 / 3, 0.5, 1.0])


class Told(Judge):
    """A judge that sees what it is told."""

    def __init__(self, sightings: list[Sighting]) -> None:
        self.sightings = sightings

    def __call__(self, images: Sequence[Image.Image], batch_size: int = 64) -> list[Sighting]:
        return self.sightings


def test_an_image_counts_when_all_its_subjects_are_seen() -> None:
    prompt = Prompt("a cat and a red bow", (("cat", None), ("bow", "red")), "animal-object")
    sightings = [
        Sighting({"cat": 0.9, "bow": 0.9, "red bow": 0.9}),
        Sighting({"cat": 0.9, "bow": 0.9, "red bow": 0.1}),
        Sighting({"cat": 0.1, "bow": 0.9, "red bow": 0.9}),
        Sighting({"cat": 0.1, "bow": 0.1, "red bow": 0.1}),
    ]
    sampled = Sampled("held-out pair", (prompt,) * 4, (Image.new("RGB", (64, 64)),) * 4)
    figures = judged(Told(sightings), sampled)
    assert [(figure.value, figure.count) for figure in figures] == [(0.5, 4), (0.25, 4)]


def card(folder: Path, block: str) -> Path:
    path = folder / "README.md"
    path.write_text(f"# A model\n\nProse before.\n\n{block}\n\nProse after.\n", encoding="utf-8")
    return path


def test_figures_of_the_same_name_are_replaced_and_the_others_kept(tmp_path: Path) -> None:
    path = card(tmp_path, f"{BEGIN}\n{END}")
    write_figures(path, [("accuracy", "0.90", 100), ("recall", "0.80", 100)], "measured once")
    write_figures(path, [("accuracy", "0.95", 200)], "measured twice")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# A model\n\nProse before.\n")
    assert text.endswith("\nProse after.\n")
    assert "| accuracy | 0.95 | 200 |" in text
    assert "| recall | 0.80 | 100 |" in text
    assert "0.90" not in text
    assert text.count("measured") == 1


def test_a_card_without_a_block_is_an_error_that_says_what_to_put_in(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no block for figures.*put these two lines"):
        write_figures(card(tmp_path, "No block."), [("accuracy", "0.90", 100)], "measured")
