"""The studies of models that read words or regions: embedded models and samples, bound to tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import torch
from heedful.emoji import samples_questions as questions
from heedful.emoji import samples_text as texts
from heedful.emoji.answering import Answerer, answer, answer_scores, question_inputs
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import (
    load_bert,
    load_classifier,
    load_clip,
    load_lxmert,
    load_visual_bert,
)
from heedful.explain.evaluation import (
    VQA_STEPS,
    Ask,
    Batch,
    BlankOut,
    BlankOutTest,
    DeletionInsertion,
    DeletionInsertionTest,
    Method,
    Perturbation,
    PerturbationTest,
    PiecePointingTest,
    PointingAtPieces,
    Regions,
    Study,
    Test,
    Words,
    logits_of,
)
from heedful.explain.evaluation.parts import Part
from heedful.scripts.studies_boxes import detr, detr_pairs
from heedful.scripts.studies_methods import COUNT, fitting, of_one, of_two
from jaxtyping import Int
from torch import Tensor

STEPS: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares for deletion and insertion of a handful of pieces."""
_REGIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "visual-bert": ("visual_embeds",),
    "lxmert": ("visual_feats", "visual_pos"),
}
_TITLES: Final = {"visual-bert": "VisualBERT", "lxmert": "LXMERT"}
_CLAIM: Final = "claim"
_FEW: Final = (
    "generic",
    "libra",
    "grad_cam",
    "gradient_rollout",
    "gradient_flow",
    "rollout",
    "raw_attention",
)
"""The generic rule and its kin, for a second look at what is explained."""


def answering(kind: Literal["visual-bert", "lxmert"], *, log_odds: bool = False) -> Callable[..., Study]:
    """Builds the study of a model that answers questions on regions.

    Args:
        log_odds: explain the answer's log-odds against all others, and not its logit.
    """

    def build(
        count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
        methods: Sequence[Method] | None = None, seed: int = questions.SEED,
    ) -> Study:  # fmt: skip
        model, tokenizer = (load_visual_bert if kind == "visual-bert" else load_lxmert)(device, dtype)
        chosen = of_two() if kind == "lxmert" else of_one()
        if log_odds:
            chosen = tuple(one for one in chosen if one.rule in _FEW)
        about = {
            "data": f"a question on each of fresh emoji scenes, seed {seed}",
            "answers": "one is right, of 42: soft accuracy is the same as hard",
            "explained": "the predicted answer" + (", its log-odds against all others" if log_odds else ""),
        }
        return Study(
            f"{kind}-log-odds" if log_odds else kind, _TITLES[kind], model, logits_of(model),
            _asked_questions(model, tokenizer, seed, log_odds), count or COUNT, fitting(methods, chosen),
            _answer_tests(Regions(_REGIONS[kind]), tokenizer), about=about,
        )  # fmt: skip

    return build


def bert(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = texts.SEED,
) -> Study:  # fmt: skip
    """BERT, asked for one of the claims that a caption makes true."""
    model, tokenizer = load_bert(device, dtype)

    def source(items: Sequence[int]) -> Batch:
        drawn = texts.claim_samples(items, seed)
        claims = torch.tensor([one.claim for one in drawn])
        inputs = tokenizer([one.text for one in drawn], padding=True, return_tensors="pt")
        held = torch.ones_like(claims)
        return Batch(
            items=tuple(items), inputs=_moved(inputs, model), target=claims.tolist(), labels=held, truth=held,
            pieces=texts.claim_tokens(tokenizer, drawn), beside={_CLAIM: claims.to(model.device)},
            titles=tuple(f"{texts.CLAIMS[one.claim]}? {one.text}" for one in drawn),
        )  # fmt: skip

    tests = _text_tests(Words(), Words("mask", tokenizer.mask_token_id), "the claim holds")
    about = {
        "data": f"fresh captions, each with a claim that it makes true, seed {seed}",
        "asked": "whether the claim holds, by its sigmoid",
    }
    return Study(
        "bert", "BERT", model, claim_holds(model), source, count or COUNT, fitting(methods, of_one()), tests,
        about=about,
    )  # fmt: skip


def clip_text(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = texts.GALLERY_SEED,
) -> Study:  # fmt: skip
    """CLIP, asked by a caption which of all images it fits; the methods explain its fit to its own."""
    model, tokenizer = load_clip(device, dtype)
    gallery = texts.gallery(count or COUNT, seed)
    pixels = to_tensor(gallery.images).to(model.device, model.dtype)

    def source(items: Sequence[int]) -> Batch:
        own = torch.tensor(list(items))
        inputs = tokenizer([gallery.captions[item] for item in items], padding=True, return_tensors="pt")
        return Batch(
            items=tuple(items),
            inputs={**_moved(inputs, model), "pixel_values": pixels[own.to(pixels.device)]}, target=None,
            labels=own, truth=gallery.fits[own].float(),
            pictures=tuple(gallery.images[item] for item in items),
            titles=tuple(gallery.captions[item] for item in items),
        )  # fmt: skip

    truth = "an image that shows all that the caption names"
    words = Words(padding=tokenizer.pad_token_id)
    tests = (_perturbed((words,), ("text",), truth, "perturbation-text"), _deleted(words, "text"))
    about = {"data": f"captions of {count or COUNT} fresh emoji scenes of two subjects, seed {seed}"}
    return Study(
        "clip-text", "CLIP, text", model, best_image(model, pixels), source, count or COUNT,
        fitting(methods, of_one()), tests, about=about,
    )  # fmt: skip


def claim_holds(model: Any) -> Ask:
    """Ask a BERT whether one claim of every row, `inputs["claim"]`, holds: labels are no and yes."""

    def ask(inputs: Mapping[str, Any]) -> Tensor:
        given = dict(inputs)
        logits = model(**{name: one for name, one in given.items() if name != _CLAIM}).logits
        own = logits.gather(1, given[_CLAIM][:, None].to(logits.device))
        return torch.cat([torch.zeros_like(own), own], 1)

    return ask


def best_image(model: Any, pixels: Tensor) -> Ask:
    """Ask a CLIP which of fixed images fits a text, as `retrieval` does, with the images embedded once."""
    with torch.no_grad():
        images = torch.cat([model.get_image_features(part).pooler_output for part in pixels.split(100)])
        images = torch.nn.functional.normalize(images, dim=-1)

    def ask(inputs: Mapping[str, Any]) -> Tensor:
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        own = torch.nn.functional.normalize(model.get_text_features(**given).pooler_output, dim=-1)
        return own @ images.T * model.logit_scale.exp()

    return ask


def log_odds_of(labels: Int[Tensor, "row"]) -> Callable[[Any], Tensor]:
    """A target for `explain`: by how much each row's label is likelier than all others together."""

    def score(outputs: Any) -> Tensor:
        logits, own = answer_scores(outputs).float(), labels[:, None].to(outputs[0].device)
        others = logits.scatter(1, own, -torch.inf)
        return logits.gather(1, own)[:, 0] - others.logsumexp(1)

    return score


def _asked_questions(
    model: Answerer, tokenizer: Any, seed: int, log_odds: bool
) -> Callable[[Sequence[int]], Batch]:
    classifier = load_classifier(model.device, model.dtype)

    def source(items: Sequence[int]) -> Batch:
        drawn = questions.question_samples(items, classifier, seed)
        inputs = question_inputs(model, tokenizer, drawn.texts, drawn.features, drawn.places)
        said = answer(model, inputs)
        return Batch(
            items=tuple(items), inputs=inputs, target=log_odds_of(said) if log_odds else said.tolist(),
            labels=said, truth=drawn.answers,
            pictures=drawn.images, titles=tuple(f"{one.text} {one.answer}" for one in drawn.questions),
            extra={"words": questions.deciding_tokens(tokenizer, drawn.questions), "regions": drawn.rests},
        )  # fmt: skip

    return source


def _answer_tests(regions: Regions, tokenizer: Any) -> tuple[Test, ...]:
    # VisualBERT reads its answer from the question mark; LXMERT does not, but is asked the same.
    stay = (tokenizer.convert_tokens_to_ids("?"),)
    words, masked = Words(stay=stay), Words("mask", tokenizer.mask_token_id, stay=stay)
    truth = "the right answer, of 42"
    return (
        _perturbed((words, regions), ("text", "regions"), truth, "perturbation"),
        _perturbed((words,), ("text",), truth, "perturbation-text"),
        _perturbed((regions,), ("regions",), truth, "perturbation-regions"),
        _deleted(words, "text"),
        _deleted(regions, "regions"),
        BlankOutTest(BlankOut(masked, together=256), kind="text", name="blank-out-text"),
        BlankOutTest(BlankOut(regions, together=256), kind="regions", name="blank-out-regions"),
        PiecePointingTest(PointingAtPieces(words), "text", "words", "pointing-text", True),
        PiecePointingTest(PointingAtPieces(regions), "regions", "regions", "pointing-regions", True),
    )


def _text_tests(words: Words, masked: Words, truth: str) -> tuple[Test, ...]:
    return (
        _perturbed((words,), ("text",), truth, "perturbation-text"),
        _deleted(words, "text"),
        BlankOutTest(BlankOut(masked, together=256), kind="text", name="blank-out-text"),
        PiecePointingTest(PointingAtPieces(words), "text", None, "pointing-text", True),
    )


def _perturbed(parts: tuple[Part, ...], kinds: tuple[Any, ...], truth: str, name: str) -> Test:
    return PerturbationTest(Perturbation(parts, VQA_STEPS, truth), kinds, name)


def _deleted(part: Part, kind: Any) -> Test:
    return DeletionInsertionTest(DeletionInsertion(part, part, STEPS), kind, f"deletion-insertion-{kind}")


def _moved(inputs: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    return {name: one.to(model.device) for name, one in inputs.items()}


STUDIES: Final[Mapping[str, Callable[..., Study]]] = {
    "visual-bert": answering("visual-bert"),
    "lxmert": answering("lxmert"),
    "visual-bert-log-odds": answering("visual-bert", log_odds=True),
    "lxmert-log-odds": answering("lxmert", log_odds=True),
    "detr": detr,
    "detr-pairs": detr_pairs,
    "bert": bert,
    "clip-text": clip_text,
}
"""By name what builds each study: of how many, where, of what type, with which methods and seed."""
