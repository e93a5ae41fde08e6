"""Asks a CLIP or SigLIP how well an image fits a text with and without each word: what `check` rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from .errors import InputError
from .models import family_of
from .models.towers import TwoTowers
from .sentences import Sentence, alone, listed, numbered

COLOURS: Final = tuple("black blue brown gray green orange pink purple red white yellow".split())
OTHERS: Final = tuple(
    "person dog cat bird horse car bicycle boat airplane tree flower table chair bottle cup book clock phone "
    "apple banana cake hat bag lamp ball house".split()
)
"""What a word is exchanged for with a model of one's own: everyday things that look unlike each other."""
FEATURES: Final = ("with_without", "best_swap", "alone")
"""The measurements of a word, in the order of `Measured.features`; see `compare`."""
MOST_TOGETHER: Final = 5
"""Up to so many words every combination of them is tried as what the image may show."""


@dataclass(frozen=True)
class Measured:
    """What one image says of one word.

    Attributes:
        score: the model's logit of the whole sentence.
        controls: logits of the telling texts: without the word, and with the three likeliest others instead.
        features: `FEATURES`, in logits but for the last, which counts standard deviations.
    """

    score: float
    controls: Mapping[str, float]
    features: tuple[float, ...]


@dataclass(frozen=True)
class Comparer:
    """A model of two towers with what prepares its inputs, and the words that stand for other subjects.

    Args:
        model: a `CLIPModel` or `SiglipModel` of transformers in eval mode.
        processor: its processor, called as `processor(text=[...])` and `processor(images=[...])`.
        others: what a word is exchanged for.
    """

    model: nn.Module
    processor: Any
    others: tuple[str, ...] = OTHERS

    def __post_init__(self) -> None:
        if not isinstance(family_of(self.model), TwoTowers):
            raise InputError(
                f"check reads images against texts, with a CLIPModel or SiglipModel; got "
                f"{type(self.model).__name__}. A classifier can be given besides, as classifier="
            )
        if not callable(self.processor):
            raise InputError(
                "give the model's processor too, such as AutoProcessor.from_pretrained(the same name): the "
                "model alone cannot read words"
            )
        if len(self.others) < 3:
            raise InputError(f"wanted at least 3 others to exchange a word for, got {len(self.others)}")

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image], batch: int = 64) -> Float[Tensor, "image channel"]:
        """Unit embeddings, float32 on the CPU."""
        model: Any = self.model
        found = []
        for start in range(0, len(images), batch):
            pixels = self.pixels(images[start : start + batch])
            found.append(_unit(model.get_image_features(pixel_values=pixels)))
        return torch.cat(found)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 256) -> dict[str, Float[Tensor, "channel"]]:
        """The unit embedding of each text, float32 on the CPU."""
        model: Any = self.model
        unique = list(dict.fromkeys(texts))
        parts = [unique[start : start + batch] for start in range(0, len(unique), batch)]
        found = [_unit(model.get_text_features(**self.tokens(part))) for part in parts]
        return dict(zip(unique, torch.cat(found), strict=True))

    def pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "image 3 height width"]:
        """Images as the model takes them, where it is and in its type."""
        ready = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        like = next(self.model.parameters())
        return ready["pixel_values"].to(like.device, like.dtype)

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts as the model takes them: padded as it was trained.

        Raises:
            InputError: a text that is too long for the model.
        """
        model: Any = self.model
        longest = model.config.text_config.max_position_embeddings
        # SigLIP reads its last token, and was trained on texts padded to full length.
        padding = {"padding": "max_length", "max_length": longest} if self._pads_fully else {"padding": True}
        ready = self.processor(text=list(texts), return_tensors="pt", **padding)
        if ready["input_ids"].shape[1] > longest:
            raise InputError(
                f"the prompt is {ready['input_ids'].shape[1]} tokens long, and {type(self.model).__name__} "
                f"reads {longest}; leave the prompt out, and ask for fewer words at once"
            )
        names = ("input_ids", "attention_mask")
        like = next(self.model.parameters())
        return {name: ready[name].to(like.device) for name in names if name in ready}

    def fits(self, text: str) -> bool:
        """Whether the model reads the whole text."""
        try:
            self.tokens([text])
        except InputError:
            return False
        return True

    @property
    def _pads_fully(self) -> bool:
        return family_of(self.model).name == "SigLIP"

    def logits(
        self, image: Float[Tensor, "channel"], texts: Float[Tensor, "text channel"]
    ) -> Float[Tensor, "text"]:
        """The model's logits of these embeddings."""
        family = family_of(self.model)
        assert isinstance(family, TwoTowers)
        with torch.no_grad():
            cosines = (texts @ image)[:, None].to(next(self.model.parameters()).device)
            return family.compare(self.model, cosines)[:, 0].float().cpu()


class Question:
    """Some words, asked of any number of images: all texts that are compared, embedded once.

    Args:
        comparer: the model.
        words: at least one, each once.
        prompt: the sentence they stand in; None, or one that is too long for the model, makes one of them.
    """

    def __init__(self, comparer: Comparer, words: Sequence[str], prompt: str | None = None) -> None:
        self.comparer, self.words = comparer, tuple(words)
        if prompt is not None:
            Sentence(prompt, words)  # a word that is not there is an error, however long the prompt is
        whole = prompt is not None and comparer.fits(prompt)
        self.prompt = prompt if whole and prompt is not None else listed(words)
        self.sentence = Sentence(self.prompt, words)
        self.shown = _shown(self.words)
        texts = [self.sentence.without(gone) for gone in self.shown.values()]
        self.swaps = {word: self._swapped(word) for word in self.words}
        texts += [text for swapped in self.swaps.values() for text in swapped]
        texts += [alone(other) for other in (*self.others, *self._plain_words())]
        self.embeds = comparer.texts(texts)

    def measure(self, image: Float[Tensor, "channel"]) -> tuple[Measured, ...]:
        """The measurements of every word, see `compare`."""
        logits = self.comparer.logits(image, torch.stack([*self.embeds.values()])).tolist()
        scores = dict(zip(self.embeds, logits, strict=True))
        return tuple(self._measured(word, scores) for word in self.words)

    def _measured(self, word: str, scores: Mapping[str, float]) -> Measured:
        own = numbered(word)[0]
        contexts = {shown: scores[self.sentence.without(gone)] for shown, gone in self.shown.items()}
        whole, without = contexts[self.words], contexts[tuple(one for one in self.words if one != word)]
        swapped = {text: scores[text] for text in self.swaps[word]}
        others = [scores[alone(other)] for other in self.others if other != own]
        likeliest = sorted(swapped, key=lambda text: -swapped[text])[:3]
        controls = {self.sentence.without([word]): without} | {text: swapped[text] for text in likeliest}
        features = compare(
            [score for shown, score in contexts.items() if word in shown],
            [score for shown, score in contexts.items() if word not in shown],
            whole,
            [*swapped.values()],
            scores[alone(own)],
            others,
        )
        return Measured(whole, controls, features)

    @property
    def others(self) -> list[str]:
        """What a word is exchanged for: nothing that is asked about."""
        asked = {word.casefold() for word in self._plain_words()}
        heads = asked | {word.split()[-1] for word in asked}
        return [other for other in self.comparer.others if other.casefold() not in heads]

    def _plain_words(self) -> list[str]:
        return [numbered(word)[0] for word in self.words]

    def _swapped(self, word: str) -> list[str]:
        """The sentence with other subjects; of a coloured one also with other colours."""
        first, _, thing = numbered(word)[0].partition(" ")
        others = self.others
        if thing and first.casefold() in COLOURS:
            others = [f"{first} {other}" for other in others]
            others += [f"{colour} {thing}" for colour in COLOURS if colour != first.casefold()]
        return [self.sentence.exchanged(word, other) for other in others]


def compare(
    with_word: Sequence[float],
    without_word: Sequence[float],
    whole: float,
    swapped: Sequence[float],
    itself: float,
    others: Sequence[float],
) -> tuple[float, float, float]:
    """The features of a word, from logits.

    - with_without = log sum exp(s with the word) - log sum exp(s without it), over sentences that name other
      words or leave them out: a softmax's log odds that the word is shown, whichever of the others are;
    - best_swap = s(whole) - max s(whole with another subject instead);
    - alone = (s("a frog") - mean s("a cat", ...)) / deviation of the same.
    """
    rivals = torch.tensor(others, dtype=torch.float64)
    odds = [torch.tensor(scores, dtype=torch.float64).logsumexp(0) for scores in (with_word, without_word)]
    spread = max(float(rivals.std(correction=0)), 1e-6)
    return float(odds[0] - odds[1]), whole - max(swapped), (itself - float(rivals.mean())) / spread


def _shown(words: tuple[str, ...]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """What the image may show of the words, and what it then lacks.

    All combinations of few words; of many, none, one, two, all but one, and all.
    """
    count = len(words)
    sizes = range(count + 1) if count <= MOST_TOGETHER else (0, 1, 2, count - 1, count)
    shown = [found for size in sizes for found in combinations(words, size)]
    return {found: tuple(word for word in words if word not in found) for found in shown}


def _unit(features: Any) -> Float[Tensor, "row channel"]:
    embeds = (features if isinstance(features, Tensor) else features.pooler_output).float().cpu()
    return embeds / embeds.norm(dim=-1, keepdim=True)
