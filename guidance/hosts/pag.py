"""Perturbed-attention guidance: one more part of the batch, and processors that expect it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from .base import Host
from .controlnet import ControlNetHost
from .unets import Inpainting, StableDiffusionXL, StableDiffusionXLInpainting


class PagHost(Host):
    """A pipeline that guides itself by perturbed self-attention.

    Its batch is (unconditional, conditional, perturbed) or, where classifier-free guidance is off,
    (conditional, perturbed), and its processors on the layers it perturbs split the batch into these parts.
    A probe has the conditional part only, so it runs with the processors that were there before the call.
    """

    @property
    def parts(self) -> int:
        """Of how many parts the batch is made, the perturbed one included."""
        return super().parts + bool(self.pipe.do_perturbed_attention_guidance)

    @property
    def conditional_part(self) -> int:
        """The part after the unconditional one, where there is one."""
        return super().parts - 1

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block, the processors found on entry are known; they are back after it in any case.

        The pipeline puts them back itself, but not when its call ends with an exception, nor (those of
        Stable Diffusion XL) when latents are asked for. So its own may be found on entry, left by the call
        before; probes have the usual ones instead.
        """
        from diffusers.models.attention_processor import AttnProcessor2_0  # guidance loads without diffusers

        self._kinds = tuple({type(processor) for processor in self.pipe._pag_attn_processors or ()})
        found = self._found = processors_of(self.denoiser)
        usual = AttnProcessor2_0()
        self._whole = {
            module: usual if isinstance(one, self._kinds) else one for module, one in found.items()
        }
        with super().attached():
            try:
                yield
            finally:
                put({module: found[module] for module in self._perturbing()})

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within the block, the layers that the pipeline perturbs have the processors found on entry."""
        perturbing = self._perturbing()
        with super().probing():
            put({module: self._whole[module] for module in perturbing})
            try:
                yield
            finally:
                put(perturbing)

    def _perturbing(self) -> dict[nn.Module, Any]:
        """The layers on which the pipeline's own processors sit now, with these.

        What somebody else has put on a layer in the meantime is left alone.
        """
        now = processors_of(self.denoiser)
        return {module: one for module, one in now.items() if isinstance(one, self._kinds)}


def processors_of(denoiser: nn.Module) -> dict[nn.Module, Any]:
    """The processor of each of a denoiser's attention modules."""
    return {module: module.processor for module in denoiser.modules() if hasattr(module, "set_processor")}


def put(processors: Mapping[nn.Module, Any]) -> None:
    """Give attention modules these processors."""
    for module, processor in processors.items():
        module.set_processor(processor)  # type: ignore[operator]


class StableDiffusionXLPag(PagHost, StableDiffusionXL):
    """The same with two text encoders."""


class PagInpainting(PagHost, Inpainting):
    """The same inside a mask."""


class StableDiffusionXLPagInpainting(PagHost, StableDiffusionXLInpainting):
    """The same with two text encoders, inside a mask."""


class ControlNetPag(PagHost, ControlNetHost):
    """The same with a ControlNet, which runs on all parts of the batch."""


class ControlNetPagInpainting(PagHost, ControlNetHost, Inpainting):
    """The same with a ControlNet, inside a mask."""


class StableDiffusionXLControlNetPag(PagHost, ControlNetHost, StableDiffusionXL):
    """The same with a ControlNet and two text encoders."""


PAG: dict[str, type[Host]] = {
    "StableDiffusionPAGPipeline": PagHost,
    "StableDiffusionPAGImg2ImgPipeline": PagHost,
    "StableDiffusionPAGInpaintPipeline": PagInpainting,
    "StableDiffusionXLPAGPipeline": StableDiffusionXLPag,
    "StableDiffusionXLPAGImg2ImgPipeline": StableDiffusionXLPag,
    "StableDiffusionXLPAGInpaintPipeline": StableDiffusionXLPagInpainting,
    "StableDiffusionControlNetPAGPipeline": ControlNetPag,
    "StableDiffusionControlNetPAGInpaintPipeline": ControlNetPagInpainting,
    "StableDiffusionXLControlNetPAGPipeline": StableDiffusionXLControlNetPag,
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": StableDiffusionXLControlNetPag,
}
"""By the class name of a pipeline."""
