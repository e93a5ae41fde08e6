"""The studies of vision models: embedded models and scenes, bound to methods and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import torch
from heedful.emoji import samples_vision as samples
from heedful.emoji.judge import load_judge
from heedful.emoji.models import load_classifier, load_clip
from heedful.emoji.vocabulary import LABELS, SUBJECTS
from heedful.explain.evaluation import (
    AgreementTest,
    AttackTest,
    Batch,
    BlankOut,
    BlankOutTest,
    Blur,
    Colour,
    DeletionInsertion,
    DeletionInsertionTest,
    MaskedAttack,
    MaskFromRelevance,
    Method,
    Patches,
    Perturbation,
    PerturbationTest,
    PointingTest,
    SegmentationTest,
    SpecificityTest,
    Study,
    Test,
    all_methods,
    logits_of,
    zero_shot,
)
from torch import Tensor, nn

COUNT: Final = 500
"""Scenes of a study."""
TOKENS_COUNT: Final = 60
"""Scenes at each number of patches: every patch of every scene costs a forward."""
FILLS_COUNT: Final = 100
SIDES: Final = (24, 32, 48, 64, 96, 128)
"""The sides of the images for blank-out against the number of patches, of 8 pixels each."""
PATCH: Final = 8
GRID: Final = (samples.SIDE // PATCH, samples.SIDE // PATCH)
BLACK: Final = Colour((0.0, 0.0, 0.0), samples.MEAN, samples.STD)
STEPS_DELETED: Final = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_DROPS: Final[tuple[Literal["probability", "logit"], ...]] = ("probability", "logit")
STEPS_BY_TEXT: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_SLOW: Final = ("smoothgrad", "integrated_gradients", "occlusion", "flow")
"""Methods that take most of the time together; studies with two targets spare them by default."""
_NO_ABLATION_OF_ONE: Final = "generic, no normalisation"
"""Eq. 8 and 9 are of attention between modalities: with images alone this ablation changes nothing."""


def vision_methods(*, quick: bool = False) -> tuple[Method, ...]:
    """All methods, and the ablation of the generic rule that has a meaning for one modality."""
    return tuple(one for one in all_methods(quick=quick) if one.name != _NO_ABLATION_OF_ONE)


def classifier(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """The softmax classifier on scenes of one subject, by every protocol but the attack."""
    model = load_classifier(device, dtype)
    about = {"data": f"fresh emoji scenes of one subject, seed {seed}"}
    return Study(
        "classifier", "ViT classifier", model, logits_of(model), _one(model, seed), count or COUNT,
        _chosen(methods), _classifier_tests(), about=about,
    )  # fmt: skip


def classifier_attack(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """The softmax classifier on scenes of one subject, by the masked attack."""
    attack = MaskedAttack(Patches(GRID), samples.MEAN, samples.STD, (0.25,), step=8 / 255, cap=8)
    base = classifier(count, device, dtype, methods, seed)
    return replace(base, name="classifier-attack", tests=(AttackTest(attack),))


def classifier_pairs(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """The softmax classifier on scenes of two subjects, asked for one of them."""
    model = load_classifier(device, dtype)
    tests = (*_blank_outs(), PointingTest(), SpecificityTest())
    return Study(
        "classifier-pairs", "ViT classifier", model, logits_of(model), _two(model, seed, SUBJECTS),
        count or COUNT, _chosen(methods), tests, about=_about_pairs(seed),
    )  # fmt: skip


def judge_pairs(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """The judge, with a sigmoid a label, on scenes of two subjects."""
    model = load_judge(device, dtype).model
    tests = (PointingTest(), SegmentationTest(), SpecificityTest())
    return Study(
        "judge-pairs", "ViT judge", model, logits_of(model), _two(model, seed, LABELS), count or COUNT,
        _chosen(methods, _faster()), tests, about=_about_pairs(seed) | _spared(methods),
    )  # fmt: skip


def clip(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """CLIP as a classifier by texts ("a cat") on scenes of one subject."""
    asked = _Texts(device, dtype)
    truth = "the text of the subject, of 24"
    tests = (
        PerturbationTest(Perturbation((Patches(GRID, BLACK),), STEPS_BY_TEXT, truth), correct_only=True),
        PointingTest(),
        SegmentationTest(),
    )

    def source(items: Sequence[int]) -> Batch:
        scenes = samples.one_subject(items, seed)
        subjects = samples.asked_for(scenes, items)
        return Batch(
            items=tuple(items), inputs=asked.inputs(scenes, samples.labels(subjects)), target=None,
            labels=samples.labels(subjects), truth=samples.labels(subjects), masks=samples.masks(subjects),
            pictures=samples.pictures(scenes), titles=tuple(subject.name for subject in subjects),
        )  # fmt: skip

    about = {"data": f"fresh emoji scenes of one subject, seed {seed}", "texts": _TEXTS}
    return Study(
        "clip", "CLIP", asked.model, asked.ask, source, count or COUNT, _chosen(methods), tests,
        about=about,
    )  # fmt: skip


def clip_pairs(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """CLIP, asked for one of two subjects by its text."""
    asked = _Texts(device, dtype)

    def source(items: Sequence[int]) -> Batch:
        scenes = samples.two_subjects(items, seed)
        own = samples.asked_for(scenes, items)
        other = samples.asked_for(scenes, items, other=True)
        return Batch(
            items=tuple(items), inputs=asked.inputs(scenes, samples.labels(own)), target=None,
            other_inputs=asked.inputs(scenes, samples.labels(other)), labels=samples.labels(own),
            truth=samples.all_right(scenes), masks=samples.masks(own), other_masks=samples.masks(other),
            pictures=samples.pictures(scenes), titles=_titles(own, other),
        )  # fmt: skip

    tests = (SpecificityTest(), PointingTest(), SegmentationTest(MaskFromRelevance(), name="masks"))
    about = {**_about_pairs(seed), "texts": _TEXTS, **_spared(methods)}
    return Study(
        "clip-pairs", "CLIP", asked.model, asked.ask, source, count or COUNT, _chosen(methods, _faster()),
        tests, about=about,
    )  # fmt: skip


def tokens(side: int) -> Callable[..., Study]:
    """Builds the study of blank-out on the classifier with so many pixels a side, so with more patches."""

    def build(
        count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
        methods: Sequence[Method] | None = None, seed: int = samples.SEED,
    ) -> Study:  # fmt: skip
        model = load_classifier(device, dtype)
        about: dict[str, Any] = {
            "data": f"fresh emoji scenes of one subject, seed {seed}, brought to {side} x {side} pixels",
            "patches": f"{(side // PATCH) ** 2}, with interpolated position embeddings",
        }
        grid = (side // PATCH, side // PATCH)
        return Study(
            f"tokens-{side}", f"ViT classifier, {(side // PATCH) ** 2} patches", model, logits_of(model),
            _one(model, seed, side), count or TOKENS_COUNT, _chosen(methods, _fastest()), _blank_outs(grid),
            about=about,
        )  # fmt: skip

    return build


_TEXTS: Final = '"a bear", "an apple" and so on'


class _Texts:
    """CLIP with a text for each subject: rows ask for one by their own text, answers are over all."""

    def __init__(self, device: str | None, dtype: torch.dtype | None) -> None:
        self.model, tokenizer = load_clip(device, dtype)
        given = tokenizer(list(samples.texts()), padding=True, return_tensors="pt")
        self.all = {name: each.to(self.model.device) for name, each in given.items()}
        self._zero_shot = zero_shot(self.model, self.all)

    def ask(self, inputs: Mapping[str, Any]) -> Tensor:
        """The fit of every text, whatever the text of the row is."""
        return self._zero_shot({"pixel_values": inputs["pixel_values"]})

    def inputs(self, scenes: Sequence[samples.Scene], labels: Tensor) -> dict[str, Tensor]:
        """Each image with the text of its label."""
        own = {name: each[labels.to(each.device)] for name, each in self.all.items()}
        return {"pixel_values": _pixels(self.model, scenes), **own}


def blank_out_fills(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """Blank-out on one subject by several fills: how far its answer depends on what a patch becomes."""
    base = classifier(count or FILLS_COUNT, device, dtype, methods or _for_fills(), seed)
    return replace(base, name="blank-out-fills", tests=_fills("the drawn subject"))


def blank_out_fills_pairs(
    count: int | None = None, device: str | None = None, dtype: torch.dtype | None = None,
    methods: Sequence[Method] | None = None, seed: int = samples.SEED,
) -> Study:  # fmt: skip
    """The same on two subjects, of which the other one speaks against the one that is asked for."""
    base = classifier_pairs(count or FILLS_COUNT, device, dtype, methods or _for_fills(), seed)
    return replace(base, name="blank-out-fills-pairs", tests=_fills("the subject that is asked for"))


def _for_fills() -> tuple[Method, ...]:
    signed = (Method(f"{rule}, signed", rule, {"signed": True}) for rule in ("generic", "libra", "legrad"))
    return (*_faster(), *signed, Method("occlusion by gray", "occlusion"))


def _fills(label: str) -> tuple[Test, ...]:
    fills = {"black": BLACK, "gray": Colour(), "blurred": Blur(5.0)}
    return tuple(
        BlankOutTest(
            BlankOut(Patches(GRID, fill), together=128, of=of, label=label), name=f"{name}-{of}"
        )
        for name, fill in fills.items()
        for of in _DROPS
    )  # fmt: skip


def _classifier_tests() -> tuple[Test, ...]:
    truth = "the drawn subject, of 24"
    return (
        PerturbationTest(Perturbation((Patches(GRID, BLACK),), truth=truth), correct_only=True),
        DeletionInsertionTest(
            DeletionInsertion(
                Patches(GRID, BLACK), Patches(GRID, Blur(5.0)), STEPS_DELETED, "the drawn subject"
            )
        ),
        _blank_outs()[0],
        AgreementTest(),
        PointingTest(),
        SegmentationTest(),
    )


def _blank_outs(grid: tuple[int, int] = GRID) -> tuple[Test, ...]:
    asked = "the subject that is asked for"
    patches = Patches(grid, BLACK)
    return (
        BlankOutTest(BlankOut(patches, together=128, label=asked)),
        BlankOutTest(
            BlankOut(patches, together=128, of="logit", label=asked, title="Blank-out, logit"),
            name="blank-out-logit",
        ),
    )


def _one(model: nn.Module, seed: int, side: int = samples.SIDE) -> Callable[[Sequence[int]], Batch]:
    def source(items: Sequence[int]) -> Batch:
        scenes = samples.one_subject(items, seed)
        subjects = samples.asked_for(scenes, items)
        labels = samples.labels(subjects)
        inputs: dict[str, Any] = {"pixel_values": _pixels(model, scenes, side)}
        if side != samples.SIDE:
            inputs["interpolate_pos_encoding"] = True
        return Batch(
            items=tuple(items), inputs=inputs, target=labels.tolist(), labels=labels, truth=labels,
            masks=samples.masks(subjects, side), pictures=samples.pictures(scenes, side),
            titles=tuple(subject.name for subject in subjects),
        )  # fmt: skip

    return source


def _two(model: nn.Module, seed: int, names: Sequence[str]) -> Callable[[Sequence[int]], Batch]:
    def source(items: Sequence[int]) -> Batch:
        scenes = samples.two_subjects(items, seed)
        own = samples.asked_for(scenes, items)
        other = samples.asked_for(scenes, items, other=True)
        labels = samples.labels(own)
        return Batch(
            items=tuple(items), inputs={"pixel_values": _pixels(model, scenes)}, target=labels.tolist(),
            labels=labels, truth=samples.all_right(scenes, names), masks=samples.masks(own),
            other=samples.labels(other).tolist(), other_masks=samples.masks(other),
            pictures=samples.pictures(scenes), titles=_titles(own, other),
        )  # fmt: skip

    return source


def _pixels(model: Any, scenes: Sequence[samples.Scene], side: int = samples.SIDE) -> Tensor:
    return samples.pixels(scenes, side).to(model.device, model.dtype)


def _titles(own: Sequence[samples.Subject], other: Sequence[samples.Subject]) -> tuple[str, ...]:
    return tuple(f"{one.name}, beside {two.name}" for one, two in zip(own, other, strict=True))


def _about_pairs(seed: int) -> dict[str, str]:
    return {
        "data": f"fresh emoji scenes of two subjects, seed {seed + 1}",
        "asked for": "the first subject in even scenes, the second in odd ones",
    }


def _spared(methods: Sequence[Method] | None) -> dict[str, str]:
    return {} if methods else {"not asked, for their cost": ", ".join(_SLOW)}


def _faster() -> tuple[Method, ...]:
    return tuple(one for one in vision_methods() if one.rule not in _SLOW)


def _fastest() -> tuple[Method, ...]:
    """Those that need one forward or two: at 256 patches the others cost minutes an image."""
    return tuple(one for one in _faster() if one.rule != "gradient_flow")


def _chosen(
    methods: Sequence[Method] | None, default: tuple[Method, ...] | None = None
) -> tuple[Method, ...]:
    return tuple(methods) if methods else default or vision_methods()


STUDIES: Final[Mapping[str, Callable[..., Study]]] = {
    "classifier": classifier,
    "classifier-attack": classifier_attack,
    "classifier-pairs": classifier_pairs,
    "judge-pairs": judge_pairs,
    "blank-out-fills": blank_out_fills,
    "blank-out-fills-pairs": blank_out_fills_pairs,
    "clip": clip,
    "clip-pairs": clip_pairs,
    **{f"tokens-{side}": tokens(side) for side in SIDES},
}
"""By name what builds each study: of how many scenes, where, of what type, with which methods and seed."""
