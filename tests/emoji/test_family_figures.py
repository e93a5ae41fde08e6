"""The figures of the other families are those of the models in the folders, on as many scenes as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from heedful.emoji import family_figures, models
from heedful.emoji.claims import draw_caption, true_claims
from heedful.emoji.models import MODELS, load_bert, load_detr, load_lxmert, load_resnet, load_visual_bert
from heedful.emoji.training.answering import AnswerShape, new_answerer
from heedful.emoji.training.detection import DetrShape, new_detr
from heedful.emoji.training.export import save_folder
from heedful.emoji.training.reading import TextShape, new_bert
from heedful.emoji.training.resnet import ResNetShape, new_resnet
from heedful.emoji.wordpieces import build_wordpieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random models of every family, kept as trained ones are."""
    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("models"), build_wordpieces()
    resnet = new_resnet(ResNetShape(8, (8, 16), (1, 1)))
    answering = AnswerShape(hidden=32, layers=1, heads=2, regions=1, cross=1)
    save_folder(resnet, folder / "resnet", looks="ViT")
    save_folder(new_detr(resnet, DetrShape(32, 1, 1, 2, 4)), folder / "detr", looks="Detr")
    save_folder(new_bert(words, TextShape(32, 1, 2)), folder / "bert", reads=words)
    save_folder(new_answerer("visual-bert", words, answering), folder / "visual-bert", reads=words)
    save_folder(new_answerer("lxmert", words, answering), folder / "lxmert", reads=words)
    (folder / "classifier").symlink_to(MODELS / "classifier")
    return folder


@pytest.fixture(autouse=True)
def _these_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS", folder)


def test_every_loader_gives_a_model_to_evaluate() -> None:
    loaded = [load_resnet(), load_detr(), load_visual_bert()[0], load_lxmert()[0], load_bert()[0]]
    assert not any(model.training for model in loaded)
    assert [type(model).__name__ for model in loaded] == [
        "ResNetForImageClassification",
        "DetrForObjectDetection",
        "VisualBertForQuestionAnswering",
        "LxmertForQuestionAnswering",
        "BertForSequenceClassification",
    ]


def test_claims_are_counted_one_caption_at_a_time() -> None:
    figures = {figure.name: figure.value for figure in family_figures.measure_bert(40, seed=3)}
    model, tokenizer = load_bert()
    rng = np.random.default_rng(3)
    right = []
    for text in [draw_caption(rng) for _ in range(40)]:
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt").to(model.device)).logits[0]
        right.append([bool(logit > 0) == held for logit, held in zip(logits, true_claims(text), strict=True)])
    assert figures["every claim right"] == pytest.approx(np.mean(np.all(right, 1)))
    assert figures["the claim told worst"] == pytest.approx(np.mean(right, 0).min())


@pytest.mark.parametrize("name", ["resnet", "detr", "visual_bert", "lxmert"])
def test_figures_are_shares_of_what_was_asked(name: str) -> None:
    figures = getattr(family_figures, f"measure_{name}")(6)
    assert all(0 <= figure.value <= 1 for figure in figures)
    assert figures[0].count == (12 if name in ("visual_bert", "lxmert") else 6)
    kinds = [figure.count for figure in figures if figure.name.startswith("of the kind")]
    assert not kinds or sum(kinds) == figures[0].count


def test_boxes_are_drawn_for_a_sure_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = family_figures.show_boxes(2).images
    sure = load_detr()
    with torch.no_grad():
        sure.class_labels_classifier.bias[0] += 50
    monkeypatch.setattr(family_figures, "load_detr", lambda: sure)
    drawn = family_figures.show_boxes(2).images
    assert all(image.size == (256, 256) for image in drawn)
    assert all(np.any(np.asarray(one) != np.asarray(two)) for one, two in zip(plain, drawn, strict=True))
