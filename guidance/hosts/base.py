"""What guidance must know of one call of a pipeline: its denoiser, its words, its conditional rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..calls import prompts_of, repeated
from ..denoiser import DenoiserCall
from ..errors import UnsupportedError
from ..intercept import unwrapped
from ..layers import Grid, Layer, LayerChoice, choose, cross_attention_layers, self_attention_layers
from ..schedulers import input_scale


class Host:
    """One call of a diffusers pipeline as guidance reads it; a subclass for each kind of pipeline.

    This one is text-to-image with a UNet: prompts in `prompt`, one tokenizer, and a batch whose last part
    is conditional. A subclass says what is different, and `HOSTS` which pipelines it is for. All that can be
    asked may be asked from the first call of the denoiser on; prompts and layers at once.

    Attributes:
        call_type: how a call of the denoiser is read.
        denoiser_name: the component of the pipeline that is the denoiser.
        pipe: the pipeline.
        arguments: all arguments of its call by name, defaults included.
        prompts: the prompts that are read for words, or None where only embeddings were given.
        count: number of prompts.
        repeats: images a prompt.
        begins_anew: whether the pipeline's call may be given up and made again with the same arguments.
        control_passes: rows on which ControlNets were run once more on nudged latents.
    """

    call_type: ClassVar[type[DenoiserCall]] = DenoiserCall
    denoiser_name: ClassVar[str] = "unet"
    begins_anew: ClassVar[bool] = True

    def __init__(
        self, pipe: Any, arguments: Mapping[str, Any], prompt: str | Sequence[str] | None = None
    ) -> None:
        """`prompt` is the text of the embeddings, where the pipeline is called with these.

        Raises:
            GuidanceError: neither prompts nor embeddings.
        """
        self.pipe = pipe
        self.arguments = {**arguments, **arguments.get("kwargs", {})}
        self.prompts, self.count = prompts_of(self.arguments, prompt)
        self.repeats = int(self.arguments.get("num_images_per_prompt") or 1)
        self.control_passes = 0

    @property
    def images(self) -> int:
        """Number of images of the call."""
        return self.count * self.repeats

    @property
    def image_prompts(self) -> list[str]:
        """The prompt of each image; empty where only embeddings were given."""
        return repeated(self.prompts or (), self.repeats)

    @property
    def called(self) -> nn.Module:
        """What the pipeline calls: its denoiser, or what `torch.compile` has put around that."""
        return getattr(self.pipe, self.denoiser_name)

    @property
    def denoiser(self) -> nn.Module:
        """The model that predicts the noise or the velocity."""
        return unwrapped(self.called)

    @property
    def tokenizer(self) -> Any:
        """What tells a prompt's token positions, in the sequence that the denoiser attends to."""
        return self.pipe.tokenizer

    @property
    def parts(self) -> int:
        """Of how many parts, one row an image each, the batch of the denoiser's first call is made."""
        return 2 if self.pipe.do_classifier_free_guidance else 1

    @property
    def conditional_part(self) -> int:
        """Which of these parts is the prompt's own, counted from 0."""
        return self.parts - 1

    @property
    def steps(self) -> int:
        """Number of the scheduler's calls in this run, which may begin or end within its trajectory."""
        return getattr(self.pipe, "_num_timesteps", None) or len(self.pipe.scheduler.timesteps)

    def conditional_rows(self, rows: int) -> slice:
        """Which rows of the denoiser's batch are the prompts' own.

        Raises:
            UnsupportedError: the batch is not made of the parts that the pipeline says it has.
        """
        if rows != self.parts * self.images:
            raise UnsupportedError(
                f"the denoiser was called with {rows} rows for {self.images} images and {self.parts} "
                "part(s); guidance does not know which of them are conditional"
            )
        first = self.conditional_part * self.images
        return slice(first, first + self.images)

    def layers(self) -> tuple[Layer, ...]:
        """All attention over the text that could be read, in the order in which it runs.

        Raises:
            UnsupportedError: the denoiser has none.
        """
        return cross_attention_layers(self.denoiser)

    def self_attention(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The image's attention over itself beside the given layers.

        Raises:
            UnsupportedError: none of their blocks has any.
        """
        return self_attention_layers(self.denoiser, layers)

    def choose(self, layers: Sequence[Layer], grid: Grid, choice: LayerChoice) -> tuple[Layer, ...]:
        """The layers to read for latents of the given (height, width), see `layers.choose`."""
        return choose(layers, grid, choice)

    def call(self, named: Mapping[str, Any]) -> DenoiserCall:
        """A call of the denoiser, whose arguments are given by name."""
        scale = input_scale(self.pipe.scheduler, named["timestep"])
        return self.call_type(self.denoiser, named, scale, self.latent_channels(named))

    def timestep(self, named: Mapping[str, Any]) -> Any:
        """The scheduler's timestep in a call of the denoiser, a number or one a row."""
        return named["timestep"]

    def latent_channels(self, named: Mapping[str, Any]) -> int | None:
        """How many of the denoiser's input channels are latents, the first ones; None for all of them."""
        return None

    def movable(self) -> Tensor | None:
        """1 where the latents may be moved and 0 elsewhere, (image or 1, 1, height, width); None for
        everywhere."""
        return None

    def after_nudge(self, named: dict[str, Any], shift: Tensor) -> dict[str, Any]:
        """The denoiser's arguments brought up to date after its latents were moved by `shift`, scaled as
        the denoiser sees it; what a ControlNet says depends on them."""
        return named

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block, which spans the pipeline's call, what is needed besides can be seen."""
        yield

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within the block the denoiser runs as a probe, with nothing in it that expects the whole batch."""
        yield


def first_number(timestep: Any) -> float:
    """A timestep as a number, also where it is given once a row."""
    return float(torch.as_tensor(timestep).flatten()[0])
