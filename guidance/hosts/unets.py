"""Pipelines of the UNet family, as far as they differ from Stable Diffusion's text-to-image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..attach import lend
from .base import Host


class StableDiffusionXL(Host):
    """Two text encoders whose channels stand side by side at the same 77 positions.

    Words are found in `prompt`, which the first tokenizer reads, or the second one where it is the only one
    (the refiner). A `prompt_2` that differs shares these positions: its words are not looked for.
    """

    @property
    def tokenizer(self) -> Any:
        """The one that reads `prompt`."""
        return self.pipe.tokenizer_2 if self.pipe.tokenizer is None else self.pipe.tokenizer


class WithFurtherChannels(Host):
    """The denoiser may be given more channels than latents: a mask, an image, a depth map."""

    def latent_channels(self, named: Mapping[str, Any]) -> int | None:
        """Latents come first; None where there is nothing else."""
        latents = self.pipe.vae.config.latent_channels
        return latents if named[self.call_type.sample_name].shape[1] > latents else None


class MaskSeen(Host):
    """A pipeline that makes a mask of its own in the latents' size."""

    _mask: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The mask is seen where the pipeline makes it, in the latents' size."""

        def seen(inherited: Callable[..., Any], pipe: Any, *args: Any, **kwargs: Any) -> Any:
            found = inherited(*args, **kwargs)
            self._mask = found[0]
            return found

        with super().attached(), lend(self.pipe, prepare_mask_latents=seen):
            yield


class Inpainting(MaskSeen, WithFurtherChannels):
    """What lies outside the mask stays: a model of 9 channels sees the mask, one of 4 does not.

    With 4 channels everything outside is overwritten after each step, so latents are moved inside only.
    """

    def movable(self) -> Tensor | None:
        """The inside of the mask, where only that is kept."""
        denoiser: Any = self.denoiser
        further = denoiser.config.in_channels > self.pipe.vae.config.latent_channels
        return None if further or self._mask is None else self._mask[: self.images].float()


class StableDiffusionXLInpainting(Inpainting, StableDiffusionXL):
    """Inpainting with two text encoders."""


class InstructPix2Pix(WithFurtherChannels):
    """The image that is edited comes in four further channels, and the prompt's own rows come first."""

    @property
    def parts(self) -> int:
        """Three with guidance: text and image, image alone, neither."""
        return 3 if self._guided else 1

    @property
    def conditional_part(self) -> int:
        """The first one."""
        return 0

    @property
    def _guided(self) -> bool:
        return self.pipe.do_classifier_free_guidance


class StableDiffusionXLInstructPix2Pix(InstructPix2Pix, StableDiffusionXL):
    """The same with two text encoders; this pipeline keeps its scales to itself."""

    @property
    def _guided(self) -> bool:
        return self.arguments["guidance_scale"] > 1.0 and self.arguments["image_guidance_scale"] >= 1.0


class Gligen(WithFurtherChannels):
    """Boxes with phrases of their own, which stand beside the image and not in the text."""

    @property
    def parts(self) -> int:
        """Two with guidance; this pipeline keeps its scale to itself."""
        return 2 if self.arguments["guidance_scale"] > 1.0 else 1


UNETS: dict[str, type[Host]] = {
    "StableDiffusionPipeline": Host,
    "StableDiffusionImg2ImgPipeline": Host,
    "StableDiffusionInpaintPipeline": Inpainting,
    "StableDiffusionDepth2ImgPipeline": WithFurtherChannels,
    "StableDiffusionInstructPix2PixPipeline": InstructPix2Pix,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
    "StableDiffusionXLInpaintPipeline": StableDiffusionXLInpainting,
    "StableDiffusionXLInstructPix2PixPipeline": StableDiffusionXLInstructPix2Pix,
    "StableDiffusionAdapterPipeline": Host,
    "StableDiffusionXLAdapterPipeline": StableDiffusionXL,
    "StableDiffusionGLIGENPipeline": Gligen,
    "LatentConsistencyModelPipeline": Host,
    "LatentConsistencyModelImg2ImgPipeline": Host,
}
"""By the class name of a pipeline."""
