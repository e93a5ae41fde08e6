"""Calibrates `check` for the embedded CLIP and measures it: on unseen scenes, and on generated images.

`measure_check.py calibrate` writes the calibration beside the CLIP; `measure_check.py measure --write
docs/benchmarks.md` what the page says. The generated images are those of `evaluate_emoji.py run --seeds 4
--no-refine --method plain --method default`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji.captions import caption_for
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import model_folder
from heedful.emoji.training.degrade import degrade
from heedful.emoji.vocabulary import COLOURS, LABELS, SUBJECTS
from heedful.emoji.world import Pairs, Scene, scenes
from heedful.explain.calibration import Calibration, brier, calibration_error, fit, measure_all
from heedful.explain.check import embedded_comparer
from heedful.explain.comparing import Comparer
from heedful.scripts.emoji_figures import wilson
from heedful.scripts.marks import write_between_marks
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

MARKS: Final = ("<!-- check figures: begin -->", "<!-- check figures: end -->")
CALIBRATION_SEED: Final = 8_600
TEST_SEED: Final = 8_700
WRONG_COLOUR_SHARE: Final = 0.4
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

Threads = Annotated[int | None, typer.Option(help="CPU threads; default all")]


@dataclass(frozen=True)
class Asked:
    """An image, the words that are asked of it in their sentence, and which are there."""

    image: Image.Image
    prompt: str
    words: tuple[str, ...]
    present: tuple[bool, ...]


@dataclass(frozen=True)
class Measured:
    """Probabilities and the truth of all words of one set of images."""

    name: str
    images: int
    probabilities: np.ndarray
    present: np.ndarray
    band: float

    def row(self) -> list[str]:
        """The line of the table; *unsure* counts as wrong."""
        sure = np.abs(self.probabilities - 0.5) >= self.band
        right = sure & ((self.probabilities > 0.5) == self.present)
        low, high = wilson(int(right.sum()), len(right))
        return [
            self.name,
            f"{self.images} / {len(right)}",
            f"**{100 * right.mean():.1f}** ({100 * low:.1f}-{100 * high:.1f})",
            f"{100 * right[self.present].mean():.1f} (n {int(self.present.sum())})",
            f"{100 * right[~self.present].mean():.1f} (n {int((~self.present).sum())})",
            f"{100 * (~sure).mean():.1f}",
            f"{calibration_error(self.probabilities, self.present):.3f}",
            f"{brier(self.probabilities, self.present):.3f}",
        ]


COLUMNS: Final = (
    "images", "images / words", "right, % (unsure is wrong)", "of present words, %", "of absent words, %",
    "unsure, %", "calibration error", "Brier",
)  # fmt: skip


@app.command()
def calibrate(
    count: Annotated[int, typer.Option(help="scenes of each of three kinds")] = 1000,
    out: Annotated[Path | None, typer.Option(help="where to; default beside the embedded CLIP")] = None,
    threads: Threads = None,
) -> None:
    """Fit the calibration on scenes of its own seeds: clean ones, softened ones, and ones asked in colour."""
    if threads:
        torch.set_num_threads(threads)
    drawn = [
        *named_words(CALIBRATION_SEED, count),
        *softened(named_words(CALIBRATION_SEED + 1, count), CALIBRATION_SEED),
        *coloured_words(CALIBRATION_SEED + 2, count),
    ]
    features, present = _features(embedded_comparer(), drawn)
    told = {
        "images": len(drawn),
        "words": len(present),
        "present": int(present.sum()),
        "seeds": [CALIBRATION_SEED, CALIBRATION_SEED + 1, CALIBRATION_SEED + 2],
        "by": "python scripts/measure_check.py calibrate",
    }
    found = replace(fit(features, present, others=SUBJECTS, fitted=told), words=LABELS)
    found.save(out or model_folder("clip") / "calibration.json")
    console.print(found)


@app.command()
def measure(
    count: Annotated[int, typer.Option(help="scenes of each kind")] = 1000,
    evaluation: Annotated[Path, typer.Option(help="folder of evaluate_emoji.py's rows and images")] = Path(
        "runs/evaluation"
    ),
    write: Annotated[Path | None, typer.Option(help="put the table between the marks of this file")] = None,
    threads: Threads = None,
) -> None:
    """Measure the calibrated check on scenes it was not fitted on, and on generated images by the judge."""
    if threads:
        torch.set_num_threads(threads)
    comparer = embedded_comparer()
    calibration = Calibration.load(model_folder("clip") / "calibration.json")
    sets = {
        "scenes, any pairs": list(named_words(TEST_SEED, count)),
        "scenes, held-out pairs": list(named_words(TEST_SEED + 1, count, pairs="held-out")),
        "scenes, softened": softened(named_words(TEST_SEED + 2, count), TEST_SEED),
        "scenes, words with their colours": list(coloured_words(TEST_SEED + 3, count)),
    }
    rows = generated(evaluation)
    sets |= {
        "generated, plain, by the judge": rows["plain"],
        "generated, guided, by the judge": rows["default"],
    }
    found = [_measured(name, drawn, comparer, calibration) for name, drawn in sets.items()]
    found.append(_together("generated, all, by the judge", found[-2:]))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(one.row() for one in found)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    console.print(Markdown(text))
    if write is not None:
        write_between_marks(write, text, MARKS)


def named_words(seed: int, count: int, pairs: Pairs = "any") -> Iterable[Asked]:
    """Scenes of which half lack one subject of their caption; half of those of one subject lack it."""
    rng = np.random.default_rng([seed, 1])
    for scene in scenes(seed, count, noisy=0.5, pairs=pairs):
        names = tuple(name for name, _ in scene.named)
        prompt = scene.caption
        if len(names) == 1 and rng.random() < 0.5:
            names = (str(rng.choice([name for name in SUBJECTS if name not in names])),)
            prompt = caption_for([(names[0], None)])
        there = {subject.name for subject in scene.subjects}
        yield Asked(Image.fromarray(scene.image), prompt, names, tuple(name in there for name in names))


def coloured_words(seed: int, count: int) -> Iterable[Asked]:
    """The same, asked as "red bow"; of the colours some are exchanged for wrong ones."""
    rng = np.random.default_rng([seed, 2])
    for scene in scenes(seed, count, noisy=0.3, pairs="any"):
        named = [
            (name, _other_colour(colour, rng) if colour and rng.random() < WRONG_COLOUR_SHARE else colour)
            for name, colour in scene.named
        ]
        words = tuple(f"{colour} {name}" if colour else name for name, colour in named)
        yield Asked(Image.fromarray(scene.image), caption_for(named), words, _there(scene, words))


def softened(drawn: Iterable[Asked], seed: int) -> list[Asked]:
    """The same images, blurred, relit and noisy as generated ones are."""
    whole = list(drawn)
    generator = torch.Generator().manual_seed(seed)
    soft: list[Asked] = []
    for start in range(0, len(whole), 100):
        part = whole[start : start + 100]
        pixels = degrade(to_tensor([one.image for one in part]), generator, share=1.0)
        arrays = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        soft += [replace(one, image=Image.fromarray(array)) for one, array in zip(part, arrays, strict=True)]
    return soft


def generated(folder: Path) -> dict[str, list[Asked]]:
    """The images of an evaluation by method, with what its judge saw.

    Raises `FileNotFoundError` if the evaluation was not made.
    """
    file = folder / "rows.jsonl"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there; make it with scripts/evaluate_emoji.py run --out {folder}"
        )
    found: dict[str, list[Asked]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        if row["method"] in ("plain", "default"):
            name = f"{row['prompt'].replace(' ', '-')}-{row['seed']}.png"
            with Image.open(folder / "images" / row["method"] / name) as image:
                seen = row["seen"]
                one = Asked(image.convert("RGB"), row["prompt"], tuple(seen), tuple(seen.values()))
            found.setdefault(row["method"], []).append(one)
    return found


def _measured(name: str, drawn: Sequence[Asked], comparer: Comparer, calibration: Calibration) -> Measured:
    features, present = _features(comparer, drawn)
    shares = np.array([calibration.probability(row) for row in features])
    return Measured(name, len(drawn), shares, present, calibration.band)


def _together(name: str, parts: Sequence[Measured]) -> Measured:
    return Measured(
        name,
        sum(one.images for one in parts),
        np.concatenate([one.probabilities for one in parts]),
        np.concatenate([one.present for one in parts]),
        parts[0].band,
    )


def _features(comparer: Comparer, drawn: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
    features = measure_all(
        comparer,
        [one.image for one in drawn],
        [one.words for one in drawn],
        [one.prompt for one in drawn],
    )
    return features, np.array([there for one in drawn for there in one.present], dtype=bool)


def _there(scene: Scene, words: Sequence[str]) -> tuple[bool, ...]:
    shown = {subject.name for subject in scene.subjects}
    shown |= {f"{subject.colour} {subject.name}" for subject in scene.subjects}
    return tuple(word in shown for word in words)


def _other_colour(colour: str, rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in COLOURS if other != colour]))


if __name__ == "__main__":
    app()
