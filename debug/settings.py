"""What one attempt asks for, as one frozen value that can be compared, stored, and typed as a command.

Light on purpose: it imports neither torch nor diffusers.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from .errors import AttemptError

LARGEST_SEED: Final = 2**63 - 1
MOST_STEPS: Final = 1000
STRONGEST: Final = 20.0


@dataclass(frozen=True)
class AttemptSettings:
    """All that decides what an attempt draws.

    Attributes:
        prompt: what to draw.
        words: words or phrases of the prompt that must be heeded; None for every content word.
        model: a folder or a hub id; None for the embedded model.
        seed: of the noise, which plain and guided image share.
        steps: denoising steps, 1 to 1000.
        guidance_scale: of classifier-free guidance, 0 to 100; None for the model's default (5 embedded).
        strength: how far guidance moves, 0 to 20: it multiplies the length of its step. 0 only looks.
        scheduler: a name of `pipelines.choices.SCHEDULERS`, or None for the model's own.
        size: (width, height) in pixels, or None for the model's own.
        negative_prompt: what to keep away from.

    Raises:
        AttemptError: a value outside its range, or text that no command line can hold.
    """

    prompt: str
    words: tuple[str, ...] | None = None
    model: str | None = None
    seed: int = 0
    steps: int = 30
    guidance_scale: float | None = None
    strength: float = 1.0
    scheduler: str | None = None
    size: tuple[int, int] | None = None
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        words = (self.words,) if isinstance(self.words, str) else self.words
        object.__setattr__(self, "words", None if words is None else tuple(words))
        object.__setattr__(self, "size", None if self.size is None else tuple(self.size))
        _check_texts(self)
        _check_number("seed", self.seed, 0, LARGEST_SEED, whole=True)
        _check_number("steps", self.steps, 1, MOST_STEPS, whole=True)
        _check_number("strength", self.strength, 0, STRONGEST)
        if self.guidance_scale is not None:
            _check_number("guidance_scale", self.guidance_scale, 0, 100)
        if self.size is not None and (
            len(self.size) != 2 or any(type(side) is not int or side < 8 for side in self.size)
        ):
            raise AttemptError(f"size must be (width, height), whole pixels from 8 on; got {self.size}")

    def command_line(self) -> str:
        """The `heedful generate` that makes the same two images, as a shell takes it."""
        parts = ["heedful", "generate"]
        for name, value in self._options():
            parts += [f"--{name}", value]
        if self.prompt.startswith("-"):
            parts.append("--")  # or it would be read as an option
        return shlex.join([*parts, self.prompt])

    def _options(self) -> list[tuple[str, str]]:
        options = [("words", word) for word in self.words or ()]
        if self.model is not None:
            options.append(("model", self.model))
        options += [("seed", str(self.seed)), ("steps", str(self.steps))]
        if self.guidance_scale is not None:
            options.append(("guidance-scale", f"{self.guidance_scale!r}"))
        if self.strength != 1:
            options.append(("strength", f"{self.strength!r}"))
        if self.scheduler is not None:
            options.append(("scheduler", self.scheduler))
        if self.size is not None:
            options.append(("size", f"{self.size[0]}x{self.size[1]}"))
        return [*options, *([("negative-prompt", self.negative_prompt)] if self.negative_prompt else [])]

    def to_dict(self) -> dict[str, Any]:
        """The settings in types that JSON knows."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AttemptSettings:
        """The settings from what `to_dict` gave; what is left out takes its default.

        Raises:
            AttemptError: a name that is no setting, no prompt, or a value outside its range.
        """
        known = [field.name for field in fields(cls)]
        strange = [str(name) for name in data if name not in known]
        if strange or "prompt" not in data:
            raise AttemptError(
                f"settings are a prompt and any of {', '.join(known[1:])}; got "
                f"{', '.join(map(str, data)) or 'nothing'}"
            )
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**given)


def _check_texts(settings: AttemptSettings) -> None:
    if not isinstance(settings.prompt, str) or not settings.prompt.strip():
        raise AttemptError('the prompt is empty; describe the image, such as "a cat and a frog"')
    texts = {"prompt": settings.prompt, "negative_prompt": settings.negative_prompt}
    for number, word in enumerate(settings.words or (), start=1):
        texts[f"word {number}"] = word
        if not isinstance(word, str) or not word.strip() or "," in word:
            raise AttemptError(f"words must be words or phrases without a comma; word {number} is {word!r}")
    if settings.words == ():
        raise AttemptError("words is empty; name words of the prompt, or leave it out for every content word")
    for name, text in texts.items():
        if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise AttemptError(
                f"the {name} holds a character that is no text (U+0000 or half of a pair); take it out"
            )


def _check_number(name: str, value: Any, least: float, most: float, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise AttemptError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if not least <= value <= most:
        raise AttemptError(f"{name} must lie in {least}..{most}, got {value}")
