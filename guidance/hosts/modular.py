"""Stable Diffusion XL put together of blocks: a guider calls the denoiser once a part, not once a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ..attach import lend
from ..errors import GuidanceError, UnsupportedError
from .controlnet import ControlNetHost
from .unets import StableDiffusionXL, WithFurtherChannels

_CONDITIONAL = "pred_cond"


class ModularStableDiffusionXL(ControlNetHost, WithFurtherChannels, StableDiffusionXL):
    """A `ModularPipeline` of Stable Diffusion XL, whatever its blocks begin with, with a ControlNet or not.

    All calls of the denoiser in a step, one for each part that the guider wants, get the shift that the first
    one was probed for. So the first must be the conditional one, as it is with every guider of diffusers.
    What the run is like (its timesteps, its mask) is read off the state of its loop.
    """

    begins_anew = False  # its state, which may be the user's, would be half used up

    def __init__(
        self, pipe: Any, arguments: Mapping[str, Any], prompt: str | Sequence[str] | None = None
    ) -> None:
        """The call's arguments are those of its state, where it continues one, and its own.

        Raises:
            UnsupportedError: there is no guider.
            GuidanceError: neither prompts nor embeddings.
        """
        if getattr(pipe, "guider", None) is None:
            raise UnsupportedError(
                "these blocks have no guider, so guidance cannot know which call of the denoiser is the "
                "prompt's own; use blocks that denoise, with a guider such as ClassifierFreeGuidance"
            )
        state = arguments.get("state")
        given = {**({} if state is None else state.values), **arguments.get("kwargs", {})}
        scale = getattr(pipe.guider, "guidance_scale", None)
        own = {"guidance_scale": scale, **pipe.default_call_parameters}
        super().__init__(pipe, {**own, **arguments, **given}, prompt)
        self._loop: Any = None

    @property
    def tokenizer(self) -> Any:
        """The one that reads `prompt`; None where blocks without a text encoder are given embeddings.

        Raises:
            GuidanceError: words are to be found without any.
        """
        found = getattr(self.pipe, "tokenizer", None) or getattr(self.pipe, "tokenizer_2", None)
        if found is None and self.prompts is not None:
            raise GuidanceError(
                "these blocks have no tokenizer, so words cannot be found; keep their text encoder, or say "
                "which tokens to guide by token_indices, and leave prompt out"
            )
        return found

    @property
    def parts(self) -> int:
        """One: each part comes in a call of its own."""
        return 1

    @property
    def steps(self) -> int:
        """Number of the loop's timesteps."""
        return super().steps if self._loop is None else len(self._loop.timesteps)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block, the loop's state is seen, and in which order the guider calls."""

        def step(inherited: Callable[..., Any], block: Any, pipe: Any, state: Any, **kwargs: Any) -> Any:
            self._loop = state
            return inherited(pipe, state, **kwargs)

        with super().attached(), ExitStack() as stack:
            stack.enter_context(lend(self.pipe.guider, prepare_inputs=_conditional_first))
            for block in _loops(self.pipe._blocks):
                stack.enter_context(lend(block, loop_step=step))
            yield

    def movable(self) -> Tensor | None:
        """The inside of the mask where a model of 4 channels keeps only that, see `Inpainting`."""
        mask, config = getattr(self._loop, "mask", None), self.pipe.unet.config
        further = config.in_channels > self.pipe.vae.config.latent_channels
        return None if further or mask is None else mask.float()


def _conditional_first(inherited: Callable[..., Any], guider: Any, *args: Any, **kwargs: Any) -> Any:
    batches = inherited(*args, **kwargs)
    first = getattr(batches[0], guider._identifier_key)
    if first != _CONDITIONAL:
        raise UnsupportedError(
            f"{type(guider).__name__} calls the denoiser first for {first!r}, and guidance must see the "
            f'conditional part, "{_CONDITIONAL}", first; use a guider such as ClassifierFreeGuidance'
        )
    return batches


def _loops(block: Any) -> Iterator[Any]:
    """All blocks that loop over timesteps, whichever of them is going to run."""
    if hasattr(block, "loop_step"):
        yield block
    for inner in getattr(block, "sub_blocks", {}).values():
        yield from _loops(inner)


MODULAR = {"StableDiffusionXLModularPipeline": ModularStableDiffusionXL}
"""By the class name of a pipeline."""
