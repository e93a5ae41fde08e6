"""Two towers, one for images and one for texts, compared by their ends: what CLIP and SigLIP share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError, TargetError
from ..wiring import Readout, Segment, SelfStep, Site, Wiring
from .common import ask_again, ask_function, check_call, check_image, check_tokens, grid_of
from .family import Family, Found, Reading, Target


class TwoTowers(Family):
    """Streams "image" and "text", each explained by its own tower; no attention lies between them.

    Rows are pairs: one image with each of k texts, one text with each of k images (the one is encoded once),
    or images and texts of the same number, the first with the first. The target is None, the pair's entry of
    `logits_per_image`, or a callable on the outputs that gives one score for every pair.
    """

    asked_by_inputs: ClassVar[bool] = True

    def wiring(self, model: Any) -> Wiring:
        """The image tower, then the text tower."""
        return Wiring(
            tuple(
                SelfStep(stream, Site(f"{name}.self_attn"))
                for stream, names in self.layers(model).items()
                for name in names
            )
        )

    def layers(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Every layer of both towers."""
        return {
            stream: tuple(
                f"{tower}.encoder.layers.{index}"
                for index in range(len(model.get_submodule(tower).encoder.layers))
            )
            for stream, tower in (("image", "vision_model"), ("text", "text_model"))
        }

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """An image of the right size, texts with words in them, and as many of both or one of one."""
        check_call(model, inputs, "input_ids", "pixel_values")
        config, text = model.config.vision_config, model.config.text_config
        check_image(inputs, config, interpolates=bool(inputs.get("interpolate_pos_encoding")))
        check_tokens(inputs, vocabulary=text.vocab_size, longest=text.max_position_embeddings)
        images, texts = len(inputs["pixel_values"]), len(inputs["input_ids"])
        if images != texts and 1 not in (images, texts):
            raise InputError(
                f"{images} images and {texts} texts are no pairs: pass one image, one text, or as many "
                "of both"
            )
        self.check_ends(model, inputs)
        for number, words in enumerate(self.words(model, inputs).any(dim=1).tolist()):
            if not words:
                raise InputError(f"text {number} is empty: it has no token besides start, end and padding")

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """A score for every pair.

        Raises:
            TargetError: a target that is neither None nor a callable.
        """
        images, texts = len(inputs["pixel_values"]), len(inputs["input_ids"])
        rows = max(images, texts)
        with torch.enable_grad():
            if callable(target):
                score, words, fixed = ask_function(target, outputs, rows, many=False)
            elif target is None:
                score, words, fixed = _score_of_pairs(images, texts), _pairs_in_words(images, texts), None
            else:
                raise TargetError(
                    f"got the target {target!r}, but what {self.name} is asked are its texts: pass only "
                    "those to explain as input_ids and None as target, or a callable that scores every pair"
                )
            scores = score(outputs)
        return Reading(
            scores=scores,
            targets=words,
            readouts=self.readouts(model, inputs, rows),
            segments=self._segments(model, inputs, rows),
            shared=frozenset(
                stream for stream, count in (("image", images), ("text", texts)) if count < rows
            ),
            fixed=fixed,
            score_of=score,
            coupled=callable(target),
        )

    def layer_scores(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        outputs: Any,
        reading: Reading,
        readout: Readout,
        hidden: Float[Tensor, "batch token channel"],
    ) -> Float[Tensor, "row"]:
        """The tower's end on the tokens of a lower layer, against the other's real embedding (LeGrad)."""
        image, text = outputs.image_embeds.detach(), outputs.text_embeds.detach()
        if readout.stream == "image":
            image = _unit(self.embed_image(model, hidden))
        else:
            text = _unit(self.embed_text(model, hidden, self.ends(model, inputs)))
        logits = self.compare(model, text @ image.T)
        answer = type(outputs)(
            logits_per_image=logits.T, logits_per_text=logits, image_embeds=image, text_embeds=text
        )
        return ask_again(reading, answer)

    @abstractmethod
    def readouts(self, model: Any, inputs: Mapping[str, Any], rows: int) -> tuple[Readout, ...]:
        """Where the image's and the text's embedding are read."""

    @abstractmethod
    def words(self, model: Any, inputs: Mapping[str, Any]) -> Bool[Tensor, "text token"]:
        """Which tokens mean something to a person."""

    @abstractmethod
    def ends(self, model: Any, inputs: Mapping[str, Any]) -> Int[Tensor, "text"]:
        """The position that a text's embedding is read from."""

    @abstractmethod
    def embed_image(
        self, model: Any, hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch embedding"]:
        """The embedding of an image whose last layer gave these tokens."""

    @abstractmethod
    def embed_text(
        self, model: Any, hidden: Float[Tensor, "batch token channel"], ends: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch embedding"]:
        """The embedding of a text whose last layer gave these tokens."""

    @abstractmethod
    def compare(self, model: Any, cosines: Float[Tensor, "text image"]) -> Float[Tensor, "text image"]:
        """The model's logits for these cosines."""

    def check_ends(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse texts whose embedding would be read from a wrong token."""

    def specials(self) -> int:
        """How many tokens come before the first patch."""
        return 0

    def _segments(self, model: Any, inputs: Mapping[str, Any], rows: int) -> tuple[Segment, ...]:
        grid = grid_of(inputs["pixel_values"], model.config.vision_config.patch_size)
        patches = slice(self.specials(), self.specials() + grid[0] * grid[1])
        tokens = slice(0, inputs["input_ids"].shape[1])
        words = self.words(model, inputs).expand(rows, -1)
        return Segment("image", "image", patches, grid=grid), Segment("text", "text", tokens, mask=words)


def attended(inputs: Mapping[str, Any]) -> Bool[Tensor, "text token"]:
    """The attention mask of the texts; all of them where there is none."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def _score_of_pairs(images: int, texts: int) -> Any:
    def score(outputs: Any) -> Tensor:
        rows = torch.arange(max(images, texts))
        return outputs.logits_per_image[rows * (images > 1), rows * (texts > 1)]

    return score


def _pairs_in_words(images: int, texts: int) -> tuple[str, ...]:
    return tuple(
        f"image {row * (images > 1)} with text {row * (texts > 1)}" for row in range(max(images, texts))
    )


def _unit(embeds: Float[Tensor, "batch embedding"]) -> Float[Tensor, "batch embedding"]:
    return embeds / embeds.norm(dim=-1, keepdim=True)
