"""Binds a person's own images and model to a study: what of them can be measured, and how."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..explain import explain
from ..explain.evaluation import (
    Ask,
    BlankOut,
    Blur,
    Colour,
    DeletionInsertion,
    MaskedAttack,
    Patches,
    Perturbation,
    logits_of,
    zero_shot,
)
from ..explain.evaluation.choice import Method
from ..explain.evaluation.examples import Example, imagenet_segmentation, in_folder
from ..explain.evaluation.folder import View, drawn, numbers, source, visible
from ..explain.evaluation.study import Study, Test
from ..explain.evaluation.tests import (
    AgreementTest,
    AttackTest,
    BlankOutTest,
    DeletionInsertionTest,
    PerturbationTest,
    PointingTest,
    SegmentationTest,
)
from .loading import embedded, load_model, load_processor, seen_box
from .machine import one_line
from .methods_settings import OWN_COUNT, MethodsSettings
from .settings import UsageError


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as someone brought it: how it is asked, how it sees, and what its labels are.

    Attributes:
        target, beside: of labels' numbers what `explain` takes as target, and what texts go with the images.
    """

    model: Any
    ask: Ask
    view: View
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    names: Mapping[int, str]
    target: Callable[[list[int]], Any] = list
    beside: Callable[[list[int]], Mapping[str, Tensor]] = field(default=lambda labels: {})


def folder_study(
    settings: MethodsSettings, device: str, dtype: torch.dtype, methods: tuple[Method, ...]
) -> tuple[Study, dict[str, str]]:
    """The study of own images, and which of them are left out, with the reason.

    Raises:
        UsageError: a model that is not there, or cannot be asked about images alone.
        ExplainError: images, labels or masks that do not fit, a model of no known family.
    """
    examples = _examples(settings)
    labels = {one.label for one in examples if one.label is not None}
    name = settings.model or embedded("classifier")
    model = load_model(name, device, dtype, named=settings.model is not None)
    subject = _subject(settings, model, name, sorted(labels))
    examples = numbers(examples, subject.names)
    size, grid = _measured(subject, examples)
    kept, left_out = visible(examples, subject.view, size)
    if not kept:
        raise UsageError(f"no image is left of {len(examples)}: {next(iter(left_out.values()))}")
    return _study(settings, subject, name, kept, methods, grid), left_out


def _examples(settings: MethodsSettings) -> tuple[Example, ...]:
    if settings.imagenet_seg is not None:
        found = imagenet_segmentation(settings.imagenet_seg)
    else:
        assert settings.images is not None
        found = in_folder(settings.images, labels=settings.labels, masks=settings.masks)
    return drawn(found, settings.seed or 0)[: settings.count or OWN_COUNT]


def _subject(settings: MethodsSettings, model: Any, name: str, labels: Sequence[str]) -> Subject:
    """A classifier of images, or a model that compares them with texts: then the labels are its classes."""
    takes = inspect.signature(model.forward).parameters
    if "pixel_values" not in takes:
        raise UsageError(f"{type(model).__name__} takes no images, which methods are compared on here")
    texts = "input_ids" in takes
    processor = load_processor(name, texts=texts)
    pictured = getattr(processor, "image_processor", processor)
    view = View(partial(_pixels, pictured), partial(seen_box, pictured))
    normed = getattr(pictured, "do_normalize", False)
    mean, std = (tuple(one) if normed else None for one in (pictured.image_mean, pictured.image_std))
    if not texts:
        names = {int(number): label for number, label in model.config.id2label.items()}
        return Subject(model, logits_of(model), view, mean, std, names)
    return _comparing(settings, Subject(model, logits_of(model), view, mean, std, {}), processor, labels)


def _comparing(settings: MethodsSettings, subject: Subject, processor: Any, labels: Sequence[str]) -> Subject:
    """The labels as texts: all of them are asked at once, the right one is explained."""
    model = subject.model
    if len(labels) < 2:
        raise UsageError(
            f"{type(model).__name__} compares images with texts, which are made of labels: put the images "
            f"into sub-folders, or pass --labels; got {len(labels)} different labels, wanted two or more"
        )
    padding = "max_length" if model.config.model_type.startswith("siglip") else True
    texts = dict(
        processor.tokenizer(
            [settings.template.replace("{}", label) for label in labels], padding=padding, return_tensors="pt"
        )
    )
    texts = {name: value.to(model.device) for name, value in texts.items()}
    whole = zero_shot(model, texts)
    return replace(
        subject,
        ask=lambda inputs: whole({"pixel_values": inputs["pixel_values"]}),
        names=dict(enumerate(labels)),
        target=lambda chosen: None,
        beside=lambda chosen: {name: value[chosen] for name, value in texts.items()},
    )


def _pixels(processor: Any, image: Image.Image) -> Tensor:
    try:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]
    except (ValueError, TypeError, KeyError) as problem:
        raise UsageError(f"the model's processor refused an image: {one_line(problem)}") from problem


def _measured(subject: Subject, examples: Sequence[Example]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the model takes, (height, width) in pixels, and the grid of its maps."""
    batch = source(examples, subject.view, subject.model, subject.ask, subject.target, subject.beside)([0])
    found = explain(subject.model, batch.inputs, batch.target, "raw_attention").image
    if found is None:
        raise UsageError(f"{type(subject.model).__name__} has no map over its image")
    pixels = batch.inputs["pixel_values"]
    return (pixels.shape[2], pixels.shape[3]), (found.shape[1], found.shape[2])


def _study(
    settings: MethodsSettings, subject: Subject, name: str, examples: tuple[Example, ...],
    methods: tuple[Method, ...], grid: tuple[int, int],
) -> Study:  # fmt: skip
    labelled, masked = examples[0].label is not None, examples[0].mask is not None
    tests = tuple(each for each in _tests(subject, grid, labelled, masked) if settings.measures(each.name))
    if not tests:
        raise UsageError(
            f"--protocol {', '.join(settings.protocols)} has nothing to measure here: pointing and "
            "segmentation need --masks, specificity the embedded models' own data"
        )
    return Study(
        name="own-images",
        model_name=f"{type(subject.model).__name__} {name.rstrip('/').rsplit('/', 1)[-1]}",
        model=subject.model,
        ask=subject.ask,
        source=source(examples, subject.view, subject.model, subject.ask, subject.target, subject.beside),
        count=len(examples),
        methods=methods,
        tests=tests,
        about={
            "data": str(settings.images or settings.imagenet_seg),
            "files": hashlib.sha256("\n".join(one.name for one in examples).encode()).hexdigest()[:12],
            "target": "the label of the data" if labelled else "the predicted label",
        },
        seed=settings.seed or 0,
    )


def _tests(subject: Subject, grid: tuple[int, int], labelled: bool, masked: bool) -> tuple[Test, ...]:
    channels = len(subject.mean or (0.0,) * 3)
    black = Patches(grid, Colour((0.0,) * channels, subject.mean, subject.std))
    truth = "the true label" if labelled else "the predicted label"
    found: list[Test] = [
        PerturbationTest(Perturbation((black,), truth=truth)),
        DeletionInsertionTest(DeletionInsertion(black, replace(black, fill=Blur()), label=truth)),
        BlankOutTest(BlankOut(black)),
        AgreementTest(),
    ]
    if subject.mean is not None and subject.std is not None:
        found.append(AttackTest(MaskedAttack(black, subject.mean, subject.std)))
    return (*found, PointingTest(), SegmentationTest()) if masked else tuple(found)
