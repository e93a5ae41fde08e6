"""What the page's fields say, as settings and questions: empty fields are defaults, strange ones refused."""

from __future__ import annotations

from typing import Final

from PIL import Image

from ..explain import settings_of
from .errors import AttemptError, PageError
from .page_services import EMBEDDED, Question
from .settings import AttemptSettings

OWN: Final = "default"
"""The scheduler that the model came with."""
TEXTS, CLASSES = "texts", "classes"


def asked_settings(
    prompt: str | None,
    words: str | None,
    model: str | None,
    seed: int | None,
    steps: int,
    scale: str | None,
    strength: float,
    scheduler: str,
    size: str | None,
    negative: str | None,
) -> AttemptSettings:
    """The form's fields as settings.

    Raises:
        AttemptError: a field that is no setting.
    """
    listed = tuple(word.strip() for word in words.split(",")) if words and words.strip() else None
    named = (model or "").strip()
    return AttemptSettings(
        prompt=(prompt or "").strip(),
        words=listed,
        model=None if named in ("", EMBEDDED) else named,
        seed=0 if seed is None else int(seed),
        steps=int(steps),
        guidance_scale=parsed_scale(scale),
        strength=float(strength),
        scheduler=None if scheduler == OWN else scheduler,
        size=parsed_size(size),
        negative_prompt=(negative or "").strip(),
    )


def parsed_size(text: str | None) -> tuple[int, int] | None:
    """`"768x512"` to (768, 512), width first; None for nothing.

    Raises:
        AttemptError: anything else.
    """
    given = (text or "").strip()
    if not given:
        return None
    sides = given.lower().split("x")
    if len(sides) != 2 or not all(side.strip().isdecimal() for side in sides):
        raise AttemptError(f'the size is width x height in pixels, such as 768x512; got "{given}"')
    return int(sides[0]), int(sides[1])


def parsed_scale(text: str | None) -> float | None:
    """`"7.5"` to 7.5; None for nothing.

    Raises:
        AttemptError: anything else.
    """
    if not (text or "").strip():
        return None
    try:
        return float(text or "")
    except ValueError:
        raise AttemptError(f'the guidance scale is a number, such as 7.5; got "{text}"') from None


def asked_question(
    image: Image.Image | None,
    kind: str,
    targets: str | None,
    method: str,
    layer: str | None,
    head: str | None,
    model: str | None,
    point: tuple[float, float] | None = None,
) -> Question:
    """The form's fields as a question.

    Raises:
        PageError: without an image, without a text where texts are asked for, or with a layer or head for a
            method that looks at no single one.
    """
    if image is None:
        raise PageError("there is no image: upload one, or take one that you have drawn")
    listed = tuple(dict.fromkeys(line.strip() for line in (targets or "").splitlines() if line.strip()))
    if kind == TEXTS and not listed:
        raise PageError('give one text or several to compare the image with, one a line, such as "a cat"')
    named = (model or "").strip()
    chosen = {"layer": parsed_number("layer", layer), "head": parsed_number("head", head)}
    for name, value in chosen.items():
        if value is not None and name not in settings_of(method):
            raise PageError(
                f"{method} looks at no single {name}; leave the {name} empty, or choose another method"
            )
    return Question(
        image=image,
        texts=listed if kind == TEXTS else (),
        labels=listed if kind == CLASSES and point is None else (),
        method=method,
        model=None if named in ("", EMBEDDED) else named,
        point=point,
        **chosen,
    )


def parsed_number(name: str, text: str | None) -> int | None:
    """`"3"` to 3; None for nothing.

    Raises:
        PageError: anything else.
    """
    if not (text or "").strip():
        return None
    try:
        return int(text or "")
    except ValueError:
        raise PageError(f'the {name} is a number from 0, such as 3; -1 is the last; got "{text}"') from None


def flattened(image: Image.Image) -> Image.Image:
    """The image in RGB, what is transparent in white."""
    found = image.convert("RGBA")
    paper = Image.new("RGBA", found.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, found).convert("RGB")
