"""ControlNets: what they say of the latents before a nudge is stale after it, so they are asked again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import by_name
from ..errors import UnsupportedError
from ..intercept import Given, as_given, overheard, unwrapped
from .base import Host
from .unets import Inpainting, StableDiffusionXL, StableDiffusionXLInpainting

_DOWN, _MID = "down_block_additional_residuals", "mid_block_additional_residual"


@dataclass(frozen=True)
class ControlCall:
    """One call of a ControlNet by the pipeline, ready to be repeated on other latents.

    Attributes:
        module: the ControlNet, or several as one.
        given: its arguments, as it was given them.
        residuals: what it said, those of the down blocks first.
    """

    module: nn.Module
    given: Given
    residuals: tuple[Tensor, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """Its arguments by name."""
        return by_name(unwrapped(self.module), *self.given)

    @property
    def silent(self) -> bool:
        """Whether it counts for nothing in this step, as before `control_guidance_start`."""
        return not torch.as_tensor(self.arguments.get("conditioning_scale", 1.0)).any()

    @property
    def cost(self) -> int:
        """Rows of a batch that it is run on, for each of several ControlNets."""
        return len(self.arguments["sample"]) * len(getattr(self.module, "nets", (self.module,)))

    def on(self, sample: Tensor) -> tuple[Tensor, ...]:
        """What it says of what the denoiser is given, whose last rows and first channels are its own."""
        old = self.arguments["sample"]
        moved = {**self.arguments, "sample": sample[-len(old) :, : old.shape[1]]}
        args, kwargs = as_given(unwrapped(self.module), self.given, moved)
        with torch.no_grad():
            return _flat(self.module(*args, **kwargs))


class ControlNetHost(Host):
    """A pipeline whose ControlNet looks at the latents before the denoiser does.

    Probes hold its residuals fixed. Once the latents were nudged, it is run once more, on the nudged latents,
    and what it says then is what the denoiser is given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._said: ControlCall | None = None
        self._asking = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block, the ControlNet's calls are seen, where there is one."""
        controlnet = getattr(self.pipe, "controlnet", None)
        with super().attached(), ExitStack() as stack:
            if controlnet is not None:
                stack.enter_context(overheard(controlnet, partial(self._hear, controlnet)))
            yield
        self._said = None

    def _hear(self, module: nn.Module, given: Given, output: Any) -> None:
        if not self._asking:
            self._said = ControlCall(module, given, _flat(output))

    def after_nudge(self, named: dict[str, Any], shift: Tensor) -> dict[str, Any]:
        """The arguments with the residuals that belong to the nudged latents."""
        named = super().after_nudge(named, shift)
        said = self._said
        if said is None or said.silent or named.get(_MID) is None:
            return named
        given = (*named[_DOWN], named[_MID])
        if not any(residual.any() for residual in given):
            return named  # the part that guess mode leaves to the denoiser alone
        self._asking = True
        try:
            anew = said.on(named[self.call_type.sample_name])
        finally:
            self._asking = False
        self.control_passes += said.cost
        *down, mid = (_renewed(*three) for three in zip(given, said.residuals, anew, strict=True))
        return {**named, _DOWN: type(named[_DOWN])(down), _MID: mid}


def _flat(output: Sequence[Any]) -> tuple[Tensor, ...]:
    down, mid = output[0], output[1]
    return (*down, mid)


def _renewed(given: Tensor, said: Tensor, anew: Tensor) -> Tensor:
    """What the denoiser is given in place of `given`, which holds what the ControlNet had `said`.

    In guess mode only the last part of the batch has residuals; the others are zero and stay so.

    Raises:
        UnsupportedError: the pipeline gives the denoiser something else.
    """
    if given is said:
        return anew
    before = len(given) - len(said)
    if before < 0 or not torch.equal(given[before:], said) or given[:before].any():
        raise UnsupportedError(
            "the denoiser is not given what the ControlNet said, so that guidance cannot bring it up to date "
            "after a nudge; use a ControlNet pipeline of diffusers, or leave the ControlNet out"
        )
    return torch.cat([given[:before], anew])


class StableDiffusionXLControlNet(ControlNetHost, StableDiffusionXL):
    """The same with two text encoders."""


class ControlNetInpainting(ControlNetHost, Inpainting):
    """The same inside a mask."""


class StableDiffusionXLControlNetInpainting(ControlNetHost, StableDiffusionXLInpainting):
    """The same with two text encoders, inside a mask."""


CONTROLS: dict[str, type[Host]] = {
    "StableDiffusionControlNetPipeline": ControlNetHost,
    "StableDiffusionControlNetImg2ImgPipeline": ControlNetHost,
    "StableDiffusionControlNetInpaintPipeline": ControlNetInpainting,
    "StableDiffusionXLControlNetPipeline": StableDiffusionXLControlNet,
    "StableDiffusionXLControlNetImg2ImgPipeline": StableDiffusionXLControlNet,
    "StableDiffusionXLControlNetInpaintPipeline": StableDiffusionXLControlNetInpainting,
    "StableDiffusionXLControlNetUnionPipeline": StableDiffusionXLControlNet,
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": StableDiffusionXLControlNet,
    "StableDiffusionXLControlNetUnionInpaintPipeline": StableDiffusionXLControlNetInpainting,
}
"""By the class name of a pipeline."""
