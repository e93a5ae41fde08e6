"""The one training loop of all emoji models: accelerate, seeded steps, checkpoints that it resumes from."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer

Step = Callable[[nn.Module, torch.Generator, int], tuple[Tensor, dict[str, float]]]
"""From the model, this step's own generator and its number to the loss and the figures to show."""
_console = Console()


@dataclass(frozen=True)
class Plan:
    """How long, how seeded, where to."""

    steps: int
    folder: Path
    """Where the checkpoint and `log.jsonl` lie; a checkpoint found there is resumed."""
    seed: int = 0
    warmup: int = 100
    stop_after: int | None = None
    """End at this step with a checkpoint, to go on another time; the schedule stays that of `steps`."""
    save_every: int = 250
    show_every: int = 25
    clip_norm: float = 1.0
    precision: str = "no"
    """accelerate's mixed precision: "no", "bf16" or "fp16"."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a plan needs at least one step, got {self.steps}")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ValueError(f'precision must be "no", "bf16" or "fp16", got {self.precision!r}')


def rate_at(step: int, plan: Plan) -> float:
    """The share of the full learning rate: linear warm-up, half a cosine to 0 (Loshchilov & Hutter 2017)."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def run(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    step: Step,
    plan: Plan,
    *,
    report: Callable[[nn.Module, int], dict[str, float]] | None = None,
) -> nn.Module:
    """Train `model` and return it; what a step sees depends on its number alone, so resuming changes nothing.

    Args:
        optimizers: their groups' learning rates are the full ones; the plan's schedule scales them.
        step: called with the prepared model, whose own forward alone runs in mixed precision; each process of
            a distributed run gets a generator of its own.
        report: called after every checkpoint on the main process; its figures are logged.
    """
    accelerator = Accelerator(mixed_precision=plan.precision, cpu=not torch.cuda.is_available())
    prepared, *ready = accelerator.prepare(model, *optimizers)
    begin = _resume(accelerator, plan)
    started = time.monotonic()
    end = min(plan.steps, plan.stop_after or plan.steps)
    for number in range(begin, end):
        generator = torch.Generator().manual_seed(_step_seed(plan.seed, number, accelerator.process_index))
        _set_rates(ready, rate_at(number, plan))
        loss, figures = step(prepared, generator, number)
        _update(accelerator, prepared, ready, loss, plan)
        if (number + 1) % plan.show_every == 0:
            pace = (time.monotonic() - started) / (number + 1 - begin)
            _log(accelerator, plan, number + 1, {"loss": loss.item(), **figures, "seconds_a_step": pace})
        if (number + 1) % plan.save_every == 0 or number + 1 == end:
            _save(accelerator, plan, number + 1)
            if report is not None and accelerator.is_main_process:
                _log(accelerator, plan, number + 1, report(accelerator.unwrap_model(prepared), number + 1))
    return accelerator.unwrap_model(prepared)


def _step_seed(seed: int, number: int, process: int) -> int:
    return (seed * 1_000_003 + number) * 97 + process


def _set_rates(optimizers: Sequence[Optimizer], share: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share


def _update(
    accelerator: Accelerator, model: nn.Module, optimizers: Sequence[Optimizer], loss: Tensor, plan: Plan
) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss.item()}; lower the learning rate and resume from {plan.folder}"
        )
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), plan.clip_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def _save(accelerator: Accelerator, plan: Plan, number: int) -> None:
    """Write beside the old checkpoint and swap, so that an interruption never leaves half of one."""
    fresh, kept = plan.folder / "checkpoint.new", plan.folder / "checkpoint"
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "step.json").write_text(json.dumps({"step": number}), encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, plan: Plan) -> int:
    kept = plan.folder / "checkpoint"
    if not (kept / "step.json").is_file():
        plan.folder.mkdir(parents=True, exist_ok=True)
        return 0
    accelerator.load_state(str(kept))
    return int(json.loads((kept / "step.json").read_text(encoding="utf-8"))["step"])


def _log(accelerator: Accelerator, plan: Plan, number: int, figures: dict[str, float]) -> None:
    if not accelerator.is_main_process:
        return
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    with (plan.folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": number, **rounded}) + "\n")
    shown = "  ".join(f"{name} {value:.4g}" for name, value in rounded.items())
    _console.print(f"{plan.folder.name} {number}/{plan.steps}  {shown}", highlight=False)
