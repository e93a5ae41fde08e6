"""Measures what recording attention costs: `python scripts/measure_record.py --write`.

Three questions: the counted operations and the time of recording every cross-attention layer of a denoiser of
Stable Diffusion 1's shape (neither depends on the weights); whether attention-map-diffusers finds
the same maps on the embedded pipeline; and what each of the two costs there in time and memory. That
package is no dependency: `pip install --no-deps --target DIR attention-map-diffusers==1.0.0`, then run with
`PYTHONPATH=DIR`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any, Final
from unittest import mock

import torch
import typer
from diffusers import DDIMScheduler, UNet2DConditionModel
from heedful.emoji import load_pipeline
from heedful.guidance import AttentionRecord, record
from heedful.guidance.hosts import Host
from heedful.guidance.record import RecordedCall
from heedful.guidance.sums import AttentionSums
from heedful.guidance.tap import Tap
from heedful.scripts.machine import choose
from heedful.scripts.marks import write_between_marks
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

DOCS: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
MARKS: Final = ("<!-- record figures: begin -->", "<!-- record figures: end -->")
OTHER: Final = "attention_map_diffusers"
PROMPT: Final = "a cat and a frog"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command()
def main(
    rounds: Annotated[int, typer.Option(help="times that each way runs, in turns; medians are shown")] = 3,
    steps: Annotated[int, typer.Option(help="denoising steps on the embedded pipeline", min=2)] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    device: Annotated[str | None, typer.Option(help="default: cuda where there is one, else cpu")] = None,
    write: Annotated[bool, typer.Option(help="write the table into docs/benchmarks.md")] = False,
) -> None:
    """Measure recording on the shape of Stable Diffusion 1, and beside attention-map-diffusers."""
    torch.set_num_threads(threads)
    where, dtype = choose(device, None)
    lines = [_about(where, dtype, threads), "", "| what | figure |", "|---|---|"]
    lines += _counted()
    lines += _timed(rounds, where, getattr(torch, dtype))
    lines += _beside(rounds, steps)
    text = "\n".join(lines)
    console.print(text, markup=False, soft_wrap=True)
    if write:
        write_between_marks(DOCS, text, MARKS)


def _about(device: str, dtype: str, threads: int) -> str:
    machine = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    count = f"{threads} CPU thread{'s' * (threads > 1)}"
    return f"{machine}, {count}, torch {torch.__version__}, diffusers {version('diffusers')}, {dtype}."


def _line(what: str, figure: str) -> str:
    return f"| {what} | {figure} |"


# The shape of Stable Diffusion 1


def _denoiser(device: str, dtype: torch.dtype) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A denoiser of that shape behind what a recording asks of its pipeline, and one call with guidance.

    Its weights are all the same: drawing 860 million takes longer than a step.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet = unet.to(dtype).to_empty(device=device)
    for parameter in unet.parameters():
        parameter.data.fill_(0.01)
    with torch.device(device):
        inputs = (torch.randn(2, 4, 64, 64), torch.ones(1), torch.randn(2, 77, 768))
    moved = [one.to(dtype) if one.ndim > 1 else one for one in inputs]
    tokenizer = load_pipeline("cpu").tokenizer
    pipe = SimpleNamespace(
        unet=unet.eval(), tokenizer=tokenizer, do_classifier_free_guidance=True, scheduler=DDIMScheduler()
    )
    return pipe, tuple(moved)


def _counted() -> list[str]:
    pipe, inputs = _denoiser("meta", torch.float32)

    def operations() -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            pipe.unet(*inputs)
        return counter.get_total_flops()

    plain = operations()
    with RecordedCall(Host(pipe, {"prompt": PROMPT})).attached():
        recorded = operations()
    share = 100 * (recorded / plain - 1)
    name = "recording all 16 layers of Stable Diffusion 1 at 512 pixels, heads averaged"
    return [_line(f"{name}: operations beyond plain sampling's, counted", f"{share:.2f} %")]


def _timed(rounds: int, device: str, dtype: torch.dtype) -> list[str]:
    """Whole calls in turns, and within the recorded ones the time that recording itself takes."""
    pipe, inputs = _denoiser(device, dtype)
    plain, recorded, within = [], [], []
    with torch.no_grad():
        pipe.unet(inputs[0][..., :16, :16], *inputs[1:])  # touches all weights once
        for _ in range(rounds):
            plain.append(_seconds(lambda: pipe.unet(*inputs), device))
            with RecordedCall(Host(pipe, {"prompt": PROMPT})).attached(), _time_in_taps(device) as taps:
                recorded.append(_seconds(lambda: pipe.unet(*inputs), device))
            within.append(sum(taps))
    alone = [100 * own / (whole - own) for own, whole in zip(within, recorded, strict=True)]
    difference = 100 * (median(recorded) / median(plain) - 1)
    console.print("seconds", plain, recorded, within, markup=False)
    step, turns = "the same, one step with guidance", f"in turns, median of {rounds}"
    figure = f"{median(within):.3f} s of {median(recorded) - median(within):.2f} s, {median(alone):.2f} %"
    return [
        _line(f"{step}: time spent in recording over the time of the rest, same run", figure),
        _line(f"{step}: whole time beyond plain sampling's, {turns}", f"{difference:+.1f} %"),
    ]


@contextmanager
def _time_in_taps(device: str) -> Iterator[list[float]]:
    """The seconds of each layer's recording."""
    spent: list[float] = []
    see = Tap.see

    def timed(self: Tap, *args: Any, **kwargs: Any) -> None:
        spent.append(_seconds(lambda: see(self, *args, **kwargs), device))

    with mock.patch.object(Tap, "see", timed):
        yield spent


def _seconds(action: Callable[[], Any], device: str) -> float:
    """Time of this process on a CPU, which others on the machine do not lengthen; on a GPU wall time."""
    gpu = device.startswith("cuda")
    clock = time.perf_counter if gpu else time.process_time
    if gpu:
        torch.cuda.synchronize()
    started = clock()
    action()
    if gpu:
        torch.cuda.synchronize()
    return clock() - started


# Beside attention-map-diffusers


def _beside(rounds: int, steps: int) -> list[str]:
    try:
        capture = import_module(OTHER).AttentionCapture
    except ImportError:
        hint = "pip install --no-deps --target DIR attention-map-diffusers==1.0.0 and PYTHONPATH=DIR"
        raise typer.BadParameter(f"{OTHER} is not there to compare with; {hint}") from None
    pipe = load_pipeline("cpu")
    pipe.set_progress_bar_config(disable=True)
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: _draw(pipe, steps),
        "mean": lambda: _ours(pipe, steps, ()),
        "resolved": lambda: _ours(pipe, steps, ("step", "layer")),
        "theirs": lambda: _theirs(pipe, steps, capture),
    }
    found = {name: way() for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(_seconds(way, "cpu"))
    console.print("seconds", times, markup=False)
    return _compared(found, {name: median(own) for name, own in times.items()}, steps)


def _compared(found: dict[str, Any], seconds: dict[str, float], steps: int) -> list[str]:
    (mean, mean_bytes), (ours, our_bytes), (theirs, their_bytes) = (
        found[name] for name in ("mean", "resolved", "theirs")
    )
    over = {name: 100 * (own / seconds["plain"] - 1) for name, own in seconds.items()}
    apart = _largest_difference(ours, theirs)
    about = f"embedded pipeline, {steps} steps, {len(mean.layers)} layers"
    package = f"attention-map-diffusers {version('attention-map-diffusers')}"
    return [
        _line(f"{about}: largest difference of a word's map to {package}, any step, layer", _small(apart)),
        _line(f"{about}: time beyond plain sampling, our means", f"{over['mean']:+.1f} %"),
        _line(f"{about}: time beyond it, our maps by step and layer", f"{over['resolved']:+.1f} %"),
        _line(f"{about}: time beyond it, {package}, all steps, with `compute()`", f"{over['theirs']:+.1f} %"),
        _line(f"{about}: bytes held, our means", _size(mean_bytes)),
        _line(f"{about}: bytes held, our maps by step and layer", _size(our_bytes)),
        _line(f"{about}: bytes held, {package}, all steps, its own count of its peak", _size(their_bytes)),
    ]


def _draw(pipe: Any, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pipe(PROMPT, num_inference_steps=steps, generator=generator, output_type="latent")


def _ours(pipe: Any, steps: int, resolve: tuple[str, ...]) -> tuple[AttentionRecord, int]:
    held = [0]
    ended = AttentionSums.end_step

    def count(self: AttentionSums) -> None:
        ended(self)
        held[0] = max(held[0], self.bytes_held)

    with mock.patch.object(AttentionSums, "end_step", count), record(pipe, resolve=resolve) as recording:
        _draw(pipe, steps)
    return recording.record, held[0]


def _theirs(pipe: Any, steps: int, capture: Any) -> tuple[Any, int]:
    with capture(pipe, relations="image->text", timesteps="all", heads="mean") as captured:
        _draw(pipe, steps)
    maps = captured.compute()
    return maps, maps.metadata["peak_capture_bytes"]


def _largest_difference(ours: AttentionRecord, theirs: Any) -> float:
    """Over all words, steps and layers; theirs hold both halves of the batch, the conditional one last."""
    steps = {timestep: place for place, timestep in enumerate(ours.steps)}
    largest, compared = 0.0, 0
    for one in theirs:
        layer = one.layer_id.removeprefix("unet.")
        for place, span in enumerate(ours.spans[0]):
            mine = ours.layer_maps[layer][0][steps[one.timestep], place, 0]
            other = one.data[-1, 0][:, list(span.indices)].sum(-1).unflatten(0, mine.shape)
            largest, compared = max(largest, float((mine - other).abs().max())), compared + 1
    assert compared == len(ours.spans[0]) * len(ours.steps) * len(ours.layers)
    return largest


def _small(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0, bit for bit"


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


if __name__ == "__main__":
    app()
