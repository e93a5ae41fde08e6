"""Samples are the same in every batch, and what they say decides really does."""

from __future__ import annotations

from functools import lru_cache
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from heedful.emoji import samples_detection, samples_text
from heedful.emoji.average_precision import Boxes
from heedful.emoji.claims import CLAIMS, true_claims
from heedful.emoji.models import load_classifier
from heedful.emoji.questions import ANSWERS, KINDS
from heedful.emoji.samples_detection import detection_scene, found_boxes, images_of
from heedful.emoji.samples_questions import QuestionSamples, deciding_tokens, question_samples
from heedful.emoji.samples_text import claim_samples, claim_tokens, gallery
from heedful.emoji.wordpieces import build_wordpieces
from transformers import DetrForObjectDetection

NOBODY = Mock(spec=DetrForObjectDetection)


@lru_cache
def questions() -> QuestionSamples:
    return question_samples(range(24), load_classifier(device="cpu"))


def test_a_question_is_the_same_in_every_batch() -> None:
    whole, alone = questions(), question_samples([5], load_classifier(device="cpu"))

    assert alone.questions[0] == whole.questions[5]
    assert alone.boxes[0] == whole.boxes[5]
    assert torch.equal(alone.rests[0], whole.rests[5])
    torch.testing.assert_close(alone.features[0], whole.features[5], atol=1e-4, rtol=1e-4)
    assert len({question.kind for question in whole.questions}) == len(KINDS)
    assert [ANSWERS[answer] for answer in whole.answers] == [one.answer for one in whole.questions]


def test_answers_rest_on_regions_of_subjects_and_on_none_only_where_something_is_absent() -> None:
    samples = questions()
    for question, rests in zip(samples.questions, samples.rests, strict=True):
        assert rests.sum() == len(question.subjects)
        if not rests.any():
            assert question.answer in ("no", "zero")


def test_deciding_tokens_are_those_of_the_words_that_say_what_is_asked() -> None:
    tokenizer, samples = build_wordpieces(), questions()
    chosen = deciding_tokens(tokenizer, samples.questions)
    ids = tokenizer(samples.texts, padding=True, return_tensors="pt")["input_ids"]

    assert chosen.shape == ids.shape
    for question, row, own in zip(samples.questions, ids, chosen, strict=True):
        assert set(tokenizer.decode(row[own]).split()) == set(question.words)


def test_claims_hold_and_their_words_make_them() -> None:
    samples, tokenizer = claim_samples(range(40)), build_wordpieces()

    assert claim_samples([7])[0] == samples[7]
    assert all(true_claims(one.text)[one.claim] for one in samples)
    assert len({one.claim for one in samples}) > len(CLAIMS) // 2
    ids = tokenizer([one.text for one in samples], padding=True, return_tensors="pt")["input_ids"]
    for one, row, own in zip(samples, ids, claim_tokens(tokenizer, samples), strict=True):
        without = tokenizer.decode(row[~own], skip_special_tokens=True)
        assert not true_claims(without)[one.claim], without


def test_captions_fit_their_own_image_and_those_that_show_as_much() -> None:
    found = gallery(60)

    assert found.fits.diagonal().all()
    assert 0 < found.fits.float().mean() < 0.1
    assert gallery(3).captions == found.captions[:3]


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed in every scene: the first subject's box twice, a wrong name, something unsure."""

    def detect(_: object, images: torch.Tensor) -> list[Boxes]:
        found = []
        for number in range(len(images)):
            one = detection_scene(number).subjects[0]
            box = np.array(one.box, dtype=float)
            other = "cat" if one.name != "cat" else "dog"
            names = (one.name, one.name, other, "car")
            found.append(Boxes(names, np.stack([box, box, box, box]), np.array([0.8, 0.9, 0.7, 0.2])))
        return found

    monkeypatch.setattr(samples_detection, "detect", detect)


@pytest.mark.usefixtures("claims")
def test_boxes_are_right_once_under_their_own_name_and_surest_first() -> None:
    found = found_boxes(NOBODY, 3)

    assert [(one.scene, one.query) for one in found] == [
        (at, query) for at in range(3) for query in (1, 0, 2)
    ]
    assert [one.right for one in found] == [True, False, False] * 3
    assert {one.subject for one in found} == {0}
    assert [image.size for image in images_of(found[:2])] == [(64, 64)] * 2


@pytest.mark.usefixtures("claims")
def test_where_nothing_is_sure_the_surest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_detection, "SURE", 0.95)

    assert [(one.scene, one.query) for one in found_boxes(NOBODY, 2)] == [(0, 1), (1, 1)]


def test_no_samples_share_scenes_with_other_figures() -> None:
    from heedful.emoji import family_figures, samples_questions
    from heedful.emoji.training.families import FRESH_SEED, SETTINGS

    own = {samples_questions.SEED, samples_text.GALLERY_SEED, samples_detection.SEED}
    trained = {one.scenes_seed * 10 + more for one in SETTINGS.values() for more in range(4)}
    measured = {family_figures.SEED + more for more in range(10)} | {FRESH_SEED * 10 + n for n in range(4)}
    assert len(own) == 3
    assert not own & (trained | measured)
