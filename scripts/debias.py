"""Carries out `heedful debias`: a person's images with masks, or the demonstration on a model that cheats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..emoji.cheating import MarkedScene, marked_scenes
from ..emoji.samples_vision import labels as subject_labels
from ..emoji.samples_vision import masks as subject_masks
from ..emoji.samples_vision import pictures as scene_pictures
from ..emoji.samples_vision import pixels as scene_pixels
from ..explain.debias import Debiased, DebiasSettings, MaskedImages, Sight, debias, sight
from ..explain.debiasing.draw import looks
from ..explain.debiasing.training import Epoch
from ..explain.evaluation.asking import logits_of
from ..explain.evaluation.examples import in_folder
from ..explain.evaluation.folder import View, drawn, numbers, source, visible
from .loading import embedded, load_model, load_processor, seen_box
from .machine import one_line
from .settings import UsageError

DEMONSTRATION_SEED = 7_400
"""Scenes of this seed and the next four are drawn for the demonstration alone."""
LEARNT, WATCHED, TESTED = 72, 24, 200
"""How many scenes the demonstration learns from (three a class, as published), stops by, and is tested on."""
DEMONSTRATION = DebiasSettings(rate=1e-4, epochs=8, augment=False)
"""Rate and epochs were chosen on scenes of seeds of their own: the published rates are for models a hundred
times as large. Marks mean something by their place, so nothing is cropped or mirrored."""
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Task:
    """A model, what it learns from and stops by, and what it is looked at with before and after.

    Attributes:
        tests: by name; pictures are of the last of them, as people see its images.
        left_out: images that are not used, with the reason.
    """

    model: nn.Module
    processor: Any
    images: MaskedImages
    validation: MaskedImages
    tests: Mapping[str, MaskedImages]
    pictures: Sequence[Image.Image]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it: the model, and what it was and is looked at with, by the test's name."""

    debiased: Debiased
    before: Mapping[str, Sight]
    after: Mapping[str, Sight]


def demonstration(seed: int, device: str) -> Task:
    """The embedded model that cheats, what it learns from, and tests with conflicting marks and none."""
    name = embedded("cheater")
    base = DEMONSTRATION_SEED + 10 * seed
    learnt, watched = lessons(base)
    scenes = list(marked_scenes(base + 2, TESTED, "conflict"))
    return Task(
        model=load_model(name, device, torch.float32, named=False),
        processor=load_processor(name, texts=False),
        images=learnt,
        validation=watched,
        tests={
            "no marks": marked_images(list(marked_scenes(base + 2, TESTED, "clean"))),
            "conflicting marks": marked_images(scenes),
        },
        pictures=scene_pictures([each.scene for each in scenes]),
    )


def lessons(base: int) -> tuple[MaskedImages, MaskedImages]:
    """Scenes to learn from, and to stop by: half of them with agreeing marks, half without any.

    No mark ever conflicts here, so nothing but a mask says that marks are not to be trusted. Scenes of the
    seeds `base`, + 1, + 3 and + 4; + 2 is left for tests.
    """
    found = []
    for count, marked, plain in ((LEARNT, base, base + 3), (WATCHED, base + 1, base + 4)):
        half = count // 2
        scenes = [*marked_scenes(marked, count - half, "agree"), *marked_scenes(plain, half, "clean")]
        found.append(marked_images(scenes))
    return found[0], found[1]


def marked_images(scenes: Sequence[MarkedScene]) -> MaskedImages:
    """Marked scenes with the masks and the true classes of their subjects."""
    subjects = [each.subject for each in scenes]
    pixels = scene_pixels([each.scene for each in scenes])
    return MaskedImages(pixels, subject_masks(subjects), subject_labels(subjects))


def own_images(
    images: Path, masks: Path, labels: Path | None, model: str, share: float, seed: int, device: str
) -> Task:
    """A person's images, of which a share is kept apart to stop by and to look at before and after.

    Raises:
        UsageError: a model that is not there, too few images, or images that its processor refuses.
        ExplainError: images, masks or labels that do not fit.
    """
    loaded = load_model(model, device, torch.float32)
    processor = load_processor(model, texts=False)
    view = View(partial(_pixels, processor), partial(seen_box, processor))
    names = {int(number): label for number, label in loaded.config.id2label.items()}
    examples = numbers(drawn(in_folder(images, labels=labels, masks=masks), seed), names)
    size = tuple(view.pixels(examples[0].read()).shape[1:])
    kept, left_out = visible(examples, view, (size[0], size[1]))
    apart = round(share * len(kept))
    if min(apart, len(kept) - apart) < 1:
        raise UsageError(
            f"{len(kept)} images with a share of {share} kept apart leave {len(kept) - apart} to learn from "
            f"and {apart} to stop by; give more images, or another --validation"
        )
    whole = source(kept, view, loaded, logits_of(loaded))(range(len(kept)))
    pixels = whole.inputs["pixel_values"].cpu()
    assert whole.masks is not None
    assert whole.pictures is not None
    truth = whole.labels if examples[0].label is not None else None
    every = MaskedImages(pixels, whole.masks, truth)
    watched = every.take(torch.arange(apart))
    return Task(
        model=loaded,
        processor=processor,
        images=every.take(torch.arange(apart, len(kept))),
        validation=watched,
        tests={"kept apart": watched},
        pictures=whole.pictures[:apart],
        left_out=left_out,
    )


def _pixels(processor: Any, image: Image.Image) -> torch.Tensor:
    try:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]
    except (ValueError, TypeError, KeyError) as problem:
        raise UsageError(f"the model's processor refused an image: {one_line(problem)}") from problem


def carry_out(
    task: Task, settings: DebiasSettings, device: str, progress: Callable[[Epoch], None] | None = None
) -> Outcome:
    """Look, debias, look again.

    Raises:
        ExplainError: as `heedful.explain.debias.debias`.
    """
    before = {name: sight(task.model, each) for name, each in task.tests.items()}
    made = debias(task.model, task.images, task.validation, settings, device=device, progress=progress)
    after = {name: sight(made.model, each) for name, each in task.tests.items()}
    return Outcome(made, before, after)


def rows(outcome: Outcome) -> list[tuple[str, str, float, float]]:
    """What is shown of it: the test, the figure's name, its value before and after, as shares."""
    found = []
    for name, before in outcome.before.items():
        after = outcome.after[name]
        if before.right is not None:
            found.append((name, "told right", before.accuracy, after.accuracy))
        inside = (float(before.inside.mean()), float(after.inside.mean()))
        found.append((name, "relevance inside the mask", *inside))
    return found


def save(task: Task, outcome: Outcome, out: Path) -> list[Path]:
    """Write the model with its processor and record, and the sheet; what was written."""
    folder, picture = out / "model", out / "debias.png"
    outcome.debiased.save(folder)
    task.processor.save_pretrained(str(folder))
    sheet_of(task, outcome).save(picture)
    return [folder, picture]


def sheet_of(task: Task, outcome: Outcome) -> Image.Image:
    """The first images of the last test: what each model looks at, before and after."""
    name, images = list(task.tests.items())[-1]
    count = min(SHOWN, len(images))
    config: Any = task.model.config
    names = [config.id2label[number] for number in range(len(config.id2label))]
    sights = [("before", first(outcome.before[name], count)), ("after", first(outcome.after[name], count))]
    return looks(task.pictures[:count], images.masks[:count], sights, names)


def first(found: Sight, count: int) -> Sight:
    """The first rows of it."""
    right = None if found.right is None else found.right[:count]
    return Sight(found.predicted[:count], right, found.inside[:count], found.relevance[:count])
