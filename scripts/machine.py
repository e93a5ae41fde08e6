"""Where and in which precision a command computes: the choice, and its refusals."""

from __future__ import annotations

import torch

from .settings import UsageError


def choose(device: str | None, dtype: str | None) -> tuple[str, str]:
    """Device and type: CUDA and float16 where there is such a device, else the CPU and float32.

    Raises:
        UsageError: a device that is not there, or float16 on a CPU.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = _kind(device)
    if kind == "cpu" and dtype == "float16":
        raise UsageError("float16 on a CPU is a thousand times slower than float32; take float32 or bfloat16")
    return device, dtype or ("float16" if kind == "cuda" else "float32")


def choose_here(device: str | None, dtype: str | None) -> tuple[str, str]:
    """The same for this process; of several that were launched on GPUs each takes its own.

    Raises:
        UsageError: as `choose`.
    """
    from ..explain.evaluation.run import launched  # most commands run alone, and need not wait for it

    state = launched()
    if device is None and state.num_processes > 1:
        device = str(getattr(state, "device", "cpu"))
    return choose(device, dtype)


def is_first() -> bool:
    """Whether this process is the one that prints and writes; alone it always is."""
    from ..explain.evaluation.run import launched

    return launched().process_index == 0


def _kind(device: str) -> str:
    try:
        kind = torch.device(device).type
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise UsageError(f'device "{device}" cannot be used here ({one_line(problem)}); try cpu') from problem
    return kind


def one_line(problem: BaseException) -> str:
    """What an error says first, on one line."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    text = lines[0] if lines else type(problem).__name__
    return text if len(text) <= 300 else text[:297] + "..."
