"""Protocols on real models of transformers: what is taken away is really away, batches are rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_tiny import single, tiny
from heedful.explain import InputError, explain
from heedful.explain.evaluation import (
    BlankOut,
    MaskedAttack,
    Patches,
    Perturbation,
    Regions,
    Words,
    logits_of,
    retrieval,
    zero_shot,
)
from heedful.explain.evaluation.asking import probabilities
from torch import Tensor

NAMES = {"lxmert": ("visual_feats", "visual_pos"), "visual_bert": ("visual_embeds",)}


@pytest.mark.parametrize("name", ["lxmert", "visual_bert"])
def test_regions_and_words_that_are_taken_are_as_if_they_had_never_been(name: str) -> None:
    model, inputs = tiny(name)
    alone = single(inputs, 0)
    regions, words = Regions(NAMES[name]), Words()
    gone = torch.zeros(1, 5, dtype=torch.bool)
    gone[0, [1, 4]] = True
    dropped = torch.zeros(words.movable(alone).shape, dtype=torch.bool)
    dropped[0, 2] = True

    left = words.without(regions.without(alone, gone), dropped)
    keep = torch.tensor([0, 2, 3])
    cut: dict[str, Any] = {each: alone[each][:, keep] for each in (*NAMES[name], "visual_attention_mask")}
    stay = [place for place in range(alone["input_ids"].shape[1]) if place != 2]
    cut |= {each: alone[each][:, stay] for each in ("input_ids", "attention_mask")}

    ask = logits_of(model)
    with torch.no_grad():
        torch.testing.assert_close(ask(left), ask(cut), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(ask(left), ask(alone), atol=1e-4)


@pytest.mark.parametrize("name", ["lxmert", "visual_bert"])
def test_an_image_of_which_nothing_is_left_says_nothing(name: str) -> None:
    model, inputs = tiny(name)
    other = {**inputs, **{each: inputs[each].flip(1) * 2 - 1 for each in NAMES[name]}}
    regions = Regions(NAMES[name])
    empty = [regions.without(each, regions.movable(each)) for each in (inputs, other)]

    found = [probabilities(logits_of(model), single(each, 0)) for each in empty]

    torch.testing.assert_close(*found)


def test_a_row_of_a_vit_is_the_same_in_every_batch() -> None:
    model, inputs = tiny("vit")
    ask, maps = logits_of(model), explain(model, inputs, 1).image
    assert maps is not None
    predicted = probabilities(ask, inputs).argmax(1)
    targets = (predicted + 1) % 5
    patches, half = Patches((3, 5)), (0.5, 0.5, 0.5)
    blank, attack = BlankOut(patches, together=4), MaskedAttack(patches, half, half, cap=12)
    change = Perturbation((patches,))

    def measure(rows: slice) -> list[Tensor]:
        own = {"pixel_values": inputs["pixel_values"][rows], "interpolate_pos_encoding": True}
        steps = attack.measure(ask, own, targets[rows], maps[rows])
        curves = change.measure(ask, own, predicted[rows], [maps[rows]])
        return [blank.drops(ask, own), *steps.values(), *curves.values()]

    for together, first, second in zip(*map(measure, (slice(0, 2), slice(0, 1), slice(1, 2))), strict=True):
        torch.testing.assert_close(together, torch.cat([first, second]), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
def test_figures_on_a_gpu_are_those_on_a_cpu() -> None:
    model, inputs = tiny("vit")
    maps, patches, half = torch.rand(2, 3, 5), Patches((3, 5)), (0.5, 0.5, 0.5)
    predicted = probabilities(logits_of(model), inputs).argmax(1)
    blank, change = BlankOut(patches), Perturbation((patches,))
    attack = MaskedAttack(patches, half, half, cap=3)

    def measure(device: str) -> list[Tensor]:
        own = {**inputs, "pixel_values": inputs["pixel_values"].to(device)}
        ask = logits_of(model.to(device))
        drops = blank.drops(ask, own)
        steps = attack.measure(ask, own, (predicted + 1) % 5, maps)
        curves = change.measure(ask, own, predicted, [maps])
        return [drops, *steps.values(), *blank.measure(own, drops, maps).values(), *curves.values()]

    for cpu, gpu in zip(measure("cpu"), measure("cuda"), strict=True):
        assert gpu.device.type == "cpu"
        torch.testing.assert_close(cpu, gpu, atol=1e-4, rtol=1e-3)


def test_clip_answers_by_texts_and_by_images() -> None:
    model, inputs = tiny("clip")
    images = {name: inputs[name] for name in ("pixel_values", "interpolate_pos_encoding")}
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    whole = model(**inputs)

    torch.testing.assert_close(zero_shot(model, texts)(images), whole.logits_per_image)
    torch.testing.assert_close(retrieval(model, images)(texts), whole.logits_per_text)
    drops = BlankOut(Words(padding=39)).drops(retrieval(model, images), texts)
    assert drops.shape == (2, 7)
    assert (drops != 0).tolist() == Words(padding=39).movable(texts).tolist()


def test_models_that_cannot_be_asked_are_refused() -> None:
    model, inputs = tiny("vit")

    with pytest.raises(InputError, match="wanted the output answer; there are: logits"):
        logits_of(model, "answer")(inputs)
    with pytest.raises(InputError, match="must answer with"):
        probabilities(lambda given: given["pixel_values"], inputs)
    with pytest.raises(InputError, match="NaN"):
        probabilities(lambda given: torch.full((2, 3), torch.nan), inputs)
    with pytest.raises(InputError, match="training mode"):
        logits_of(model.train())
