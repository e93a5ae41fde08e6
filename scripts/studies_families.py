"""The studies of models that read words, regions or boxes: embedded models and samples, bound to tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import torch
from heedful.emoji import samples_detection as found
from heedful.emoji import samples_questions as questions
from heedful.emoji import samples_text as texts
from heedful.emoji.answering import Answerer, answer, question_inputs
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import (
    load_bert,
    load_classifier,
    load_clip,
    load_detr,
    load_lxmert,
    load_visual_bert,
)
from heedful.emoji.vocabulary import SUBJECTS
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
    PointingTest,
    Regions,
    SegmentationTest,
    SpecificityTest,
    Study,
    Test,
    Words,
    all_methods,
    logits_of,
)
from heedful.explain.evaluation.detection import QUERY, FoundMasksTest, Things, boxes_of, stacked_things
from heedful.explain.evaluation.parts import Part
from heedful.explain.evaluation.study import ABLATIONS
from torch import Tensor

COUNT: Final = 500
"""Questions, captions or scenes of a study."""
STEPS: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares for deletion and insertion of a handful of pieces."""
_REGIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "visual-bert": ("visual_embeds",),
    "lxmert": ("visual_feats", "visual_pos"),
}
_TITLES: Final = {"visual-bert": "VisualBERT", "lxmert": "LXMERT"}
_CLAIM: Final = "claim"
_SLOW: Final = ("attribution", "occlusion")
"""What takes most of the time on DETR: a third of a second a box."""


def answering(kind: Literal["visual-bert", "lxmert"]) -> Callable[..., Study]:
    """Builds the study of a model that answers questions on regions."""

    def build(
        count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
        methods: Sequence[Method] | None = None, seed: int = questions.SEED,
    ) -> Study:  # fmt: skip
        model, tokenizer = (load_visual_bert if kind == "visual-bert" else load_lxmert)(device, dtype)
        chosen = _of_two() if kind == "lxmert" else _of_one()
        about = {
            "data": f"a question on each of fresh emoji scenes, seed {seed}",
            "answers": "one is right, of 42: soft accuracy is the same as hard",
            "explained": "the predicted answer",
        }
        return Study(
            kind, _TITLES[kind], model, logits_of(model), _asked_questions(model, tokenizer, seed),
            count or COUNT, tuple(methods or chosen), _answer_tests(Regions(_REGIONS[kind]), tokenizer),
            about=about,
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
        "bert", "BERT", model, claim_holds(model), source, count or COUNT, tuple(methods or _of_one()), tests,
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
        tuple(methods or _of_one()), tests, about=about,
    )  # fmt: skip


def detr(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = found.SEED,
) -> Study:  # fmt: skip
    """DETR, every box that it found in so many scenes: an item is a box."""
    model = load_detr(device, dtype)
    boxes = found.found_boxes(model, count or COUNT, seed=seed)

    def source(items: Sequence[int]) -> Batch:
        return _boxes(model, [boxes[item] for item in items], tuple(items), None, seed)

    tests = (
        FoundMasksTest(),
        PointingTest(correct_only=True),
        SegmentationTest(correct_only=True),
    )
    about = {
        "data": f"the {len(boxes)} boxes found in {count or COUNT} fresh emoji scenes, seed {seed}",
        "found": f"surer than {found.SURE:g}, else the surest of a scene; right with IoU {found.RIGHT:g}",
    }
    return Study(
        "detr", "DETR", model, boxes_of(model), source, len(boxes), tuple(methods or _of_two()), tests,
        about=about,
    )  # fmt: skip


def detr_pairs(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = found.SEED + 1,
) -> Study:  # fmt: skip
    """DETR on scenes of two subjects that it found both: one's box against the other's."""
    model, wanted = load_detr(device, dtype), count or COUNT
    pairs = _found_pairs(model, wanted, seed)

    def source(items: Sequence[int]) -> Batch:
        one = _boxes(model, [pairs[item][0] for item in items], tuple(items), 2, seed)
        other = _boxes(model, [pairs[item][1] for item in items], tuple(items), 2, seed)
        return Batch(
            items=one.items, inputs=one.inputs, target=one.target, labels=one.labels, truth=one.truth,
            masks=one.masks, other=other.target, other_masks=other.masks, beside=one.beside,
            pictures=one.pictures, titles=one.titles, extra=one.extra,
        )  # fmt: skip

    fast = tuple(one for one in _of_two() if one.rule not in _SLOW)
    about = {"data": f"fresh emoji scenes of two subjects, both found rightly, seed {seed}"}
    about |= {} if methods else {"not asked, for their cost": ", ".join(_SLOW)}
    return Study(
        "detr-pairs", "DETR", model, boxes_of(model), source, len(pairs), tuple(methods or fast),
        (SpecificityTest(),), about=about,
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


def _asked_questions(model: Answerer, tokenizer: Any, seed: int) -> Callable[[Sequence[int]], Batch]:
    classifier = load_classifier(model.device, model.dtype)

    def source(items: Sequence[int]) -> Batch:
        drawn = questions.question_samples(items, classifier, seed)
        inputs = question_inputs(model, tokenizer, drawn.texts, drawn.features, drawn.places)
        said = answer(model, inputs)
        return Batch(
            items=tuple(items), inputs=inputs, target=said.tolist(), labels=said, truth=drawn.answers,
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


def _of_one() -> tuple[Method, ...]:
    """All methods; of the ablations the one that means something where one stream attends to itself alone."""
    return tuple(one for one in all_methods() if one.name != ABLATIONS[0].name)


def _of_two() -> tuple[Method, ...]:
    """All methods and both ablations: without aggregation there is no identity for Eq. 8 to take off."""
    alone = replace(ABLATIONS[1], settings={"aggregate": False, "normalise": False})
    return (*all_methods(ablations=False), ABLATIONS[0], alone)


def _boxes(
    model: Any, boxes: Sequence[found.FoundBox], items: tuple[int, ...], subjects: int | None, seed: int
) -> Batch:
    """A row a box: its scene, asked for its query, and what the scene shows."""
    things = _things(boxes, subjects, seed)
    own = torch.tensor([box.subject for box in boxes])
    labels = torch.tensor([SUBJECTS.index(box.name) for box in boxes])
    right = torch.tensor([box.right for box in boxes])
    query = torch.tensor([box.query for box in boxes])
    images = found.images_of(boxes, subjects, seed)
    # A wrong box has no right answer: neither its label nor "no object", which is the last.
    truth = torch.nn.functional.one_hot(labels, len(SUBJECTS) + 1).float() * right[:, None]
    return Batch(
        items=items, inputs={"pixel_values": to_tensor(images).to(model.device, model.dtype)},
        target=query.tolist(), labels=labels, truth=truth, masks=things.masks[torch.arange(len(own)), own],
        beside={QUERY: query.to(model.device)}, extra={"things": things}, pictures=tuple(images),
        titles=tuple(f"{box.name}, {box.score:.2f}" for box in boxes),
    )  # fmt: skip


def _things(boxes: Sequence[found.FoundBox], subjects: int | None, seed: int) -> Things:
    drawn = [found.detection_scene(box.scene, subjects, seed).subjects for box in boxes]
    masks = [torch.stack([torch.from_numpy(one.mask) for one in own]) for own in drawn]
    names = [[SUBJECTS.index(one.name) for one in own] for own in drawn]
    return stacked_things(
        masks, names, [box.subject if box.right else -1 for box in boxes], [box.scene for box in boxes],
        [box.score for box in boxes], [SUBJECTS.index(box.name) for box in boxes],
    )  # fmt: skip


def _found_pairs(model: Any, count: int, seed: int) -> list[tuple[found.FoundBox, found.FoundBox]]:
    """The two right boxes of each of the first `count` scenes that have two, of at most twice as many."""
    right: dict[int, list[found.FoundBox]] = {}
    for box in found.found_boxes(model, 2 * count, 2, seed):
        if box.right:
            right.setdefault(box.scene, []).append(box)
    pairs = [(own[0], own[1]) for own in right.values() if len(own) == 2]
    return pairs[:count]


def _moved(inputs: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    return {name: one.to(model.device) for name, one in inputs.items()}


STUDIES: Final[Mapping[str, Callable[..., Study]]] = {
    "visual-bert": answering("visual-bert"),
    "lxmert": answering("lxmert"),
    "detr": detr,
    "detr-pairs": detr_pairs,
    "bert": bert,
    "clip-text": clip_text,
}
"""By name what builds each study: of how many, where, of what type, with which methods and seed."""
