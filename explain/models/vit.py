"""Image classifiers that are one tower of self-attention: ViT and DeiT, and the ground DINOv2 stands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..wiring import Readout, Segment, SelfStep, Site, Wiring
from .common import ask_again, ask_classes, ask_function, check_call, check_image, grid_of
from .family import Family, Found, Reading, Target
from .registry import register
from .targets import touched


class ImageClassifier(Family):
    """One stream, "image": special tokens first, then the patches, row by row.

    Rows: one for every image; several targets of a single image are a row each. A callable is read from the
    tokens that `logits` are read from, or where its gradient reaches others, in equal shares from those.
    """

    blocks: ClassVar[str] = "layers"
    """Where in the tower the layers are."""

    def wiring(self, model: Any) -> Wiring:
        """Self-attention over and over."""
        names = self.layers(model)["image"]
        return Wiring(tuple(SelfStep("image", Site(f"{name}.attention")) for name in names))

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Patches with their positions, and the special tokens."""
        return {"image": f"{model.base_model_prefix}.embeddings"}

    def layers(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Every layer of the tower."""
        name = f"{model.base_model_prefix}.{self.blocks}"
        return {"image": tuple(f"{name}.{index}" for index in range(len(model.get_submodule(name))))}

    def watches(self, model: Any) -> tuple[str, ...]:
        """The last layer, to see which tokens a callable reads."""
        return self.layers(model)["image"][-1:]

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """An image that has the model's size, or positions that are fitted to it."""
        check_call(model, inputs, "pixel_values")
        check_image(inputs, model.config, interpolates=self.interpolates(inputs))

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """The logits of the classes asked for; targets as `common.ask_classes` and `ask_function` have it."""
        pixels = inputs["pixel_values"]
        batch = len(pixels)
        with torch.enable_grad():
            if callable(target):
                score, words, fixed = ask_function(target, outputs, batch, many=batch == 1)
            else:
                score, words, fixed = ask_classes(model.config, outputs.logits, target)
            scores = score(outputs)
        grid, special = grid_of(pixels, model.config.patch_size), self.specials(model)
        weights = self.weights(model, grid[0] * grid[1]).to(pixels.device).expand(len(scores), -1)
        if callable(target):
            reached = touched(scores, found.outputs[self.watches(model)[0]])
            weights = torch.where(((reached > 0) == (weights > 0)).all(1, keepdim=True), weights, reached)
        patches = slice(special, special + grid[0] * grid[1])
        return Reading(
            scores=scores,
            targets=words,
            readouts=(Readout("image", weights),),
            segments=(Segment("image", "image", patches, grid=grid),),
            shared=frozenset({"image"} if len(scores) > batch else ()),
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
        """The model's last norm and head on the tokens of a lower layer (LeGrad, Bousselham et al. 2024)."""
        normed = model.get_submodule(model.base_model_prefix).layernorm(hidden)
        return ask_again(reading, type(outputs)(**self.head(model, normed)))

    def interpolates(self, inputs: Mapping[str, Any]) -> bool:
        """Whether positions are fitted to the size of the image: here when the call asks for it."""
        return bool(inputs.get("interpolate_pos_encoding"))

    def specials(self, model: Any) -> int:
        """How many tokens come before the first patch."""
        return 1

    def weights(self, model: Any, patches: int) -> Float[Tensor, "token"]:
        """Where the head reads: [CLS]."""
        weights = torch.zeros(self.specials(model) + patches)
        weights[0] = 1
        return weights

    def head(self, model: Any, normed: Float[Tensor, "batch token channel"]) -> dict[str, Tensor]:
        """The outputs that the head makes of normed tokens, by name."""
        return {"logits": model.classifier(normed[:, 0])}


class ViT(ImageClassifier):
    """Dosovitskiy et al. 2021: [CLS], then the patches; the head reads [CLS]."""

    name = "ViT"
    classes = ("ViTForImageClassification",)


class DeiT(ImageClassifier):
    """Touvron et al. 2021: [CLS], the distillation token, then the patches.

    The plain classifier reads [CLS]. The one with a teacher averages two heads, of which the first reads
    [CLS] and the second the distillation token: each has weight one half.
    """

    name = "DeiT"
    classes = ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")

    def specials(self, model: Any) -> int:
        """[CLS] and the distillation token."""
        return 2

    def weights(self, model: Any, patches: int) -> Float[Tensor, "token"]:
        """[CLS], or half of it and half of the distillation token."""
        weights = super().weights(model, patches)
        if hasattr(model, "distillation_classifier"):
            weights[:2] = 0.5
        return weights

    def head(self, model: Any, normed: Float[Tensor, "batch token channel"]) -> dict[str, Tensor]:
        """The logits, with a teacher also those of both heads."""
        if not hasattr(model, "distillation_classifier"):
            return super().head(model, normed)
        own = model.cls_classifier(normed[:, 0])
        distilled = model.distillation_classifier(normed[:, 1])
        return {"logits": (own + distilled) / 2, "cls_logits": own, "distillation_logits": distilled}


register(ViT())
register(DeiT())
