"""Lets a pipeline that guides itself try again: the same call with a stronger nudge, or with other noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import torch

from ..explain import check
from ..explain.check import speaks_like_embedded
from ..guidance import GuidanceError, GuidedRun, UnsupportedError
from .retry import SEEDS, Checker, Tried, Try, best, plan

Draw = Callable[[float, Mapping[str, Any]], tuple[Any, GuidedRun]]
"""`draw(strength, changed)`: the host's output, as a value with names, for a call with changed arguments."""
_LARGEST_RANDOM_SEED: Final = 2**31


def redraw(
    arguments: Mapping[str, Any], draw: Draw, tries: int, checker: Checker
) -> tuple[Any, tuple[tuple[Tried, ...], ...]]:
    """Draw until every image of the call shows its words, at most `tries` times; each image has its own best.

    A batch is drawn again whole, and of each image only the tries up to its first that is heeded count.

    Args:
        arguments: all of the call's, by name.
        draw: draws once.
        tries: at most so many, the first one counted.
        checker: looks at one image.

    Returns:
        The host's output with the best images, and what was tried for each image.

    Raises:
        GuidanceError: less than one try.
    """
    noise = _Noise(arguments)
    tried: list[list[Tried]] = []
    flags: list[list[Any]] = []
    for one in plan(tries, 0, noise=noise.renewable):
        output, run = draw(one.strength, {**noise.of(one), "output_type": "pil", "return_dict": True})
        marks = getattr(output, "nsfw_content_detected", None) or [None] * len(output.images)
        tried, flags = tried or [[] for _ in output.images], flags or [[] for _ in output.images]
        for index, image in enumerate(output.images):
            if not (tried[index] and tried[index][-1].verdict.heeded):
                words = [span.label for span in run.spans[index]]
                verdict = checker(image, words, prompt=run.prompts[index])
                seed = noise.seed(one, index, len(tried))
                tried[index].append(Tried(one.strength, seed, image, verdict, run))
                flags[index].append(marks[index])
        if all(own[-1].verdict.heeded for own in tried):
            break
    chosen = [own.index(best(own)) for own in tried]
    images = [own[place].image for own, place in zip(tried, chosen, strict=True)]
    marks = [own[place] for own, place in zip(flags, chosen, strict=True)]
    detected = None if all(mark is None for mark in marks) else marks
    kept = {"images": images, "nsfw_content_detected": detected}
    named = {field.name: kept[field.name] for field in fields(output)}
    whole = arguments.get("return_dict", True)
    return type(output)(**named) if whole else tuple(named.values()), tuple(tuple(own) for own in tried)


def checked_call(pipe: Any, arguments: Mapping[str, Any], checker: Checker | None) -> Checker:
    """The checker to use, once the call was found to be one that can be checked.

    Raises:
        GuidanceError: words that are only token indices or embeddings, no checker for a model that the
            embedded CLIP does not know.
        UnsupportedError: an output that is no PIL image.
    """
    if arguments.get("output_type", "pil") != "pil":
        raise UnsupportedError(
            f'heeded_or_retry looks at images: leave output_type at "pil"; got {arguments["output_type"]!r}'
        )
    if arguments.get("token_indices") is not None or arguments.get("prompt") is None:
        raise GuidanceError(
            "heeded_or_retry looks for words: give prompt and words (or neither words nor token_indices)"
        )
    if checker is None and not speaks_like_embedded(pipe.tokenizer):
        raise GuidanceError(
            "heeded_or_retry needs checker= for this model, which is not the embedded one: "
            "functools.partial(heedful.explain.check, model=clip, processor=its_processor)"
        )
    return checker or check


class _Noise:
    """Where a call's noise comes from, so that a try can have the same again, or other."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        given = arguments.get("generator")
        if given is None:
            seed = int(torch.randint(_LARGEST_RANDOM_SEED, ()))
            given = torch.Generator("cpu").manual_seed(seed)
        self.given = given
        self.generators: Sequence[torch.Generator] = given if isinstance(given, list) else [given]
        self.states = [generator.get_state() for generator in self.generators]
        self.renewable = arguments.get("latents") is None
        self.used = False

    def of(self, one: Try) -> dict[str, Any]:
        """The generator of a try: first the caller's own, then copies of it, then others."""
        if not self.used:
            self.used = True
            return {"generator": self.given}
        made = []
        for generator, state in zip(self.generators, self.states, strict=True):
            fresh = torch.Generator(generator.device)
            if one.seed:
                fresh.manual_seed((generator.initial_seed() + one.seed) % SEEDS)
            else:
                fresh.set_state(state)
            made.append(fresh)
        return {"generator": made if isinstance(self.given, list) else made[0]}

    def seed(self, one: Try, index: int, images: int) -> int:
        """The seed of the generator that drew an image."""
        place = index if len(self.generators) == images else 0
        return (self.generators[place].initial_seed() + one.seed) % SEEDS
