"""How like its prompt an image is, and how like the plain image of the same noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from ..emoji import Judge
from ..emoji.judge import to_tensor
from ..explain.comparing import Comparer
from ..explain.errors import InputError
from ..explain.sentences import alone
from .errors import EvaluationError
from .prompts import Prompt

TEMPLATES: Final = ("{}",)
"""The text alone. Attend-and-Excite's authors average over the 80 templates of ImageNet, as CLIP's had it."""
_LINKS: Final = re.compile(r" and | with ")
Captioner = Callable[["Sequence[Image]"], "list[str]"]
"""Says what images show, a sentence each."""
Features = Callable[["Sequence[Image]"], Tensor]
"""Images to unit vectors (image, channel)."""


class Likeness:
    """Similarities of Attend-and-Excite's evaluation (Chefer et al. 2023, section 5), cosines of -1 to 1.

    - full: of the image and the whole prompt;
    - minimum: the smaller of those of the image and each part of the prompt, "a cat" and "a red bow": the
      most neglected one;
    - caption: of the prompt and a caption of the image, both texts.

    A text's embedding is the mean of its embeddings within each template. Parts are what stands between "and"
    and "with" where that is one for each subject, else the subjects with their articles.
    """

    def __init__(
        self,
        comparer: Comparer,
        name: str,
        templates: Sequence[str] = TEMPLATES,
        captioner: Captioner | None = None,
    ) -> None:
        """`comparer`: a CLIP or SigLIP with its processor; `templates`: each with the text's place, {}.

        Raises:
            EvaluationError: no template, or one without a place.
        """
        if not templates or not all("{}" in one for one in templates):
            raise EvaluationError(
                f'wanted templates with {{}}, where the text stands, such as "a photo of {{}}"; got '
                f"{', '.join(templates) or 'none'}"
            )
        self.comparer, self.name, self.captioner = comparer, name, captioner
        self.templates = tuple(templates)
        self._known: dict[str, Tensor] = {}

    @property
    def told(self) -> dict[str, Any]:
        """Model and templates, as JSON takes them."""
        return {"CLIP": self.name, "templates": list(self.templates)}

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse, before anything is drawn, a prompt that is too long for the model.

        Raises:
            EvaluationError: with that prompt.
        """
        for prompt in prompts:
            try:
                self._text(prompt.text)
            except InputError as problem:
                raise EvaluationError(
                    f'the prompt "{prompt.text}" cannot be compared: {problem}'
                ) from problem

    def measure(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """By name the similarities of each image, with the caption where there is one that captions."""
        embeds = self.comparer.images(list(images))
        captions = self.captioner(images) if self.captioner is not None else None
        found: list[dict[str, Any]] = []
        for row, prompt in enumerate(prompts):
            whole = self._text(prompt.text)
            own: dict[str, Any] = {
                "full": float(whole @ embeds[row]),
                "minimum": min(float(self._text(part) @ embeds[row]) for part in parts(prompt)),
            }
            if captions is not None:
                own["caption"] = captions[row]
                own["by caption"] = float(self._text(self._fitting(captions[row])) @ whole)
            found.append(own)
        return found

    def features(self, images: Sequence[Image]) -> Float[Tensor, "image channel"]:
        """The unit embeddings of images."""
        return self.comparer.images(list(images))

    def _text(self, text: str) -> Float[Tensor, "channel"]:
        if text not in self._known:
            embeds = self.comparer.texts([one.replace("{}", text) for one in self.templates])
            mean = torch.stack([*embeds.values()]).mean(0)
            self._known[text] = mean / mean.norm()
        return self._known[text]

    def _fitting(self, caption: str) -> str:
        """As many of its words as the model reads: nobody knows how long a caption gets."""
        words = caption.split()
        while len(words) > 1 and not all(
            self.comparer.fits(one.replace("{}", " ".join(words))) for one in self.templates
        ):
            words.pop()
        return " ".join(words) or "nothing"


def parts(prompt: Prompt) -> tuple[str, ...]:
    """A text for each subject: the prompt's own words where they can be told apart."""
    own = tuple(part.strip() for part in _LINKS.split(prompt.text))
    named = all(label in part for label, part in zip(prompt.labels, own, strict=False))
    return own if len(own) == len(prompt.labels) and named else tuple(map(alone, prompt.labels))


def judge_features(judge: Judge) -> Features:
    """The embedded judge's view of images: what its answers are read from, as unit vectors."""

    @torch.inference_mode()
    def features(images: Sequence[Image]) -> Float[Tensor, "image channel"]:
        model: Any = judge.model
        pixels = to_tensor(images, side=model.config.image_size)
        hidden = model.vit(pixels.to(model.device, model.dtype)).last_hidden_state[:, 0].float().cpu()
        return hidden / hidden.norm(dim=1, keepdim=True)

    return features


def captioner(model: Any, processor: Any, longest: int = 24) -> Captioner:
    """What a model such as `BlipForConditionalGeneration` says of images, without sampling.

    Args:
        model: in eval mode, and `processor` its own.
        longest: tokens of a caption.
    """

    @torch.inference_mode()
    def say(images: Sequence[Image]) -> list[str]:
        ready = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        like = next(model.parameters())
        pixels = ready["pixel_values"].to(like.device, like.dtype)
        said = model.generate(pixel_values=pixels, max_new_tokens=longest, do_sample=False)
        return [text.strip() for text in processor.batch_decode(said, skip_special_tokens=True)]

    return say
