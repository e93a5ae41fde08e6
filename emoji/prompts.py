"""The prompts on which methods are compared: the Attend-and-Excite benchmark in this world's words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import Final, Literal

import numpy as np

from .captions import Named, caption_for
from .vocabulary import ANIMALS, COLOURS, HELD_OUT, OBJECTS, SUBJECTS, is_seen, label

Kind = Literal["animal-animal", "animal-object", "object-object", "single", "three"]
WORN: Final = ("bow", "crown", "glasses")
"""The objects of the 36 prompts "a X with a Y": what an animal may wear."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and what an image of it must show."""

    text: str
    named: tuple[Named, ...]
    """Its subjects, each with its colour or None, in its order."""
    kind: Kind

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects' names, without colours."""
        return tuple(name for name, _ in self.named)

    @property
    def labels(self) -> tuple[str, ...]:
        """What must be seen, colours included: ("frog", "red bow")."""
        return tuple(label(*named) for named in self.named)

    @property
    def held_out(self) -> bool:
        """Whether its subjects are one of the pairs that the diffusion model was never trained on."""
        return frozenset(self.subjects) in HELD_OUT


def benchmark(seed: int = 0) -> tuple[Prompt, ...]:
    """The 276 prompts of the Attend-and-Excite benchmark, one for each pair of the 24 subjects.

    Source: Chefer et al. 2023, section 4.1: 66 "a cat and a dog", 144 of an animal and an object ("a cat
    and a red apple", 36 of them "a cat with a bow"), 66 "a green chair and a yellow car". Couch stands in
    for bench, and the colours are drawn anew, from `seed`; which objects stand after "with" is this
    project's choice.
    """
    rng = np.random.default_rng([seed, 276])
    animals = [_prompt(((a, None), (b, None)), "animal-animal") for a, b in combinations(ANIMALS, 2)]
    mixed = [_mixed(animal, thing, rng) for animal, thing in product(ANIMALS, OBJECTS)]
    objects = []
    for first, second in combinations(OBJECTS, 2):
        colours = rng.choice(COLOURS, size=2, replace=False)
        objects.append(_prompt(((first, str(colours[0])), (second, str(colours[1]))), "object-object"))
    return (*animals, *mixed, *objects)


def held_out_prompts(seed: int = 0) -> tuple[Prompt, ...]:
    """Those 36 of the benchmark's prompts whose pair of subjects the diffusion model was never trained on."""
    return tuple(prompt for prompt in benchmark(seed) if prompt.held_out)


def seen_prompts(count: int, seed: int = 0) -> tuple[Prompt, ...]:
    """`count` of the benchmark's other 240 prompts, drawn without replacement, each kind by its share.

    Raises `ValueError` for more than there are.
    """
    return _shuffled_seen(seed)[: _checked(count)]


def tuning_prompts(count: int, seed: int = 0) -> tuple[Prompt, ...]:
    """`count` prompts to choose settings on: none of them is among `seen_prompts` of up to 240 - `count`."""
    return _shuffled_seen(seed)[240 - _checked(count) :]


def single_prompts() -> tuple[Prompt, ...]:
    """One prompt for each of the 24 subjects alone: "a cat"."""
    return tuple(_prompt(((name, None),), "single") for name in SUBJECTS)


def coloured_prompts(seed: int = 0) -> tuple[Prompt, ...]:
    """The 22 held-out pairs in which there is an object, each object in a colour drawn from `seed`.

    To tell whether colours go where they belong: other than in the benchmark, what is worn has a colour too,
    and for its other objects the colours are drawn again.
    """
    rng = np.random.default_rng([seed, 22])
    pairs = [prompt for prompt in held_out_prompts() if set(prompt.subjects) & set(OBJECTS)]
    return tuple(_prompt(_coloured(pair.subjects, rng), pair.kind, _linker(pair)) for pair in pairs)


def three_subject_prompts(seed: int = 0) -> tuple[Prompt, ...]:
    """Each of the 36 held-out pairs with a third subject: "a cat and a horse and a red bow".

    The third is drawn from `seed` among those that the diffusion model has seen with either of the two, so
    that one pair of the three is held out. Objects are coloured, each in a colour of its own.
    """
    rng = np.random.default_rng([seed, 3])
    return tuple(
        _prompt(_coloured((*pair.subjects, _third(pair.subjects, rng)), rng), "three")
        for pair in held_out_prompts()
    )


def _third(pair: tuple[str, ...], rng: np.random.Generator) -> str:
    known = [name for name in SUBJECTS if name not in pair and all(is_seen((name, one)) for one in pair)]
    return str(rng.choice(known))


def _coloured(names: tuple[str, ...], rng: np.random.Generator) -> tuple[Named, ...]:
    colours = iter(rng.choice(COLOURS, size=len(names), replace=False))
    return tuple((name, str(next(colours)) if name in OBJECTS else None) for name in names)


def _linker(prompt: Prompt) -> str:
    return " with " if " with " in prompt.text else " and "


def _prompt(named: tuple[Named, ...], kind: Kind, linker: str = " and ") -> Prompt:
    return Prompt(caption_for(named, linker=linker), named, kind)


def _mixed(animal: str, thing: str, rng: np.random.Generator) -> Prompt:
    if thing in WORN:
        return _prompt(((animal, None), (thing, None)), "animal-object", " with ")
    return _prompt(((animal, None), (thing, str(rng.choice(COLOURS)))), "animal-object")


def _shuffled_seen(seed: int) -> tuple[Prompt, ...]:
    """The seen prompts in a random order in which every stretch holds each kind by its share."""
    rng = np.random.default_rng([seed, 240])
    kinds: dict[str, list[Prompt]] = {}
    for prompt in benchmark(seed):
        if not prompt.held_out:
            kinds.setdefault(prompt.kind, []).append(prompt)
    places = []
    for group in kinds.values():
        offset = rng.random()
        order = rng.permutation(len(group))
        places += [((rank + offset) / len(group), group[index]) for rank, index in enumerate(order)]
    return tuple(prompt for _, prompt in sorted(places, key=lambda place: place[0]))


def _checked(count: int) -> int:
    most = len(SUBJECTS) * (len(SUBJECTS) - 1) // 2 - len(HELD_OUT)
    if not 0 <= count <= most:
        raise ValueError(f"there are {most} seen pairs, one prompt each; got count={count}")
    return count
