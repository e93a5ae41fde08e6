"""What guidance must know of a scheduler: which calls keep their sample, how it scales its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .attach import lend
from .errors import UnsupportedError

_CORRECTOR = "multistep_uni_c_bh_update"


def _always(scheduler: Any) -> bool:
    return True


def _pndm(scheduler: Any) -> bool:
    runge_kutta = not scheduler.config.skip_prk_steps and scheduler.counter < len(scheduler.prk_timesteps)
    if runge_kutta:
        return scheduler.counter % 4 == 0
    return not (scheduler.counter == 1 and len(scheduler.ets) == 1)


def _first_order(scheduler: Any) -> bool:
    return scheduler.state_in_first_order


def _singlestep(scheduler: Any) -> bool:
    """A block of calls goes out from the sample of its first one, which is of order 1."""
    index = scheduler.step_index if scheduler.step_index is not None else scheduler.begin_index or 0
    order = scheduler.order_list[index]
    while order > 1 and scheduler.model_outputs[1 - order] is None:  # a run that begins amid a block
        order -= 1
    return order == 1


KEEPS_SAMPLE: dict[str, Callable[[Any], bool]] = {
    "DDIMScheduler": _always,
    "DDPMScheduler": _always,
    "DEISMultistepScheduler": _always,
    "DPMSolverMultistepScheduler": _always,
    "DPMSolverSinglestepScheduler": _singlestep,
    "EulerAncestralDiscreteScheduler": _always,
    "EulerDiscreteScheduler": _always,
    "FlowMatchEulerDiscreteScheduler": _always,
    "FlowMatchHeunDiscreteScheduler": _first_order,
    "HeunDiscreteScheduler": _first_order,
    "KDPM2AncestralDiscreteScheduler": _first_order,
    "KDPM2DiscreteScheduler": _first_order,
    "LCMScheduler": _always,
    "LMSDiscreteScheduler": _always,
    "PNDMScheduler": _pndm,
    "TCDScheduler": _always,
    "UniPCMultistepScheduler": _always,
}
"""By class name: does the scheduler's next `step` use the `sample` it is given?"""


def keeps_sample(scheduler: Any) -> bool:
    """Whether the next `step` of this scheduler uses the sample it is given, so that a nudge is not lost.

    Raises:
        UnsupportedError: a scheduler on which no test has shown how a shift of the latents comes through.
    """
    for cls in type(scheduler).__mro__:
        if cls.__name__ in KEEPS_SAMPLE:
            return KEEPS_SAMPLE[cls.__name__](scheduler)
    raise UnsupportedError(
        f"guidance does not know how {type(scheduler).__name__} treats latents that were nudged; "
        f"use one of: {', '.join(KEEPS_SAMPLE)} (pipe.scheduler = ....from_config(pipe.scheduler.config))"
    )


def input_scale(scheduler: Any, timestep: Tensor) -> float:
    """The factor c by which the scheduler scales latents before the denoiser sees them.

    1 for DDIM, PNDM and DPM++; 1 / sqrt(sigma^2 + 1) for Euler, Heun and LMS, whose latents have the
    variance sigma^2 + 1. So latents / (their unit-variance scale) is c * latents for all of them.
    """
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    return float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), timestep))


@contextmanager
def shifted_steps(
    scheduler: Any, shift: Callable[[Tensor], Tensor], done: Callable[[], None]
) -> Iterator[None]:
    """Within the block `scheduler.step` works on `shift(sample)`, and `done()` is called after each.

    A corrector (UniPC's) would put another sample in the place of a shifted one, and so take the shift back;
    it is left out of the steps whose sample is shifted.
    """
    uncorrected = False

    def step(
        inherited: Callable[..., Any],
        self: Any,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        nonlocal uncorrected
        shifted = shift(sample)
        uncorrected = shifted is not sample
        result = inherited(model_output, timestep, shifted, *args, **kwargs)
        done()
        return result

    def correct(inherited: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        return kwargs["this_sample"] if uncorrected else inherited(*args, **kwargs)

    corrector = {_CORRECTOR: correct} if hasattr(scheduler, _CORRECTOR) else {}
    with lend(scheduler, step=step, **corrector):
        yield
