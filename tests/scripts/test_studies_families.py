"""The studies of words, regions and boxes ask the embedded models what they say they ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from heedful.emoji.claims import CLAIMS, true_claims
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import load_bert, load_clip, load_detr
from heedful.emoji.questions import ANSWERS
from heedful.emoji.samples_text import claim_samples, gallery
from heedful.explain.evaluation import Method, Study, Words, columns_of, retrieval
from heedful.explain.evaluation.asking import probabilities
from heedful.scripts.studies_families import STUDIES, best_image, claim_holds

FEW = (Method("rollout", "rollout"),)


@lru_cache
def study(name: str, count: int = 6) -> Study:
    return STUDIES[name](count=count, device="cpu", methods=FEW)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_measures_methods_and_controls_and_says_how(name: str) -> None:
    own = study(name)
    found = own.measure(range(2))
    tables = own.tables(found)

    assert [record["item"] for record in found] == list(range(len(found)))
    assert {"rollout", "random", "random weights"} <= set(found[0]["tests"][own.tests[0].name])
    assert set(tables) == {test.name for test in own.tests}
    for table in tables.values():
        assert "seed" in str(table.protocol["data"])
        assert {entry.method for entry in table.entries} >= {"rollout", "random"}


@pytest.mark.parametrize("name", ["visual-bert", "lxmert"])
def test_questions_are_answered_rightly_and_words_and_regions_decide(name: str) -> None:
    own = study(name)
    batch = own.source(range(6))
    asked = own.asked(range(6))

    assert asked.correct.float().mean() >= 5 / 6
    assert asked.answered.shape[1] == len(ANSWERS)
    assert asked.predicted.tolist() == list(batch.target)
    movable = Words(stay=(own.tests[1].experiment.parts[0].stay)).movable(batch.inputs)
    assert batch.extra["words"].shape == movable.shape
    assert not (batch.extra["words"] & ~movable).any()


@pytest.mark.parametrize("name", ["visual-bert", "lxmert"])
def test_without_its_deciding_words_a_question_is_answered_worse(name: str) -> None:
    own, items = study(name), range(20)
    batch = own.source(items)
    words = own.tests[1].experiment.parts[0]
    before = probabilities(own.ask, batch.asked).argmax(1) == batch.truth
    after = probabilities(own.ask, words.without(batch.asked, batch.extra["words"])).argmax(1) == batch.truth
    nothing = words.without(batch.asked, torch.zeros_like(batch.extra["words"]))

    assert before.float().mean() > 0.9
    assert after.float().mean() < 0.6
    torch.testing.assert_close(own.ask(nothing), own.ask(batch.asked), atol=1e-4, rtol=1e-4)


def test_a_claim_is_asked_by_its_own_logit() -> None:
    model, tokenizer = load_bert("cpu")
    drawn = claim_samples(range(8))
    inputs = dict(tokenizer([one.text for one in drawn], padding=True, return_tensors="pt"))
    claims = torch.tensor([one.claim for one in drawn])
    found = probabilities(claim_holds(model), {**inputs, "claim": claims})
    with torch.no_grad():
        sigmoids = model(**inputs).logits.sigmoid().double()

    torch.testing.assert_close(found[:, 1], sigmoids.gather(1, claims[:, None])[:, 0], atol=1e-5, rtol=1e-4)
    wrong = torch.tensor(
        [next(at for at in range(len(CLAIMS)) if not true_claims(one.text)[at]) for one in drawn]
    )
    assert (probabilities(claim_holds(model), {**inputs, "claim": wrong})[:, 1] < 0.5).all()


def test_images_that_are_embedded_once_are_found_as_by_retrieval() -> None:
    model, tokenizer = load_clip("cpu")
    own = gallery(5)
    pixels = to_tensor(own.images)
    texts = tokenizer(list(own.captions[:3]), padding=True, return_tensors="pt")
    inputs = {"input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"]}
    with torch.no_grad():
        expected = retrieval(model, {"pixel_values": pixels})(inputs)
        found = best_image(model, pixels)({**inputs, "pixel_values": pixels[:3]})

    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_captions_find_images_that_show_what_they_name() -> None:
    asked = study("clip-text", 30).asked(range(30))

    assert asked.correct.float().mean() > 0.7


def test_boxes_are_asked_by_their_query_and_wrong_ones_have_no_right_answer() -> None:
    own = study("detr", 12)
    batch = own.source(range(own.count))
    asked = own.asked(range(own.count))
    with torch.no_grad():
        whole = load_detr("cpu")(**batch.inputs).logits.double().softmax(-1)
    rows = torch.arange(own.count)

    torch.testing.assert_close(asked.answered, whole[rows, list(batch.target)], atol=1e-5, rtol=1e-4)
    assert asked.correct.tolist() == (batch.extra["things"].own != -1).tolist()
    assert asked.correct.float().mean() > 0.8
    alone = own.source([0]).extra["things"]
    assert alone.labels.shape[1] == batch.extra["things"].labels.shape[1] == 3  # records are alike
    assert batch.masks is not None
    assert batch.masks.flatten(1).any(1).all()


def test_pairs_are_two_boxes_of_one_scene() -> None:
    own = study("detr-pairs", 5)
    batch = own.source(range(own.count))

    assert own.count == 5
    assert all(one != other for one, other in zip(batch.target, batch.other, strict=True))
    assert not (batch.masks & batch.other_masks).any()


def test_rows_are_the_same_in_every_batch() -> None:
    own = study("bert")
    together, alone = own.measure(range(3)), own.measure([2])

    assert together[2]["correct"] == alone[0]["correct"]
    for test in ("perturbation-text", "pointing-text"):
        whole = columns_of(together, test, "rollout")
        single = columns_of(alone, test, "rollout")
        for name, values in single.items():
            np.testing.assert_allclose(values[0], whole[name][2], atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["visual-bert", "lxmert", "bert", "clip-text", "detr"])
def test_on_a_gpu_studies_run_in_half_precision_by_themselves(name: str) -> None:
    build: Callable[..., Study] = STUDIES[name]
    own = build(count=6, methods=FEW)
    weight = next(own.model.parameters())

    assert (weight.device.type, weight.dtype) == ("cuda", torch.float16)
    assert len(own.measure(range(4))) == 4
