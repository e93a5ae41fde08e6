"""Stable Diffusion 3 and 3.5: joint attention, image first, over the texts of CLIP and of T5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from ..denoiser import DenoiserCall
from ..joined import JoinedTokenizer, Stretch
from ..joint import Depth, at_depth, image_layers, joint_layers, native_attention, patch_level
from ..layers import Grid, Layer, LayerChoice, choose
from .base import Host
from .unets import Inpainting


class SD3Call(DenoiserCall):
    """A call of a transformer, whose latents are its hidden states."""

    sample_name = "hidden_states"


class TransformerHost(Host):
    """One call of a pipeline whose denoiser is a transformer with joint attention.

    Attributes:
        stacks: names of its lists of blocks, in the order in which they run.
        text: where the text stands in the joint sequence.
        depth: which blocks are read by default.
    """

    call_type = SD3Call
    denoiser_name = "transformer"
    stacks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    text: ClassVar[Any] = "last"
    depth: ClassVar[Depth] = Depth("transformer_blocks", 1 / 6, 13 / 24)

    def layers(self) -> tuple[Layer, ...]:
        """All joint attention, in the order in which it runs."""
        return joint_layers(self.denoiser, self.level, self.text, self.stacks)

    @property
    def level(self) -> int:
        """How often patches halve the latents' sides."""
        return patch_level(self.denoiser)

    def self_attention(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The image's attention over itself, taken from the same joint attention."""
        return image_layers(layers)

    def choose(self, layers: Sequence[Layer], grid: Grid, choice: LayerChoice) -> tuple[Layer, ...]:
        """The layers to read: by default those at `depth`, for all have one grid."""
        if choice is None:
            return at_depth(self.denoiser, layers, self.depth)
        return choose(layers, grid, choice)

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within the block attention is PyTorch's own, whatever backend was chosen."""
        with native_attention(self.denoiser), super().probing():
            yield

    def texts(self, name: str) -> Sequence[str] | None:
        """The texts that an encoder was given in an argument of its own, one a prompt; None for none."""
        given = self.arguments.get(name)
        if not given:
            return None
        return [given] * self.count if isinstance(given, str) else given


class SD3Host(TransformerHost):
    """One call of a Stable Diffusion 3 pipeline.

    The two CLIP encoders share the first 77 positions, T5's follow. A word has its tokens in both; where
    `prompt_2` or `prompt_3` gives an encoder another text, words are not looked for at its positions, but if
    no encoder had `prompt` to itself, then at CLIP's, where one of the two read it.
    """

    @property
    def tokenizer(self) -> Any:
        """CLIP's tokenizer and T5's, joined; CLIP's alone where T5 is left out."""
        clip, t5 = self.pipe.tokenizer or self.pipe.tokenizer_2, self.pipe.tokenizer_3
        length = self._t5_length()
        if t5 is None or length < 1:
            return clip
        other = self._other("prompt_3")
        first = Stretch(clip, self.pipe.tokenizer_max_length, self._other("prompt_2") - other)
        return JoinedTokenizer(first, Stretch(t5, length, other))

    def _t5_length(self) -> int:
        """How many positions hold what T5 says; without it they hold zeros."""
        embeds = self.arguments.get("prompt_embeds")
        if embeds is not None:
            return int(embeds.shape[1]) - int(self.pipe.tokenizer_max_length)
        return int(self.arguments.get("max_sequence_length") or 256) if self.pipe.text_encoder_3 else 0

    def _other(self, name: str) -> frozenset[str]:
        """The prompts in whose place an encoder was given another text."""
        texts = self.texts(name)
        if texts is None or self.prompts is None:
            return frozenset()
        pairs = zip(self.prompts, texts, strict=False)
        return frozenset(prompt for prompt, text in pairs if text != prompt)


class SD3Inpainting(Inpainting, SD3Host):
    """Inpainting, by a model of 16 channels or by one that is given mask and image besides."""


SD3: dict[str, type[Host]] = {
    "StableDiffusion3Pipeline": SD3Host,
    "StableDiffusion3Img2ImgPipeline": SD3Host,
    "StableDiffusion3InpaintPipeline": SD3Inpainting,
}
"""Stable Diffusion 3's pipelines by class name."""
