"""What the page's fields say, as settings and questions: empty fields are defaults, strange ones refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from ..emoji.cheating import Kind, marked_scene
from ..emoji.world import scenes
from ..explain import settings_of
from .errors import AttemptError, PageError
from .page_services import EMBEDDED, Question
from .probing import ALONE, SIMILARITY, ProbeQuestion
from .settings import AttemptSettings

OWN: Final = "default"
"""The scheduler that the model came with."""
TEXTS, CLASSES = "texts", "classes"
SEEN: Final = ("classifier", "judge", "clip", "cheater", "resnet")
"""The embedded models that can be probed, by the names of their folders."""
SCENES: Final = 9_300
"""The seed of the scenes that the third tab looks at: nothing was trained or measured on them."""


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


def asked_probe(
    image: Image.Image | None,
    more: Sequence[Image.Image],
    probe: str,
    model: str | None,
    other: str | None,
    count: int,
    point: tuple[float, float] | None = None,
) -> ProbeQuestion:
    """The third tab's fields as a question.

    Args:
        image: the one that is looked at; `more`: those that the user gave besides.
        count: so many fresh scenes of the emoji world are looked at by what wants many images, where the user
            gave none.

    Raises:
        PageError: without an image for what looks at one, or without a model.
    """
    named, second = (model or "").strip(), (other or "").strip()
    if not named or (probe == SIMILARITY and not second):
        raise PageError(f"name a model: {', '.join(SEEN)}, or a folder or hub id")
    if probe in ALONE:
        if image is None:
            raise PageError("there is no image: upload one, or take a scene")
        images: tuple[Image.Image, ...] = (image,)
    else:
        images = tuple(more) or fresh_scenes(int(count))
    return ProbeQuestion(probe, images, named, second, point)


def fresh_scenes(count: int) -> tuple[Image.Image, ...]:
    """Scenes of the emoji world, always the same ones."""
    return tuple(Image.fromarray(each.image) for each in scenes(SCENES, count))


def scene(number: int, kind: Kind) -> Image.Image:
    """A scene of one thing: "clean", or with the mark of another thing in a corner ("conflict")."""
    return Image.fromarray(marked_scene(SCENES * 1_000_000 + number, kind).scene.image)


def opened(files: Sequence[str] | None) -> tuple[Image.Image, ...]:
    """The images of uploaded files.

    Raises:
        PageError: for a file that is no image.
    """
    found = []
    for file in files or ():
        try:
            with Image.open(file) as image:
                found.append(flattened(ImageOps.exif_transpose(image)))
        except (OSError, Image.DecompressionBombError, ValueError, SyntaxError):
            raise PageError(f"{Path(file).name} is no image that can be read; leave it out") from None
    return tuple(found)


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
