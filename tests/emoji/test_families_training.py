"""The stages of the other families run, resume where they stopped, learn, and leave folders that load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from heedful.emoji.answering import answer_scores, question_inputs
from heedful.emoji.models import MODELS
from heedful.emoji.questions import ANSWERS, ask
from heedful.emoji.regions import shown
from heedful.emoji.training.answering import (
    NONE,
    AnswerShape,
    TaughtAnswerer,
    accuracy,
    look,
    new_answerer,
)
from heedful.emoji.training.detection import (
    DetrShape,
    TaughtDetr,
    boxes_of,
    mean_precision,
    new_detr,
    see,
    true_boxes,
)
from heedful.emoji.training.families import SETTINGS, Settings, Stage, run_stage
from heedful.emoji.training.labelled import NOBODY, Labelled, pack
from heedful.emoji.training.loop import Plan
from heedful.emoji.training.optimizers import optimizers_for
from heedful.emoji.training.reading import TextShape, claim_matrix, hide
from heedful.emoji.training.resnet import ResNetShape, TaughtResNet, new_resnet
from heedful.emoji.vocabulary import COLOURS, LABELS, SUBJECTS
from heedful.emoji.wordpieces import build_wordpieces
from heedful.emoji.world import Scene, scenes
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertForSequenceClassification,
    DetrForObjectDetection,
    LxmertForQuestionAnswering,
    ResNetForImageClassification,
    VisualBertForQuestionAnswering,
)

CONVOLUTIONS = ResNetShape(8, (8, 16), (1, 2))
ANSWERING = AnswerShape(hidden=32, layers=2, heads=2, regions=1, cross=2)
TINY: dict[Stage, Settings] = {
    "resnet": Settings(2, 4, 1, CONVOLUTIONS, 1e-3, {2: 6}, 5, fresh=4),
    "detr": Settings(2, 4, 1, DetrShape(32, 1, 2, 2, 5), 1e-3, {2: 6}, 5, fresh=4),
    "visual-bert": Settings(2, 4, 1, ANSWERING, 1e-3, {2: 6}, 5, fresh=4),
    "lxmert": Settings(2, 4, 1, ANSWERING, 1e-3, {2: 6}, 5, fresh=4),
    "bert": Settings(2, 4, 1, TextShape(32, 2, 2), 1e-3, fresh=4),
}
KINDS = {
    "resnet": ResNetForImageClassification,
    "detr": DetrForObjectDetection,
    "visual-bert": VisualBertForQuestionAnswering,
    "lxmert": LxmertForQuestionAnswering,
    "bert": BertForSequenceClassification,
}


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return list(scenes(31, 12, pairs="any"))


@pytest.fixture(scope="module")
def packed(drawn: list[Scene]) -> Labelled:
    return pack(drawn)


def plan_of(folder: Path, stage: Stage, steps: int = 2) -> Plan:
    return Plan(steps, folder / stage, warmup=1, save_every=2, show_every=1)


def train(stage: Stage, folder: Path, plan: Plan) -> list[float]:
    """Run a tiny stage with what it needs; the losses logged."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    if not (models / "classifier").exists():
        (models / "classifier").symlink_to(MODELS / "classifier")
    if stage == "detr" and not (models / "resnet").exists():
        run_stage("resnet", plan_of(folder, "resnet", 1), models, own=TINY["resnet"])
    run_stage(stage, plan, models, own=TINY[stage])
    lines = [json.loads(line) for line in (plan.folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("stage", list(TINY))
def test_a_stage_leaves_a_folder_that_loads_in_float32(stage: Stage, tmp_path: Path) -> None:
    train(stage, tmp_path, plan_of(tmp_path, stage))
    folder = tmp_path / "models" / stage
    model = KINDS[stage].from_pretrained(folder)
    assert model.dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert "auxiliary_loss" not in vars(model.config) or not model.config.auxiliary_loss
    if stage in ("resnet", "detr"):
        processor = AutoImageProcessor.from_pretrained(folder)
        assert list(processor.image_mean) == [0.5, 0.5, 0.5]
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert len(tokenizer) == model.config.vocab_size
        assert tokenizer.pad_token_id == model.config.pad_token_id


@pytest.mark.parametrize("stage", list(TINY))
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(stage: Stage, tmp_path: Path) -> None:
    whole = train(stage, tmp_path / "whole", plan_of(tmp_path / "whole", stage, 4))
    plan = plan_of(tmp_path / "parts", stage, 4)
    train(stage, tmp_path / "parts", replace(plan, stop_after=2))
    assert train(stage, tmp_path / "parts", plan) == pytest.approx(whole, abs=5e-4)


def test_detr_says_which_stage_goes_before_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage resnet first"):
        run_stage("detr", plan_of(tmp_path, "detr"), tmp_path / "models", own=TINY["detr"])
    with pytest.raises(FileNotFoundError, match="run the stage classifier first"):
        run_stage("lxmert", plan_of(tmp_path, "lxmert"), tmp_path / "models", own=TINY["lxmert"])


@pytest.mark.parametrize("stage", list(SETTINGS))
def test_the_shipped_sizes_are_at_most_eight_megabytes(stage: Stage) -> None:
    shape, tokenizer = SETTINGS[stage].shape, build_wordpieces()
    if stage == "resnet":
        model = new_resnet(shape)
    elif stage == "detr":
        model = new_detr(new_resnet(SETTINGS["resnet"].shape), shape)
    elif stage == "bert":
        from heedful.emoji.training.reading import new_bert

        model = new_bert(tokenizer, shape)
    else:
        model = new_answerer(stage, tokenizer, shape)
    assert 2 * sum(tensor.numel() for tensor in model.state_dict().values()) < 8e6


def test_regions_know_what_they_show(drawn: list[Scene]) -> None:
    from heedful.emoji.models import load_classifier

    looked = look(drawn, load_classifier("cpu"), 0)
    assert looked.shown() == [shown(scene) for scene in drawn]
    names, colours = looked.region_truth(torch.arange(len(looked)))
    for row, scene in enumerate(drawn):
        found = set()
        for region, place in enumerate(looked.places[row]):
            box = tuple(int(side) for side in (64 * place).round())
            own = [one for one in scene.subjects if one.box == box]
            name, colour = int(names[row, region]), int(colours[row, region])
            assert name == (SUBJECTS.index(own[0].name) if own else NONE[0])
            assert colour == (COLOURS.index(own[0].colour) if own and own[0].colour else NONE[1])
            found |= {one.name for one in own}
        assert found == {one.name for one in scene.subjects}
    again = look(drawn, load_classifier("cpu"), 0)
    assert torch.equal(again.places, looked.places)


@pytest.mark.parametrize("kind", ["visual-bert", "lxmert"])
def test_a_model_that_answers_learns_a_few_questions_by_heart(kind: Stage, drawn: list[Scene]) -> None:
    from heedful.emoji.models import load_classifier

    torch.manual_seed(0)
    tokenizer, looked = build_wordpieces(), look(drawn, load_classifier("cpu"), 0)
    taught = TaughtAnswerer(new_answerer(kind, tokenizer, ANSWERING), tokenizer)
    rng, known = np.random.default_rng(0), looked.shown()
    asked = [ask(one, rng) for one in known]
    rows = torch.arange(len(looked))
    inputs = question_inputs(
        taught.model, tokenizer, [one.text for one in asked], looked.features, looked.places
    )
    answers = torch.tensor([ANSWERS.index(one.answer) for one in asked])
    optimizers = optimizers_for(taught, 3e-3)
    losses = []
    for _ in range(50):
        loss, figures = taught(inputs, answers, looked.region_truth(rows))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(figures)
    assert losses[-1]["right"] > 0.9 > losses[0]["right"]
    assert losses[-1]["words"] < 0.5 * losses[0]["words"]
    scores = answer_scores(taught.model(**inputs))
    assert (scores.argmax(-1) == answers).float().mean() > 0.9
    assert 0 <= accuracy(taught.model, tokenizer, looked)["all"] <= 1


def test_the_answer_of_visual_bert_depends_on_where_regions_are(drawn: list[Scene]) -> None:
    tokenizer = build_wordpieces()
    model = new_answerer("visual-bert", tokenizer, ANSWERING).eval()
    features, places = torch.randn(1, 6, 128), torch.rand(1, 6, 4)
    scores = [
        answer_scores(model(**question_inputs(model, tokenizer, ["what is red?"], features, at)))
        for at in (places, 1 - places)
    ]
    assert not torch.allclose(*scores)


def test_boxes_are_the_bounds_of_what_is_seen(drawn: list[Scene], packed: Labelled) -> None:
    boxes, there = boxes_of(packed.slots)
    for row, scene in enumerate(drawn):
        assert int(there[row].sum()) == len(scene.subjects)
        for slot, subject in enumerate(scene.subjects):
            left, top, right, bottom = (side / 64 for side in subject.box)
            truth = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            assert boxes[row, slot].tolist() == pytest.approx(truth)
    names = [one.names for one in true_boxes(packed)]
    assert names == [tuple(subject.name for subject in scene.subjects) for scene in drawn]
    assert true_boxes(packed)[0].corners.tolist()[0] == pytest.approx(list(drawn[0].subjects[0].box))


def test_a_moved_scene_s_boxes_move_with_it(packed: Labelled) -> None:
    seen = see(packed, torch.arange(8), torch.Generator().manual_seed(0))
    assert torch.equal((seen.names != NOBODY).sum(1), (packed.names[:8, 1:] != NOBODY).sum(1))
    for target, shares in zip(seen.targets(torch.device("cpu")), seen.shares, strict=True):
        grid = shares.unflatten(0, (8, 8))
        for at, (x, y, width, height) in enumerate(target["boxes"].tolist()):
            rows, columns = torch.nonzero(grid[..., at + 1], as_tuple=True)
            # The cells that show the subject are those that its box touches, to within a cell.
            assert abs(8 * (y - height / 2) - rows.min()) <= 1
            assert abs(8 * (y + height / 2) - rows.max() - 1) <= 1
            assert abs(8 * (x - width / 2) - columns.min()) <= 1
            assert abs(8 * (x + width / 2) - columns.max() - 1) <= 1


def test_detr_begins_as_the_resnet_and_trains_it_along() -> None:
    torch.manual_seed(0)
    resnet = new_resnet(CONVOLUTIONS)
    resnet(torch.randn(4, 3, 64, 64))  # running means of its own
    resnet.eval()
    detr = new_detr(resnet, DetrShape(32, 1, 2, 2, 5)).eval()
    pixels = torch.randn(2, 3, 64, 64)
    (features, _), *_ = detr.model.backbone(pixels, torch.ones(2, 64, 64))
    assert features.shape[-2:] == (8, 8)
    assert torch.allclose(features, resnet.resnet(pixels).last_hidden_state, atol=1e-5)
    assert all(parameter.requires_grad for parameter in detr.model.backbone.parameters())


def test_detr_s_loss_is_transformers_own_and_reaches_every_weight(packed: Labelled) -> None:
    torch.manual_seed(0)
    detr = new_detr(new_resnet(CONVOLUTIONS), DetrShape(32, 1, 1, 2, 5))
    taught = TaughtDetr(detr)
    seen = see(packed, torch.arange(4), torch.Generator().manual_seed(1))
    loss, figures = taught(seen)
    whole = detr(pixel_values=seen.pixels, labels=seen.targets(torch.device("cpu")))
    assert figures["found"] == pytest.approx(whole.loss.item(), rel=1e-4)
    loss.backward()
    assert [name for name, weight in taught.named_parameters() if weight.grad is None] == []


def test_detr_learns_a_few_scenes_by_heart(packed: Labelled) -> None:
    torch.manual_seed(0)
    taught = TaughtDetr(new_detr(new_resnet(CONVOLUTIONS), DetrShape(32, 1, 2, 2, 5)))
    few = Labelled(*(getattr(packed, name)[:4] for name in ("images", "slots", "names", "colours")), ())
    before = mean_precision(taught.detr, few)
    seen = see(few, torch.arange(4), torch.Generator().manual_seed(1))
    pixels = few.images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    boxes, _ = boxes_of(few.slots)
    seen = replace(seen, pixels=pixels, boxes=boxes)
    optimizers = optimizers_for(taught, 5e-3)
    for _ in range(60):
        taught(seen)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert before < 0.2
    assert mean_precision(taught.detr, few) > 0.4


def test_the_resnet_that_is_taught_is_the_one_that_is_kept(packed: Labelled) -> None:
    taught = TaughtResNet(new_resnet(CONVOLUTIONS)).eval()
    pixels = packed.images[:3].permute(0, 3, 1, 2).float() / 127.5 - 1.0
    logits, cells = taught.look(pixels)
    assert logits.shape == (3, len(LABELS))
    assert cells.shape == (3, 64, 16)
    assert torch.allclose(logits, taught.resnet(pixels).logits, atol=1e-6)


def test_hidden_words_are_hidden_and_claims_follow() -> None:
    rng = np.random.default_rng(0)
    texts = {hide("a red bow, the cat", rng, "[MASK]", share=1.0) for _ in range(200)}
    assert "a red [MASK], the cat" in texts
    assert hide("a red bow", rng, "[MASK]", share=0.0) == "a red bow"
    from heedful.emoji.claims import CLAIMS

    truth = claim_matrix(["a red [MASK], the cat", "a [MASK] bow, the cat"]).bool()
    red, both = CLAIMS.index("a red thing"), CLAIMS.index("an animal and an object")
    assert truth[:, red].tolist() == [True, False]
    assert truth[:, both].tolist() == [False, True]


def test_each_weight_has_one_optimiser_and_slow_parts_their_own_rate() -> None:
    detr = new_detr(new_resnet(CONVOLUTIONS), DetrShape(32, 1, 2, 2, 5))
    optimizers = optimizers_for(detr, 1e-2, slower={"backbone": 0.1})
    rates = {
        id(weight): group["lr"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    names = dict(detr.named_parameters())
    assert len(rates) == len(names)
    for name, weight in names.items():
        assert rates[id(weight)] == pytest.approx(1e-3 if "backbone" in name else 1e-2)
    muon = {id(weight) for group in optimizers[0].param_groups for weight in group["params"]}
    assert id(names["model.decoder.layers.0.encoder_attn.q_proj.weight"]) in muon
    assert id(names["bbox_predictor.layers.0.weight"]) not in muon
