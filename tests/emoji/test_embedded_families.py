"""The embedded models of the other families are good at what their cards say, on a few fresh scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heedful.emoji.answering import answer, question_inputs
from heedful.emoji.average_precision import average_precision, detect
from heedful.emoji.models import MODELS, load_classifier, load_detr, load_lxmert, load_visual_bert
from heedful.emoji.samples_questions import question_samples
from heedful.emoji.training.detection import true_boxes
from heedful.emoji.training.labelled import pack
from heedful.emoji.world import scenes
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    DetrForObjectDetection,
    LxmertForQuestionAnswering,
    VisualBertForQuestionAnswering,
)

KINDS = {
    "visual-bert": (VisualBertForQuestionAnswering, load_visual_bert),
    "lxmert": (LxmertForQuestionAnswering, load_lxmert),
}


@pytest.mark.parametrize("name", KINDS)
def test_questions_are_answered_and_the_folder_is_a_standard_one(name: str) -> None:
    kind, load = KINDS[name]
    drawn = question_samples(range(40), load_classifier(device="cpu"), seed=7_139)
    model, tokenizer = load("cpu")
    inputs = question_inputs(model, tokenizer, drawn.texts, drawn.features, drawn.places)

    assert (answer(model, inputs) == drawn.answers).float().mean() > 0.9
    own = kind.from_pretrained(MODELS / name, local_files_only=True).eval()
    assert (answer(own, inputs) == answer(model, inputs)).all()
    again = AutoTokenizer.from_pretrained(MODELS / name, local_files_only=True)
    texts = again(drawn.texts, padding=True, return_tensors="pt")
    assert texts["input_ids"].tolist() == inputs["input_ids"].tolist()


def test_subjects_are_found_and_the_processor_sees_as_the_model_was_taught() -> None:
    drawn = pack(list(scenes(7_139, 30, pairs="any")))
    model = load_detr("cpu")
    precision = average_precision(detect(model, drawn.images), true_boxes(drawn))

    assert np.mean(list(precision.values())) > 0.9
    processor = AutoImageProcessor.from_pretrained(MODELS / "detr", local_files_only=True)
    pixels = processor([drawn.images[0].numpy()], return_tensors="pt")["pixel_values"]
    expected = drawn.images[:1].permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)
    own = DetrForObjectDetection.from_pretrained(MODELS / "detr", local_files_only=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(own(expected).logits, model(expected).logits)


@pytest.mark.gpu
@pytest.mark.parametrize("load", [load_visual_bert, load_lxmert, lambda: (load_detr(), None)])
def test_where_there_is_cuda_they_go_there_in_float16(load: object) -> None:
    model = load()[0]  # type: ignore[operator]

    assert (model.device.type, model.dtype) == ("cuda", torch.float16)
