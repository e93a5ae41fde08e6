"""Measures attention beside SIFT keypoints, and spurious patches of a classifier that cheats.

`python scripts/measure_sift.py --write docs/sift.md` puts the tables into the page and draws its pictures.
What was measured is kept in --out as it comes, so that a stopped run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from heedful.emoji import load_cheater, load_classifier, load_clip, load_judge
from heedful.emoji.cheating import KINDS, MarkedScene, marked_scenes
from heedful.emoji.judge import to_tensor
from heedful.emoji.vocabulary import SUBJECTS
from heedful.emoji.world import scenes
from heedful.explain.evaluation.intervals import Estimate, mean, paired
from heedful.explain.probing import draw_sift
from heedful.explain.probing.removal import Removal, without
from heedful.explain.probing.sift import Concentration, concentration
from heedful.explain.probing.sift_attention import STATISTICS, SiftAttention, sift_attention
from heedful.explain.probing.similarity import twin
from heedful.explain.probing.spurious import ABOVE, RULES, Spurious, find_spurious, touched_by
from heedful.explain.relevance import versions
from heedful.scripts.emoji_figures import line
from heedful.scripts.marks import check_marks, write_between_marks
from heedful.scripts.terminal import quieten
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import nn

MARKS: Final = "<!-- sift: begin -->", "<!-- sift: end -->"
SEEDS: Final = {"attention": 7_610, "spurious": 7_620}  # nothing was trained, chosen or tuned on them
GRID: Final = (8, 8)
MODELS: Final[dict[str, Callable[[], nn.Module]]] = {
    "classifier": lambda: load_classifier("cpu"),
    "judge": lambda: load_judge("cpu").model,
    "CLIP, image tower": lambda: load_clip("cpu")[0].vision_model,
    "classifier, random weights": lambda: twin(load_classifier("cpu")),
}
CHEATS: Final[dict[str, Callable[[], nn.Module]]] = {
    "cheater": lambda: load_cheater("cpu"),
    "honest": lambda: load_classifier("cpu"),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)
Row = dict[str, Any]


@app.command()
def main(
    images: Annotated[int, typer.Option(help="scenes for the heads", min=8)] = 200,
    marked: Annotated[int, typer.Option(help="scenes of each kind for the cheat", min=8)] = 300,
    draws: Annotated[int, typer.Option(help="of the null", min=20)] = 500,
    out: Annotated[Path, typer.Option(help="the folder for what was measured")] = Path("runs/sift"),
    write: Annotated[Path | None, typer.Option(help="a document with the marks")] = None,
) -> None:
    """Compare heads with chance, and find, mask and count spurious patches."""
    quieten()
    torch.set_num_threads(1)
    if write is not None:
        check_marks(write, MARKS)
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=console) as bars:
        heads = _heads(out, images, draws, bars)
        cheats = _cheats(out, marked, bars)
    text = "\n\n".join([*_head_tables(heads, images, draws), *_cheat_tables(cheats, marked), _about()])
    print(text)
    if write is not None:
        write_between_marks(write, text, MARKS)
        _draw(write.parent / "pictures", out, heads)


def _heads(out: Path, images: int, draws: int, bars: Progress) -> dict[str, dict[str, SiftAttention]]:
    """Every model under both nulls."""
    drawn = [Image.fromarray(one.image) for one in scenes(SEEDS["attention"], 2 * images, subjects=1)]
    seen = concentration(drawn, GRID)
    keep = (seen.count.sum((1, 2)) > 0).nonzero()[:images, 0].tolist()
    drawn = [drawn[row] for row in keep]
    keypoints = concentration(drawn, GRID)
    found: dict[str, dict[str, SiftAttention]] = {}
    for name, load in MODELS.items():
        for null in ("shift", "permutation"):
            stem = name.replace(", ", "-").replace(" ", "-")
            path = out / f"heads-{stem}-{null}-{images}-{draws}.safetensors"
            if not path.is_file():
                bar = bars.add_task(f"{name}, {null}", total=images)

                def watch(done: int, _: int, bar: Any = bar) -> None:
                    bars.update(bar, completed=done)

                inputs = {"pixel_values": to_tensor(drawn)}
                one = sift_attention(load(), inputs, keypoints, null=null, draws=draws, progress=watch)
                one.save(path)
            found.setdefault(name, {})[null] = SiftAttention.load(path)
    return found


class _Marked:
    """Scenes of one kind that have keypoints, with their truth."""

    def __init__(self, kind: str, count: int) -> None:
        every = list(marked_scenes(SEEDS["spurious"], count, kind))  # type: ignore[arg-type]
        counted = concentration([_image(one) for one in every], GRID).count.sum((1, 2))
        self.smooth = int((counted == 0).sum())
        self.scenes = [one for one, points in zip(every, counted.tolist(), strict=True) if points]
        self.images = [_image(one) for one in self.scenes]
        self.inputs = {"pixel_values": to_tensor(self.images)}
        self.keypoints: Concentration = concentration(self.images, GRID)
        self.masks = torch.from_numpy(np.stack([one.subject.mask for one in self.scenes]))
        self.marks = touched_by(torch.from_numpy(np.stack([one.mark for one in self.scenes])), GRID)
        self.truth = torch.tensor([SUBJECTS.index(one.subject.name) for one in self.scenes])

    def asked(self, model: nn.Module, rule: str) -> tuple[Spurious, Removal]:
        """What a rule flags, and the answers without it."""
        masks = self.masks if rule == "off" else None
        found = find_spurious(model, self.inputs, self.keypoints, masks=masks, rule=rule)
        return found, without(model, self.inputs, found.flagged, draws=4)


def _image(one: MarkedScene) -> Image.Image:
    return Image.fromarray(one.scene.image)


def _cheats(out: Path, count: int, bars: Progress) -> list[Row]:
    """A row for each image, kind, model and rule."""
    path = out / f"cheats-{count}.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []
    done = {(row["kind"], row["model"], row["rule"]) for row in rows}
    bar = bars.add_task("the cheat", total=len(KINDS) * len(CHEATS) * len(RULES), completed=len(done))
    for kind in KINDS:
        if all((kind, name, rule) in done for name in CHEATS for rule in RULES):
            continue
        data = _Marked(kind, count)
        for name, load in CHEATS.items():
            for rule in RULES:
                if (kind, name, rule) in done:
                    continue
                about = {"kind": kind, "model": name, "rule": rule}
                new = [{**about, **row} for row in _told(data, load(), rule)]
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
                rows += new
                bars.advance(bar)
    return rows


def _told(data: _Marked, model: nn.Module, rule: str) -> Iterator[Row]:
    found, asked = data.asked(model, rule)
    before, after, control = asked.accuracy(data.truth)
    columns = {
        "flagged": found.images,
        "patches": found.flagged.flatten(1).sum(1),
        "share": found.share,
        "on_mark": (found.flagged & data.marks).flatten(1).any(1),
        "elsewhere": (found.flagged & ~data.marks).flatten(1).any(1),
        "before": before,
        "after": after,
        "control": control,
        "drop": asked.drop,
        "control_drop": asked.control_drop,
        "changed": asked.changed,
        "control_changed": asked.control_changed,
    }
    smooth = {"smooth": data.smooth}
    for row in range(len(data.scenes)):
        yield {name: float(values[row]) for name, values in columns.items()} | smooth


def _head_tables(heads: dict[str, dict[str, SiftAttention]], images: int, draws: int) -> Iterator[str]:
    yield (
        f"Attention to keypoints over chance: {images} scenes of one subject, mean of all heads of a layer "
        f"(95 % interval over scenes), chance by shifts; {draws} draws."
    )
    first = next(iter(heads.values()))["shift"]
    lines = [["model", "attention", *(f"layer {each}" for each in range(len(first.layers)))]]
    for name, both in heads.items():
        for statistic in both["shift"].ratios:
            values = both["shift"].ratios[statistic].nanmean(2).double().numpy()
            cells = [_ends(mean(values[:, place]), "{:.2f}") for place in range(values.shape[1])]
            lines.append([name, statistic, *cells])
    yield _table(lines)
    yield "Heads that differ from chance (p < 0.05, adjusted for all heads of the model), above / below:"
    lines = [["model", "null", *STATISTICS]]
    for name, both in heads.items():
        for null, one in both.items():
            lines.append([name, null, *(_counted(one, each) for each in STATISTICS)])
    yield _table(lines)
    yield (
        "Entropy of a patch's attention among patches (1 = even), mean of all heads (95 % interval over "
        "scenes), by the keypoints in the patch:"
    )
    lines = [["model", "keypoints (patches)", *(f"layer {each}" for each in range(len(first.layers)))]]
    for name, both in heads.items():
        one = both["shift"]
        values = one.entropy.nanmean(2).double().numpy()
        for place, bin_ in enumerate(one.bins):
            cells = [_ends(mean(values[:, layer, place]), "{:.2f}") for layer in range(values.shape[1])]
            lines.append([name, f"{bin_} ({one.patches[place]})", *cells])
    yield _table(lines)


def _counted(one: SiftAttention, statistic: str) -> str:
    if statistic not in one.ratios:
        return "-"
    z, _, adjusted = one.tested(statistic)
    sure = adjusted < draw_sift.LEVEL
    return f"{int((sure & (z > 0)).sum())} / {int((sure & (z < 0)).sum())} of {z.numel()}"


def _cheat_tables(rows: list[Row], count: int) -> Iterator[str]:
    smooth = {kind: next(int(row["smooth"]) for row in rows if row["kind"] == kind) for kind in KINDS}
    left_out = ", ".join(f"{number} {kind}" for kind, number in smooth.items())
    yield (
        f"Spurious patches, {count} scenes of each kind, the same but for the mark; without a keypoint, and "
        f"so left out, were {left_out}. A patch is flagged above {ABOVE:g} times the mean relevance (libra, "
        "predicted class). Shares in % with 95 % intervals. Of the honest classifier every flagged image is "
        "a false positive, though a mark is there to be seen."
    )
    head = ["model", "scenes", "rule", "images flagged", "mark flagged", "flagged elsewhere"]
    lines = [[*head, "patches an image"]]
    for name, kind, rule, own in _each(rows):
        cells = [_percent(own["flagged"])]
        cells += [_percent(own["on_mark"]) if kind != "clean" else "-", _percent(own["elsewhere"])]
        lines.append([name, kind, rule, *cells, f"{own['patches'].mean():.2f}"])
    yield _table(lines)
    yield (
        "Accuracy in % before and after flagged patches are taken out, beside as many random others (mean of "
        "4 draws); and how much less probable the first answer is then, over flagged images:"
    )
    head = ["model", "scenes", "rule", "before", "after", "random", "after - before"]
    lines = [[*head, "drop (flagged images)", "drop, random", "n"]]
    for name, kind, rule, own in _each(rows):
        sure = own["flagged"] == 1
        falls = (own["drop"][sure], own["control_drop"][sure])
        drops = [_ends(mean(each), "{:.2f}") if sure.sum() > 1 else "-" for each in falls]
        cells = [_percent(own[each]) for each in ("before", "after", "control")]
        gain = _percent_of(paired(own["after"], own["before"]), "{:+.1f}")
        lines.append([name, kind, rule, *cells, gain, *drops, str(int(sure.sum()))])
    yield _table(lines)


def _each(rows: list[Row]) -> Iterator[tuple[str, str, str, dict[str, np.ndarray]]]:
    for name in CHEATS:
        for kind in KINDS:
            for rule in RULES:
                own = [row for row in rows if (row["model"], row["kind"], row["rule"]) == (name, kind, rule)]
                if own:
                    numbers = [key for key, value in own[0].items() if isinstance(value, float)]
                    yield name, kind, rule, {key: np.array([row[key] for row in own]) for key in numbers}


def _percent(values: np.ndarray) -> str:
    return _percent_of(mean(values), "{:.1f}")


def _percent_of(found: Estimate, shape: str) -> str:
    return _ends(Estimate(100 * found.value, 100 * found.low, 100 * found.high, found.n), shape)


def _ends(found: Estimate, shape: str) -> str:
    value, low, high = (shape.format(each) for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def _table(lines: list[list[str]]) -> str:
    return "\n".join(line(each) for each in (lines[0], ["---"] * len(lines[0]), *lines[1:]))


def _about() -> str:
    import cv2

    known = {**versions(), "opencv": cv2.__version__}
    told = ", ".join(f"{name} {number}" for name, number in known.items())
    seeds = ", ".join(f"{name} {seed}" for name, seed in SEEDS.items())
    return f"float32 on a CPU; {told}. Seeds of the scenes: {seeds}; of the draws 0."


def _draw(pictures: Path, out: Path, heads: dict[str, dict[str, SiftAttention]]) -> None:
    shifts = {name: both["shift"] for name, both in heads.items()}
    draw_sift.save(draw_sift.head_maps(shifts), pictures / "sift-heads.png")
    draw_sift.save(draw_sift.entropy_lines(shifts), pictures / "sift-entropy.png")
    plain = [Image.fromarray(one.image) for one in scenes(SEEDS["attention"], 5, subjects=1)]
    _save(draw_sift.keypoint_sheet(plain, concentration(plain, GRID)), pictures / "sift-keypoints.png")
    data = _Marked("conflict", 16)
    found, asked = data.asked(load_cheater("cpu"), "apart")
    shown = [*found.images.nonzero()[:3, 0].tolist(), int((~found.images).nonzero()[0, 0])]
    sheet = draw_sift.spurious_sheet(data.images, data.keypoints, found, asked, shown)
    _save(sheet, pictures / "sift-spurious.png")


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, optimize=True)


if __name__ == "__main__":
    app()
