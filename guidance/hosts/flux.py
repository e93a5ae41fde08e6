"""Flux: joint attention, text first, over T5's text alone; latents packed two by two, rotary embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..calls import prompts_of
from ..denoiser import DenoiserCall
from ..joined import JoinedTokenizer, Stretch
from ..joint import Depth
from ..layers import Grid
from .base import Host, first_number
from .sd3 import SD3Call, TransformerHost
from .unets import MaskSeen


class FluxCall(SD3Call):
    """A call of Flux's transformer, whose latents are packed: a token holds 2 x 2 of them.

    Their places stand in `img_ids`, (image, row, column); tokens of another image than the first, such as
    those of Kontext's reference, are none of the latents. What stands behind the first channels of a token is
    none either: a mask, or an image to fill or to follow.
    """

    @property
    def grid(self) -> Grid:
        """(height, width) of the latents."""
        ids = self._ids[: self._tokens]
        return 2 * int(ids[:, 1].max() + 1), 2 * int(ids[:, 2].max() + 1)

    @property
    def _ids(self) -> Tensor:
        ids: Tensor = self.arguments["img_ids"]
        return ids[0] if ids.ndim == 3 else ids

    @property
    def _tokens(self) -> int:
        """How many tokens, the first ones, are latents."""
        return int((self._ids[:, 0] == 0).sum())

    @property
    def own(self) -> Tensor:
        """The part of the hidden states that is latents, still packed."""
        return self.sample[:, : self._tokens, : self.channels]

    def unpacked(self, sample: Tensor) -> Float[Tensor, "batch channel height width"]:
        """Tokens laid out as an image: channel c of a token at 4c to 4c + 3, its rows before its columns."""
        height, width = self.grid
        tokens = sample.unflatten(2, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))
        return tokens.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def packed(self, latents: Float[Tensor, "batch channel height width"]) -> Tensor:
        """An image's latents as tokens."""
        cells = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3, 5).flatten(1, 2)

    def rows(self, index: Int[Tensor, "row"]) -> DenoiserCall:
        """The same call for some of its images only; places are the same for all."""
        names = ("img_ids", "txt_ids")
        places = {name: self.arguments[name] for name in names if self.arguments.get(name) is not None}
        chosen = super().rows(index)
        return type(self)(self.module, {**chosen.arguments, **places}, self.scale, self.channels)

    def _with(self, latents: Tensor) -> dict[str, Any]:
        tokens = torch.cat([latents, self.sample[:, : self._tokens, latents.shape[2] :]], 2)
        whole = torch.cat([tokens, self.sample[:, self._tokens :]], 1)
        return {**self.arguments, self.sample_name: whole}


class FluxHost(TransformerHost):
    """One call of a Flux pipeline.

    Only T5's text is attended to (CLIP's moves the whole image): `prompt_2` where it is given. There is no
    classifier-free part; with true guidance the transformer is called twice a step, for the prompt first.
    """

    call_type = FluxCall
    stacks = ("transformer_blocks", "single_transformer_blocks")
    text = "first"
    depth = Depth("transformer_blocks", 15 / 19, 1.0)

    def __init__(
        self, pipe: Any, arguments: Mapping[str, Any], prompt: str | Sequence[str] | None = None
    ) -> None:
        super().__init__(pipe, arguments, prompt)
        second = self.arguments.get("prompt_2")
        if second and self.arguments.get("prompt_embeds") is None:
            self.prompts = prompts_of({"prompt": second})[0]

    @property
    def tokenizer(self) -> Any:
        """T5's tokenizer, with the length that the pipeline gives it."""
        length = int(self.arguments.get("max_sequence_length") or 512)
        return JoinedTokenizer(Stretch(self.pipe.tokenizer_2, length))

    @property
    def parts(self) -> int:
        """One: the prompt's own."""
        return 1

    @property
    def level(self) -> int:
        """Tokens are of 2 x 2 latents."""
        return 1

    def timestep(self, named: Mapping[str, Any]) -> Any:
        """The scheduler's timestep whose thousandth, rounded, the transformer is given."""
        timesteps = self.pipe.scheduler.timesteps
        distances = timesteps.float() - 1000 * first_number(named["timestep"])
        return timesteps[distances.abs().argmin()]

    def latent_channels(self, named: Mapping[str, Any]) -> int | None:
        """As many channels of a token as the transformer predicts."""
        transformer: Any = self.denoiser
        found = int(transformer.out_channels)
        return None if found == named["hidden_states"].shape[-1] else found


class FluxInpainting(MaskSeen, FluxHost):
    """What lies outside the mask, which is packed as latents are, is overwritten after each step."""

    _seen: FluxCall | None = None

    def call(self, named: Mapping[str, Any]) -> DenoiserCall:
        """A call of the transformer; it knows how the mask is packed."""
        self._seen = FluxCall(self.denoiser, named)
        return super().call(named)

    def movable(self) -> Tensor | None:
        """The inside of the mask."""
        if self._mask is None or self._seen is None:
            return None
        return self._seen.unpacked(self._mask[: self.images])[:, :1].float()


FLUX: dict[str, type[Host]] = {
    "FluxPipeline": FluxHost,
    "FluxImg2ImgPipeline": FluxHost,
    "FluxInpaintPipeline": FluxInpainting,
    "FluxFillPipeline": FluxHost,
    "FluxControlPipeline": FluxHost,
    "FluxKontextPipeline": FluxHost,
}
"""Flux's pipelines by class name."""
