"""Regions are the true boxes and others that show little of them; their features know of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import load_classifier
from heedful.emoji.regions import (
    COVERED,
    REGIONS,
    choose_regions,
    positions,
    region_features,
    shown,
)
from heedful.emoji.world import scenes
from PIL import Image


def covered(box: tuple[int, int, int, int], by: tuple[int, int, int, int]) -> float:
    mask = np.zeros((2, 64, 64), dtype=bool)
    for at, (left, top, right, bottom) in enumerate((box, by)):
        mask[at, top:bottom, left:right] = True
    return (mask[0] & mask[1]).sum() / mask[0].sum()


def test_every_subject_has_its_region_and_distractors_show_little() -> None:
    rng = np.random.default_rng(0)
    firsts = set()
    for scene in scenes(4, 25, pairs="any"):
        boxes = [one.box for one in shown(scene)]
        regions = choose_regions(boxes, rng)
        assert len(regions.boxes) == REGIONS
        for at, box in enumerate(boxes):
            assert regions.boxes[regions.subjects.index(at)] == box
        for box, subject in zip(regions.boxes, regions.subjects, strict=True):
            assert 0 <= box[0] < box[2] <= 64
            assert 0 <= box[1] < box[3] <= 64
            if subject < 0:
                assert max(covered(true, box) for true in boxes) <= COVERED
        firsts.add(regions.subjects[0])
    assert {-1, 0} <= firsts


def test_more_boxes_than_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="7 boxes do not go into 6 regions"):
        choose_regions([(0, 0, 10, 10)] * 7, np.random.default_rng(0))


def test_positions_are_parts_of_the_image() -> None:
    assert positions([[(0, 16, 32, 64)]]).tolist() == [[[0.0, 0.25, 0.5, 1.0]]]


def test_features_are_of_the_region_alone_and_of_the_classifier() -> None:
    classifier = load_classifier("cpu")
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[20:40, 20:40] = (218, 30, 38)
    other = pixels.copy()
    other[52:, 52:] = 0
    box, corner = (22, 22, 38, 38), (50, 50, 64, 64)
    images = [Image.fromarray(pixels), Image.fromarray(other)]
    features = region_features(classifier, images, [[box, corner]] * 2, batch_size=3)
    assert features.shape == (2, 2, classifier.config.hidden_size)
    assert torch.allclose(features[0, 0], features[1, 0], atol=1e-5)
    assert not torch.allclose(features[0, 1], features[1, 1], atol=0.1)
    # By hand: the square of 1.25 sixteens about the middle is the red square itself.
    crop = to_tensor([images[0].crop((20, 20, 40, 40)).resize((64, 64), Image.Resampling.BILINEAR)])
    with torch.no_grad():
        states = classifier(crop, output_hidden_states=True).hidden_states[-2][0, 1:].double()
    states = (states - states.mean(1, keepdim=True)) / (
        states.var(1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    rows = [row * 8 + column for row in range(2, 6) for column in range(2, 6)]
    assert torch.allclose(features[0, 0].double(), states[rows].mean(0), atol=1e-4)
