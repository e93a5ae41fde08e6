"""Is each word of a prompt in the image? One call from image and words to a `Verdict`, with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from .calibration import Calibration
from .classified import Witness
from .comparing import FEATURES, OTHERS, Comparer, Measured, Question
from .errors import InputError
from .relevance import explain, model_name, versions
from .sentences import alone, numbered
from .verdict import HEEDED, NEGLECTED, UNSURE, ClassifierEvidence, Said, Verdict, WordVerdict

MARGIN: Final = 1.0
"""Of a model without calibration: by how many logits a word must win or lose to be judged."""
RIVALS: Final = 6
"""How many other things a word's relevance is read against, besides the other words."""


@overload
def check(
    image: Image.Image,
    words: Sequence[str],
    *,
    prompt: str | None = ...,
    model: nn.Module | None = ...,
    processor: Any = ...,
    classifier: Any = ...,
    calibration: Calibration | None = ...,
    others: Sequence[str] | None = ...,
    relevance: bool = ...,
    device: str | torch.device | None = ...,
    dtype: torch.dtype | None = ...,
) -> Verdict: ...


@overload
def check(
    image: Sequence[Image.Image],
    words: Sequence[str] | Sequence[Sequence[str]],
    *,
    prompt: str | Sequence[str] | None = ...,
    model: nn.Module | None = ...,
    processor: Any = ...,
    classifier: Any = ...,
    calibration: Calibration | None = ...,
    others: Sequence[str] | None = ...,
    relevance: bool = ...,
    device: str | torch.device | None = ...,
    dtype: torch.dtype | None = ...,
) -> list[Verdict]: ...


def check(
    image: Any,
    words: Sequence[Any],
    *,
    prompt: str | Sequence[str] | None = None,
    model: nn.Module | None = None,
    processor: Any = None,
    classifier: Any = None,
    calibration: Calibration | None = None,
    others: Sequence[str] | None = None,
    relevance: bool = True,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Verdict | list[Verdict]:
    """Say of each word whether the image shows it: heeded, neglected or unsure, and by what evidence.

    The sentence is scored with the word, without it, and with other subjects in its place, by a CLIP or
    SigLIP (`comparing.compare` has the formulas). A calibration turns the comparison into a probability p:
    *unsure* where |p - 1/2| is less than its band, else *heeded* or *neglected*. Without one, a word is
    *heeded* if both with_without and best_swap are at least 1 logit, *neglected* if with_without is at most
    -1, else *unsure*. Where a classifier says the opposite, and for a word's second place in a prompt (no
    score counts frogs), the verdict is *unsure*.

    Args:
        image: a PIL image of any size, or several; then the answer is a list.
        words: words or phrases ("frog", "red bow", "dog#2"); for several images one list for all, or a list
            for each.
        prompt: the sentence in which they stand, one for all images or one for each; None makes "a cat and a
            frog" of them, as does a prompt that is too long for the model.
        model: a `CLIPModel` or `SiglipModel` of transformers in eval mode; None for the embedded CLIP, which
            knows the emoji world alone and comes calibrated.
        processor: the model's processor, such as `AutoProcessor.from_pretrained` gives.
        classifier: an image classifier of transformers as a second witness, see `classified.Witness`.
        calibration: made by `calibrate` for this model.
        others: what words are exchanged for; None for the calibration's, else `comparing.OTHERS`.
        relevance: whether to compute the maps; the verdict does not depend on them.
        device, dtype: of the embedded CLIP; None takes CUDA and float16 where there is such a device, else
            the CPU and float32. A model of one's own is used as it is.

    Raises:
        InputError: no image, no words, words twice or not in the prompt, a model without its processor.
        UnknownFamilyError: a model that no adapter takes.
    """
    several = isinstance(image, list | tuple)
    images = _images(image)
    asked = _one_an_image(_as_list(words), len(images))
    prompts = [prompt] * len(images) if prompt is None or isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(images):
        raise InputError(f"got {len(prompts)} prompts for {len(images)} images; pass one, or one for each")
    if model is None:
        if processor is not None:
            raise InputError("a processor came without its model")
        model, processor = _embedded_model(device, dtype)
        calibration = calibration or _embedded_calibration()
    elif device is not None or dtype is not None:
        raise InputError("device and dtype are for the embedded model; move your own before you pass it")
    names = calibration.others if others is None and calibration else tuple(others or OTHERS)
    comparer = Comparer(model.eval(), processor, names)
    verdicts = _verdicts(comparer, calibration, classifier, images, asked, prompts, relevance)
    return verdicts if several else verdicts[0]


def _verdicts(
    comparer: Comparer,
    calibration: Calibration | None,
    classifier: Any,
    images: Sequence[Image.Image],
    asked: Sequence[tuple[str, ...]],
    prompts: Sequence[str | None],
    relevance: bool,
) -> list[Verdict]:
    embeds = comparer.images(images)
    questions: dict[tuple[Any, ...], tuple[Question, Witness | None]] = {}
    found = []
    for image, embed, words, prompt in zip(images, embeds, asked, prompts, strict=True):
        if (words, prompt) not in questions:
            witness = None if classifier is None else Witness(classifier, words)
            questions[words, prompt] = Question(comparer, words, prompt), witness
        question, witness = questions[words, prompt]
        measured = question.measure(embed)
        seen = witness.ask(image, relevance=relevance) if witness else {}
        maps = _relevance(question, image) if relevance else [None] * len(words)
        entries = tuple(
            _word(word, one, calibration, seen.get(word), map_, _apart(maps, index))
            for index, (word, one, map_) in enumerate(zip(words, measured, maps, strict=True))
        )
        settings = {
            "calibrated": calibration is not None,
            "band": calibration.band if calibration else None,
            "margin": None if calibration else MARGIN,
            "others": list(comparer.others),
            "classifier": model_name(witness.model) if witness else None,
        }
        found.append(
            Verdict(
                words=entries,
                image_size=image.size,
                prompt=question.prompt,
                model=model_name(comparer.model),
                settings=settings,
                versions=versions(),
                image=image,
            )
        )
    return found


def _word(
    word: str,
    measured: Measured,
    calibration: Calibration | None,
    seen: ClassifierEvidence | None,
    relevance: Tensor | None,
    apart: float | None,
) -> WordVerdict:
    features = dict(zip(FEATURES, measured.features, strict=True))
    known = calibration is not None and calibration.knows(word)
    probability = calibration.probability(measured.features) if calibration and known else None
    verdict, reason = judged(features, probability, calibration.band if calibration else None)
    if numbered(word)[1] > 1:
        verdict, reason = UNSURE, "no score counts how often a thing is there"
    elif calibration and not known:
        verdict, reason = UNSURE, "the model was not calibrated for this word"
    elif seen and seen.sees is not None and verdict != UNSURE and seen.sees != (verdict == HEEDED):
        verdict, reason = UNSURE, f"the classifier says {'heeded' if seen.sees else 'neglected'}"
    return WordVerdict(
        word=word,
        verdict=verdict,
        probability=probability,
        score=measured.score,
        controls=measured.controls,
        features=features,
        relevance=relevance,
        apart=apart,
        classifier=seen,
        reason=reason,
    )


def judged(features: dict[str, float], probability: float | None, band: float | None) -> tuple[Said, str]:
    """The verdict of `check` by its rule, and why it is "unsure" (else an empty text)."""
    if probability is not None and band is not None:
        if abs(probability - 0.5) < band:
            return UNSURE, f"the probability is within {band:g} of 1/2"
        return (HEEDED if probability > 0.5 else NEGLECTED), ""
    odds, swap = features["with_without"], features["best_swap"]
    if odds >= MARGIN and swap >= MARGIN:
        return HEEDED, ""
    if odds <= -MARGIN:
        return NEGLECTED, ""
    return UNSURE, f"no control is {MARGIN:g} logit away, and the model is not calibrated"


def _relevance(question: Question, image: Image.Image) -> list[Float[Tensor, "_rows _columns"] | None]:
    """What each word alone is recognised by, against the other words and a few other things."""
    comparer = question.comparer
    words = [alone(numbered(word)[0]) for word in question.words]
    rivals = [alone(other) for other in question.others[:RIVALS]]
    texts = list(dict.fromkeys([*words, *rivals]))
    inputs = {**comparer.tokens(texts), "pixel_values": comparer.pixels([image])}

    def odds(outputs: Any) -> Tensor:
        logits = outputs.logits_per_image[0]
        rest = [torch.cat([logits[:row], logits[row + 1 :]]).logsumexp(0) for row in range(len(logits))]
        return logits - torch.stack(rest)

    maps = explain(comparer.model, inputs, odds).image
    return [None if maps is None else maps[texts.index(word)] for word in words]


def _apart(maps: Sequence[Float[Tensor, "_rows _columns"] | None], index: int) -> float | None:
    """1 - max over other words of sum min(p, q), with maps divided by their sums; 1 for a map of nothing."""
    own = maps[index]
    if own is None:
        return None
    shares = [
        one / one.sum().clamp(min=1e-12)
        for one in (own, *maps[:index], *maps[index + 1 :])
        if one is not None
    ]
    return 1.0 - max((float(torch.minimum(shares[0], other).sum()) for other in shares[1:]), default=0.0)


@lru_cache(maxsize=1)
def _embedded_calibration() -> Calibration:
    from ..emoji.models import model_folder

    return Calibration.load(model_folder("clip") / "calibration.json")


@lru_cache(maxsize=2)
def _embedded_model(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[nn.Module, Any]:
    from ..emoji.models import load_clip

    model, tokenizer = load_clip(device, dtype)
    return model, _EmojiProcessor(tokenizer)


def embedded_comparer(device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Comparer:
    """The embedded CLIP with what its words are exchanged for: the subjects of its world."""
    from ..emoji.vocabulary import SUBJECTS

    model, processor = _embedded_model(device, dtype)
    return Comparer(model, processor, SUBJECTS)


def speaks_like_embedded(tokenizer: Any) -> bool:
    """Whether a text encoder reads the words of the embedded world, whose images the default model knows."""
    _, processor = _embedded_model(None, None)
    vocabulary: Any = getattr(tokenizer, "get_vocab", dict)()
    return bool(vocabulary == processor.tokenizer.get_vocab())


class _EmojiProcessor:
    """Prepares what the embedded CLIP takes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(
        self, text: list[str] | None = None, images: list[Image.Image] | None = None, **options: Any
    ) -> Any:
        from ..emoji.judge import to_tensor

        return {"pixel_values": to_tensor(images)} if images is not None else self.tokenizer(text, **options)


def _images(given: Any) -> list[Image.Image]:
    images = list(given) if isinstance(given, list | tuple) else [given]
    for one in images:
        if not isinstance(one, Image.Image):
            raise InputError(
                f"wanted PIL images, got {type(one).__name__}; Image.fromarray makes one of an array"
            )
    if not images:
        raise InputError("there is no image to check")
    return images


def _as_list(words: Sequence[Any]) -> list[Any]:
    return [words] if isinstance(words, str) else list(words)


def _one_an_image(words: list[Any], count: int) -> list[tuple[str, ...]]:
    if words and all(isinstance(word, str) for word in words):
        each = [tuple(words)] * count
    elif len(words) == count and not any(isinstance(word, str) for word in words):
        each = [tuple(own) for own in words]
    else:
        raise InputError(f"words must be words, or a list of words for each of {count} images; got {words!r}")
    for own in each:
        folded = [word.strip().casefold() for word in own]
        if not own or not all(folded) or len(set(folded)) != len(folded):
            raise InputError(
                f'wanted at least one word, each once, such as ["cat", "frog"]; got {list(own)!r}'
            )
    return each
