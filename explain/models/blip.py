"""BLIP: which patches and which words make an image and a text match, by the head that looks at both."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from ..errors import InputError
from ..wiring import CrossStep, Readout, Segment, SelfStep, Site, Step, Wiring
from .common import ask_classes, ask_function, check_call, check_image, grid_of
from .family import Family, Found, Reading, Target
from .inputs import check_whole, check_words, word_segment
from .registry import register
from .targets import one_hot, touched

LABELS = {0: "no match", 1: "match"}
"""The classes of the matching head, which no config names."""


class Blip(Family):
    """BLIP for image-text matching (Li et al. 2022).

    Streams: "image", [CLS] and the patches, and "text", whose every layer attends to itself, then to the
    encoded image. The matching head reads the first word token.

    Target: None or "match" for the match logit; "no match", 0 or 1; a function of the outputs, read from the
    words that its gradient reaches.
    """

    name = "BLIP"
    classes = ("BlipForImageTextRetrieval",)
    refuses: ClassVar[Mapping[str, str]] = {
        "legrad": "the match rests on two streams; LeGrad lets the head read every layer of one encoder",
    }

    def wiring(self, model: Any) -> Wiring:
        """The image's layers, then for every layer of the text the words, and the words on the image."""
        steps: list[Step] = [
            SelfStep("image", Site(f"vision_model.encoder.layers.{layer}.self_attn"))
            for layer in range(len(model.vision_model.encoder.layers))
        ]
        for name in self._text_layers(model):
            steps.append(SelfStep("text", Site(f"{name}.attention.self")))
            steps.append(CrossStep("text", "image", Site(f"{name}.crossattention.self")))
        return Wiring(tuple(steps))

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Patches and words with their places."""
        return {"image": "vision_model.embeddings", "text": "text_encoder.embeddings"}

    def watches(self, model: Any) -> tuple[str, ...]:
        """The text's last layer, which the head reads."""
        return self._text_layers(model)[-1:]

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse an empty text, an image of another size, and the head that compares both towers apart."""
        check_call(model, inputs, "input_ids", "pixel_values")
        check_whole(inputs)
        if not inputs.get("use_itm_head", True):
            raise InputError(
                "use_itm_head=False compares image and text without attention between them: leave it out"
            )
        vision = model.config.vision_config
        size = SimpleNamespace(num_channels=3, image_size=vision.image_size, patch_size=vision.patch_size)
        check_image(inputs, size, interpolates=bool(inputs.get("interpolate_pos_encoding")))
        check_words(inputs, model.config.text_config, model.config.text_config.max_position_embeddings)
        images, texts = len(inputs["pixel_values"]), len(inputs["input_ids"])
        if images != texts:
            raise InputError(
                f"{images} images and {texts} texts: the head reads pairs, so repeat the image for each text"
            )

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """The scores of pairs, read from the first word token."""
        last = found.outputs[self.watches(model)[0]]
        batch = len(last)
        with torch.enable_grad():
            if callable(target):
                score, words, fixed = ask_function(target, outputs, batch, many=batch == 1)
                scores = score(outputs)
                weights = touched(scores, last)
            else:
                labels = SimpleNamespace(id2label=LABELS)
                pick, words, fixed = ask_classes(labels, outputs.itm_score, 1 if target is None else target)

                def score(outputs: Any) -> torch.Tensor:
                    return pick(SimpleNamespace(logits=outputs.itm_score))

                scores = score(outputs)
                first = torch.zeros(len(scores), dtype=torch.long, device=last.device)
                weights = one_hot(first, last.shape[1])
        height, width = grid_of(inputs["pixel_values"], model.config.vision_config.patch_size)
        image = Segment("image", "image", slice(1, 1 + height * width), grid=(height, width))
        text = word_segment("text", inputs, model.config.text_config.pad_token_id, len(scores))
        return Reading(
            scores=scores,
            targets=words,
            readouts=(Readout("text", weights),),
            segments=(image, text),
            shared=frozenset(("image", "text") if len(scores) > batch else ()),
            fixed=fixed,
            score_of=score,
            coupled=callable(target),
        )

    def _text_layers(self, model: Any) -> tuple[str, ...]:
        count = len(model.text_encoder.encoder.layer)
        return tuple(f"text_encoder.encoder.layer.{layer}" for layer in range(count))


register(Blip())
