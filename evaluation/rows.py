"""Draws with one method after another and keeps a row an image as they come, to be taken up again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from ..explain.evaluation.records import Record
from ..explain.evaluation.run import Processes, Progress, run
from .errors import EvaluationError
from .eyes import Checker, Eyes
from .likeness import Features, Likeness
from .methods import PLAIN, Drawn, Method, Setting, generators, noise_seed, told
from .operations import Operations, Prices
from .prompts import Prompt

ROWS: Final = "rows"
IMAGES: Final = "images"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model, prompts and seeds on which methods are compared, and what is measured of each image.

    An item is a prompt with a seed: number `place + len(prompts) * (seed - first_seed)`, so that more seeds
    go on where fewer ended. Every method draws it from the same noise.

    Attributes:
        pipe: the pipeline, quiet and where it should be.
        model: its name, for tables.
        prompts: each with what an image must show.
        seeds: how many images a prompt; `first_seed` is that of the first.
        setting: all else that decides an image.
        eyes: what says which subjects are there.
        folder: rows and images go into it.
        features: what tells how far an image is from the plain one, or None.
        likeness: what compares images with prompts, or None.
        checker: what best-of-N chooses by, without knowing what `eyes` see; None for nothing.
        batch_size: images drawn at once. It changes no image, but costs are counted a batch (`image_costs`
            divides what guidance adds by the images' probes).
        counted: whether operations are counted, which slows a GPU down; without, costs are seconds.
    """

    pipe: Any
    model: str
    prompts: tuple[Prompt, ...]
    seeds: int
    setting: Setting
    eyes: Eyes
    folder: Path
    features: Features | None = None
    likeness: Likeness | None = None
    checker: Checker | None = None
    batch_size: int = 8
    first_seed: int = 0
    counted: bool = True

    def __post_init__(self) -> None:
        if not self.prompts or self.seeds < 1 or self.batch_size < 1:
            raise EvaluationError(
                f"wanted at least one prompt, seed and image at once; got {len(self.prompts)} prompts, "
                f"{self.seeds} seeds, {self.batch_size} at once"
            )
        self.eyes.check_prompts(self.prompts)
        if self.likeness is not None:
            self.likeness.check_prompts(self.prompts)

    @property
    def count(self) -> int:
        """How many images a method draws."""
        return len(self.prompts) * self.seeds

    def records(
        self, method: Method, progress: Progress | None = None, processes: Processes | None = None
    ) -> list[Record]:
        """The rows of a method, of which those that the folder holds are not made again.

        Plain sampling comes first: other methods' images are compared with its images.

        Raises:
            EvaluationError: no image of plain sampling where one is needed.
            InputError: rows of other settings in the folder.
        """
        draw = Drawing(self, method)
        return run(
            draw, self.count, self.folder / ROWS / f"{method.name}.jsonl", batch_size=self.batch_size,
            about=self.settings(method), progress=progress, processes=processes,
        )  # fmt: skip

    def settings(self, method: Method) -> dict[str, Any]:
        """All that a row depends on, as JSON takes it; the number of seeds is not of it."""
        listed = json.dumps([[one.text, one.labels, one.group, one.kind] for one in self.prompts])
        return {
            "model": self.model,
            "dtype": str(self.pipe.dtype).removeprefix("torch."),
            "prompts": f"{len(self.prompts)}, {hashlib.sha256(listed.encode()).hexdigest()[:16]}",
            "first seed": self.first_seed,
            "scheduler": type(self.pipe.scheduler).__name__,
            "batch size": self.batch_size,
            "counted": self.counted,
            "method": {"name": method.name, **method.told},
            **told(self.setting),
            **self.eyes.told,
            **({} if self.likeness is None else self.likeness.told),
            "captions": self.likeness is not None and self.likeness.captioner is not None,
            "checked": self.checker is not None,
        }

    def item(self, number: int) -> tuple[Prompt, int]:
        """The prompt and the seed of an item."""
        seed, place = divmod(number, len(self.prompts))
        return self.prompts[place], self.first_seed + seed

    def image_path(self, method: str, number: int) -> Path:
        """Where the image of an item is, below the folder."""
        return Path(IMAGES) / method / f"{number:05d}.png"


class Drawing:
    """Makes the rows of one method, a batch at a time."""

    def __init__(self, whole: Evaluation, method: Method) -> None:
        self.whole, self.method = whole, method
        self._prices: Prices | None = None

    def __call__(self, items: Sequence[int]) -> list[Record]:
        """Draw these items, look at the images, and say what was found in each."""
        whole = self.whole
        asked = [whole.item(item) for item in items]
        prompts = [prompt for prompt, _ in asked]
        seeds = [noise_seed(prompt, seed, self.method.candidate) for prompt, seed in asked]
        drawn, cost = self._drawn(prompts, seeds)
        found = self._found(items, prompts, drawn)
        rows: list[Record] = []
        for row, (item, (prompt, seed)) in enumerate(zip(items, asked, strict=True)):
            path = whole.image_path(self.method.name, item)
            _save(drawn.images[row], whole.folder / path)
            about = {"item": item, "method": self.method.name, "prompt": prompt.text, "group": prompt.group}
            about |= {"kind": prompt.kind, "seed": seed, "noise": seeds[row], "image": path.as_posix()}
            about |= {"moved": drawn.moved[row], "probes": drawn.probes[row]}
            about |= {"repeated": drawn.repeated[row]}
            rows.append({**about, **found[row], **cost})
        return rows

    def _drawn(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> tuple[Drawn, dict[str, Any]]:
        whole = self.whole
        if whole.counted and self._prices is None:
            self._prices = Prices.measure(whole.pipe, **whole.setting.arguments)
        began, noise = _now(whole.pipe), generators(seeds)
        if self._prices is None:
            drawn, forwards = self.method.draw(whole.pipe, whole.setting, prompts, noise), None
        else:
            with Operations() as counted:
                drawn = self.method.draw(whole.pipe, whole.setting, prompts, noise)
            forwards = self._prices.forwards(counted.total, len(prompts))
        seconds = (_now(whole.pipe) - began) / len(prompts)
        return drawn, {"forwards": forwards, "seconds": seconds}

    def _found(self, items: Sequence[int], prompts: Sequence[Prompt], drawn: Drawn) -> list[dict[str, Any]]:
        whole = self.whole
        changes = self._changes(items, drawn.images)
        checks = _checks(whole.checker, drawn.images, prompts)
        likes = whole.likeness.measure(drawn.images, prompts) if whole.likeness is not None else None
        found = []
        for row, seen in enumerate(whole.eyes.look(drawn.images, prompts)):
            own = {
                "seen": dict(seen.subjects),
                "scores": dict(seen.scores),
                "coloured": dict(seen.coloured),
                "all": all(seen.subjects.values()),
                "change": changes[row],
            }
            own |= {"check": checks[row]} if checks is not None else {}
            own |= {"likeness": likes[row]} if likes is not None else {}
            found.append(own)
        return found

    def _changes(self, items: Sequence[int], images: Sequence[Image.Image]) -> list[float | None]:
        """How far each is from the plain image of its noise: 1 - cosine of their features, 0 to 2."""
        if self.method.name == PLAIN:
            return [0.0] * len(items)
        if self.method.candidate:
            return [None] * len(items)  # of other noise: there is nothing to compare
        features = self.whole.features
        if features is None:
            return [None] * len(items)
        own, plain = features(images), features([self._plain(item) for item in items])
        return (1.0 - (own * plain).sum(1)).tolist()

    def _plain(self, item: int) -> Image.Image:
        path = self.whole.folder / self.whole.image_path(PLAIN, item)
        if not path.exists():
            raise EvaluationError(
                f"there is no plain image {path} to compare with; draw {PLAIN} first, or delete "
                f"{self.whole.folder / ROWS / PLAIN}.jsonl if its images are gone"
            )
        with Image.open(path) as image:
            return image.convert("RGB")


def _checks(
    checker: Checker | None, images: Sequence[Image.Image], prompts: Sequence[Prompt]
) -> list[list[float]] | None:
    """How good `check` finds each image: all heeded, the most neglected word's share, the mean share."""
    if checker is None:
        return None
    words = [list(prompt.subjects) for prompt in prompts]
    verdicts = checker(list(images), words, prompt=[prompt.text for prompt in prompts])
    return [
        [float(one.heeded), one.share, sum(word.share for word in one.words) / len(one.words)]
        for one in verdicts
    ]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _now(pipe: Any) -> float:
    """The time when all that was asked of the device is done."""
    if torch.device(pipe.device).type == "cuda":
        torch.cuda.synchronize(pipe.device)
    return time.perf_counter()


Watch = Callable[[str], Progress]
"""Is told which method draws now, and gives what is to be told how far it is."""
