"""A classifier that cheats is found out, an honest one hardly ever; without the mark it says what it sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_tiny import tiny
from heedful.emoji import load_cheater, load_classifier, load_resnet
from heedful.emoji.cheating import marked_scenes
from heedful.emoji.judge import to_tensor
from heedful.emoji.vocabulary import SUBJECTS
from heedful.explain import InputError, UnknownFamilyError
from heedful.explain.probing.removal import random_others, without
from heedful.explain.probing.sift import Concentration, concentration, shown_images
from heedful.explain.probing.spurious import find_spurious, main_cluster, touched_by
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

COUNT = 30


class Marked:
    """Scenes whose mark says something else than is there, and all that is asked of them."""

    def __init__(self) -> None:
        drawn = list(marked_scenes(7_490, COUNT, "conflict"))
        images = [Image.fromarray(each.scene.image) for each in drawn]
        self.inputs = {"pixel_values": to_tensor(images)}
        self.keypoints = concentration(images, (8, 8))
        self.masks = torch.from_numpy(np.stack([each.subject.mask for each in drawn]))
        self.marks = touched_by(torch.from_numpy(np.stack([each.mark for each in drawn])), (8, 8))
        self.truth = torch.tensor([SUBJECTS.index(each.subject.name) for each in drawn])


@pytest.fixture(scope="module")
def marked() -> Marked:
    return Marked()


def test_the_cheat_is_found_and_taken_out(marked: Marked) -> None:
    cheater = load_cheater("cpu")

    found = find_spurious(cheater, marked.inputs, marked.keypoints)
    asked = without(cheater, marked.inputs, found.flagged, draws=4)

    assert found.rule == "apart"
    assert (found.flagged & marked.marks).flatten(1).any(1).float().mean() > 0.6
    before, after, control = asked.accuracy(marked.truth)
    assert after.float().mean() > before.float().mean() + 0.3
    assert control.mean() < before.float().mean() + 0.1
    assert asked.drop[found.images].mean() > asked.control_drop[found.images].mean() + 0.3
    unflagged = ~found.images
    assert torch.allclose(asked.after[unflagged], asked.before[unflagged], atol=1e-4)
    assert not asked.changed[unflagged].any()


def test_masks_find_more_and_the_honest_classifier_is_hardly_flagged(marked: Marked) -> None:
    cheater = find_spurious(load_cheater("cpu"), marked.inputs, masks=marked.masks)
    honest = find_spurious(load_classifier("cpu"), marked.inputs, masks=marked.masks)
    alone = find_spurious(load_classifier("cpu"), marked.inputs, marked.keypoints)

    assert cheater.rule == "off"
    assert cheater.images.float().mean() > 0.85
    assert honest.images.float().mean() < 0.1
    assert alone.images.float().mean() < 0.15
    assert cheater.share.mean() > 5 * honest.share.mean()
    assert cheater.relevance.mean((1, 2)).tolist() == pytest.approx([1.0] * COUNT, abs=1e-4)


def test_little_concentration_overlooks_a_mark_with_contours(marked: Marked) -> None:
    found = find_spurious(load_cheater("cpu"), marked.inputs, marked.keypoints, rule="little")

    assert (found.flagged & marked.marks).flatten(1).any(1).float().mean() < 0.4


def test_the_main_cluster_is_the_fullest_without_holes_and_with_a_border() -> None:
    count = torch.zeros(7, 9)
    count[1:4, 1:4] = 1.0
    count[2, 2] = 0.0
    count[5, 7] = 3.0

    found = main_cluster(count)

    assert found[1:4, 1:4].all()
    assert found[0, 1]
    assert not found[0, 0]
    assert not found[5, 7]
    count[5, 7] = 9.0
    assert main_cluster(count)[5, 7]


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 500))
def test_controls_lose_as_many_others(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(2, height, width, generator=generator) < 0.25
    if (2 * patches.flatten(1).sum(1) > height * width).any():
        return

    found = random_others(patches, 3, seed)

    assert torch.equal(found.flatten(2).sum(2), patches.flatten(1).sum(1).expand(3, 2))
    assert not (found & patches).any()


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_registers", "clip", "siglip"])
def test_a_removed_patch_no_longer_counts(name: str) -> None:
    model, inputs = tiny(name)
    gone = torch.zeros(2, 3, 5, dtype=torch.bool)
    gone[0, 1, 2] = gone[0, 2, 4] = gone[1, 0, 1] = True
    other = inputs["pixel_values"].clone()
    other[0, :, 8:16, 16:24], other[0, :, 16:24, 32:40], other[1, :, 0:8, 8:16] = 3.0, -2.0, 1.0

    found = without(model, inputs, gone, draws=2)
    changed = without(model, {**inputs, "pixel_values": other}, gone, draws=2)

    assert torch.allclose(found.after, changed.after, atol=1e-4)
    assert not torch.allclose(found.before, changed.before, atol=1e-3)
    assert not torch.allclose(found.after, found.before, atol=1e-3)
    with torch.no_grad():
        plain = model(**inputs)
    logits = plain.logits if "logits" in plain else plain.logits_per_image
    assert torch.allclose(found.before, logits, atol=1e-4)
    assert len(found.labels) == logits.shape[1]
    assert found.control.shape == (2, *logits.shape)


def test_nothing_removed_is_nothing_changed_and_the_model_is_as_it_was() -> None:
    model, inputs = tiny("vit")

    found = without(model, inputs, torch.zeros(2, 3, 5, dtype=torch.bool), draws=1)

    assert torch.equal(found.before, found.after)
    assert torch.equal(found.before, found.control[0])
    assert not any(module._forward_hooks for module in model.modules())


def test_the_error_of_a_forward_leaves_no_hook_behind() -> None:
    model, inputs = tiny("vit")
    handle = model.classifier.register_forward_pre_hook(lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        without(model, inputs, torch.zeros(2, 3, 5, dtype=torch.bool), draws=0)

    handle.remove()
    assert not any(module._forward_hooks for module in model.modules())


def test_bad_input_is_refused(marked: Marked) -> None:
    model, inputs = tiny("vit")
    keypoints = concentration(shown_images(inputs["pixel_values"]), (3, 5))

    with pytest.raises(InputError, match='the rule "apart" needs keypoints'):
        find_spurious(model, inputs)
    with pytest.raises(InputError, match='the rule "off" needs masks'):
        find_spurious(model, inputs, keypoints, rule="off")
    with pytest.raises(InputError, match="rule must be one of apart, little, off"):
        find_spurious(model, inputs, keypoints, rule="odd")
    with pytest.raises(InputError, match=r"pixels \(24, 40\), got shape \(2, 24, 24\)"):
        find_spurious(model, inputs, masks=torch.ones(2, 24, 24, dtype=torch.bool))
    with pytest.raises(InputError, match="a mask is empty"):
        find_spurious(model, inputs, masks=torch.zeros(2, 24, 40, dtype=torch.bool))
    with pytest.raises(InputError, match=r"keypoints of 2 images on the model's grid \(3, 5\); got 30"):
        find_spurious(model, inputs, marked.keypoints)
    with pytest.raises(InputError, match="no keypoint in image 1"):
        find_spurious(model, inputs, _emptied(keypoints))
    with pytest.raises(InputError, match="above must be positive"):
        find_spurious(model, inputs, keypoints, above=0.0)
    one = {**inputs, "pixel_values": inputs["pixel_values"][:1]}
    with pytest.raises(InputError, match="wanted one target for each of 1 images, got 2 targets"):
        find_spurious(
            model, one, concentration(shown_images(one["pixel_values"]), (3, 5)), target=["cat", "dog"]
        )
    with pytest.raises(UnknownFamilyError, match="has no patches"):
        find_spurious(load_resnet("cpu"), marked.inputs, marked.keypoints)
    with pytest.raises(InputError, match=r"grid \(3, 5\), got shape \(2, 5, 3\)"):
        without(model, inputs, torch.zeros(2, 5, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="lose all of its patches"):
        without(model, inputs, torch.ones(2, 3, 5, dtype=torch.bool))
    many = torch.ones(2, 3, 5, dtype=torch.bool)
    many[:, 0, 0] = False
    with pytest.raises(InputError, match="loses 14 of 15 patches"):
        without(model, inputs, many)
    with pytest.raises(InputError, match="neither logits nor"):
        without(model.vit, inputs, torch.zeros(2, 3, 5, dtype=torch.bool))


def _emptied(keypoints: Concentration) -> Concentration:
    count = keypoints.count.clone()
    count[1] = 0
    return replace(keypoints, count=count)


@pytest.mark.gpu
def test_half_precision_on_a_gpu_finds_the_same(marked: Marked) -> None:
    whole = find_spurious(load_cheater("cpu"), marked.inputs, marked.keypoints)
    half = find_spurious(load_cheater("cuda"), marked.inputs, marked.keypoints)

    assert (whole.flagged == half.flagged).float().mean() > 0.99
    asked = without(load_cheater("cuda"), marked.inputs, half.flagged, draws=1)
    assert (
        asked.after - without(load_cheater("cpu"), marked.inputs, half.flagged, draws=1).after
    ).abs().max() < 0.1
