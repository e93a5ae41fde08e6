"""The front door: one call from a model and its inputs to relevance maps, and the value that holds them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ..pictures import draw
from . import methods
from .errors import InputError
from .models import Reading, family_of
from .models.family import Target
from .picture import picture

FORMAT: Final = "heedful.relevance/1"
"""What a saved file says of itself."""
_MAPS: Final = ("image", "text", "regions", "target_text")


@dataclass(frozen=True, eq=False)
class Relevance:
    """What a model's answers rest on, row by row: a row is one target of one input.

    Attributes:
        targets: what is explained, in words, one a row.
        scores: the model's own score of each target, as it left the model (a logit, mostly).
        image: relevance of the patches, on the grid of the model's input, rows first; None without an image.
        text: relevance of the tokens, as long as `input_ids`; 0 at padding and special tokens.
        regions: relevance of the regions that were given as features.
        target_text: relevance of the tokens that a decoder has written, as long as `decoder_input_ids`.
        words: the tokens as text, where they were known.
        signed: whether negative values speak against the target; else all that counts is how large they are.
        method: its name, and `settings`, all of them.
        model: class and name of the model.
        versions: of heedful and the libraries it stands on.

    Values have the method's own scale and are float32 on the CPU.

    Raises:
        InputError: if there is no map, or rows do not match the targets.
    """

    targets: tuple[str, ...]
    scores: tuple[float, ...]
    image: Float[Tensor, "row height width"] | None = None
    text: Float[Tensor, "row token"] | None = None
    regions: Float[Tensor, "row region"] | None = None
    target_text: Float[Tensor, "row written"] | None = None
    words: tuple[tuple[str, ...], ...] | None = None
    signed: bool = False
    method: str = "libra"
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.targets)
        counts = {name: len(found) for name, found in self.maps.items()} | {"scores": len(self.scores)}
        if not self.maps or rows == 0 or any(count != rows for count in counts.values()):
            raise InputError(f"wanted maps and scores with one row for each of {rows} targets, got {counts}")
        if self.words is not None:
            lengths = [len(row) for row in self.words]
            if self.text is None or lengths != [self.text.shape[1]] * rows:
                wanted = "no text" if self.text is None else f"{rows} rows of {self.text.shape[1]} tokens"
                raise InputError(
                    f"words must match the text's tokens: wanted {wanted}, got rows of {lengths}"
                )

    @property
    def maps(self) -> dict[str, Tensor]:
        """Those of `image`, `text`, `regions` and `target_text` that are there."""
        return {name: getattr(self, name) for name in _MAPS if getattr(self, name) is not None}

    def overlay(self, image: Image.Image, row: int = 0, *, alpha: float = 0.6) -> Image.Image:
        """Lay a row's map over the image that the model saw; the largest value glows most.

        Unsigned maps are stretched from their least to their largest value; signed ones keep 0, and what
        speaks against the target glows blue. Compare colours within one picture, values between pictures.

        Raises:
            InputError: without an image map, or for a row that is not there.
        """
        heat = draw.scaled(self._image()[self._row(row)], signed=self.signed)
        return draw.overlay(image, heat, alpha=alpha, signed=self.signed)

    def upsample(
        self, size: tuple[int, int], mode: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    ) -> Float[Tensor, "row _height _width"]:
        """The image maps in pixels; `size` is (height, width), and no value leaves the range of its map.

        Raises:
            InputError: without an image map, or for a size that is not positive.
        """
        maps = self._image()
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"size must be (height, width) in pixels, at least (1, 1); got {tuple(size)}")
        smooth = {} if mode == "nearest" else {"align_corners": False}
        large = nn.functional.interpolate(maps[:, None], size=tuple(size), mode=mode, **smooth)[:, 0]
        return large.clamp(maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True))

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `Relevance.load` reads it."""
        from safetensors.torch import save_file

        told = {
            name: getattr(self, name) for name in ("targets", "scores", "words", "signed", "method", "model")
        }
        told |= {"settings": dict(self.settings), "versions": dict(self.versions)}
        tensors = {name: found.contiguous() for name, found in self.maps.items()}
        save_file(tensors, str(path), metadata={"format": FORMAT, "record": json.dumps(told, default=str)})

    @classmethod
    def load(cls, path: str | Path) -> Relevance:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is not there, or is none of these.
        """
        tensors, record = _opened(Path(path))
        try:
            told: dict[str, Any] = json.loads(record)
            words = told.pop("words")
            told["words"] = words and tuple(tuple(row) for row in words)
            told |= {name: tuple(told.pop(name)) for name in ("targets", "scores")}
            return cls(**{**told, **tensors})
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise InputError(f"the relevance file {path} is damaged: {_first_line(problem)}") from problem

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(found.shape)}" for name, found in self.maps.items())
        shown = ", ".join(self.targets[:3]) + (", ..." if len(self.targets) > 3 else "")
        return f"Relevance({self.method}, {'signed, ' if self.signed else ''}{shapes}, targets: {shown})"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        picture(self).save(buffer, "png")
        return buffer.getvalue()

    def _image(self) -> Tensor:
        if self.image is None:
            there = " and ".join(self.maps)
            raise InputError(
                f"this relevance has no image map, only {there}; {self.model} was given no image"
            )
        return self.image

    def _row(self, row: int) -> int:
        count = len(self.targets)
        if not -count <= row < count:
            raise InputError(
                f"there is no row {row}; there are {count}, counted from 0: {', '.join(self.targets)}"
            )
        return row


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: Target = None,
    method: str = "libra",
    *,
    words: Sequence[Sequence[str]] | None = None,
    **settings: Any,
) -> Relevance:
    """Say which patches, words and regions a model's score rests on.

    Args:
        model: a model of transformers in eval mode, as it was loaded; frozen or not, on any device. It is
            left as it was.
        inputs: the mapping that the model itself takes, such as what a processor returns; tensors are moved
            to the model's device, and floating ones to its type.
        target: a class id, a label, a text, a box index, several of them (one row each, from one forward), or
            a function of the model's outputs that returns one score a row. None: the predicted class, or the
            image-text score.
        method: one of `heedful.explain.METHODS`. The default is the one that the evidence supports
            (docs/evidence.md); "generic" is the same rule on plain gradients, as its paper has it.
        words: the text's tokens as text, one sequence a text, for pictures. A tokenizer's `BatchEncoding`
            knows them itself.
        settings: the method's own, such as `start_layer=3` or `signed=True`.

    Raises:
        InputError: inputs that are no such mapping, or settings that the method does not take.
        TargetError: a label, class, text or box that is not there.
        UnknownFamilyError: a model that no adapter takes.
        UnsupportedMethodError: a method that is not there, or has no meaning for this family: it says why.
        CaptureError: attention that cannot be read as it should be.
    """
    model = getattr(model, "_orig_mod", model)  # a compiled model runs eagerly under capture
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch module, such as a CLIPModel; got {type(model).__name__}")
    family = family_of(model)
    moved = prepared(model, inputs)
    reading, streams, signed = methods.relevance_of(model, family, moved, target, method, settings)
    maps = _cut(reading, streams)
    return Relevance(
        targets=reading.targets,
        scores=tuple(reading.scores.detach().float().tolist()),
        **maps,
        words=_words(inputs, words, maps.get("text")),
        signed=signed,
        method=method,
        settings={**methods.settings_of(method), **settings},
        model=model_name(model),
        versions=versions(),
    )


def prepared(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs on the model's device, floating ones in its type.

    Raises:
        InputError: for anything but a mapping of tensors (and options such as `interpolate_pos_encoding`).
    """
    if not isinstance(inputs, Mapping) or not inputs:
        came = "an empty one" if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(
            "inputs must be the mapping that the model takes, such as processor(images=image, "
            f'return_tensors="pt"); got {came}'
        )
    like = next((one for one in model.parameters() if one.is_floating_point()), torch.empty(0))
    return {str(name): _moved(str(name), value, like) for name, value in inputs.items()}


def _moved(name: str, value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f'inputs["{name}"] must be a tensor, got {type(value).__name__}; ask tokenizer and processor for '
        'return_tensors="pt"'
    )


def _cut(reading: Reading, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each modality's own part of its stream, (row, ...), float32 on the CPU."""
    found: dict[str, Tensor] = {}
    for segment in reading.segments:
        if segment.stream not in streams or segment.kind in found:
            continue
        values = streams[segment.stream][:, segment.positions].detach().float().cpu()
        if segment.mask is not None:
            values = values.masked_fill(~segment.mask.cpu(), 0.0)
        found[segment.kind] = values.unflatten(1, segment.grid) if segment.grid else values
    return found


def _words(
    inputs: Mapping[str, Any], given: Sequence[Sequence[str]] | None, text: Tensor | None
) -> tuple[tuple[str, ...], ...] | None:
    if given is None and text is not None and getattr(inputs, "is_fast", False):
        given = [inputs.tokens(index) for index in range(len(inputs["input_ids"]))]  # type: ignore[attr-defined]
    if given is None or text is None:
        return None
    rows = [tuple(row) for row in given]
    return tuple(rows * len(text) if len(rows) == 1 else rows)


def model_name(model: nn.Module) -> str:
    """Its class, and the name it was loaded by."""
    config = getattr(model, "config", None)
    name = str(getattr(config, "_name_or_path", "") or "")
    # A folder's own name says enough, and a result that is passed on should not tell where it lay.
    short = Path(name).name if Path(name).is_absolute() else name
    return f"{type(model).__name__} {short}".strip()


def versions() -> dict[str, str]:
    """Of heedful and the libraries whose numerics a result depends on."""
    found = {}
    for name in ("heedful", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _opened(path: Path) -> tuple[dict[str, Tensor], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as problem:
        raise InputError(f"cannot read the relevance file {path}: {_first_line(problem)}") from problem
    if about.get("format") != FORMAT or not set(tensors) <= set(_MAPS):
        raise InputError(
            f'{path} is no relevance file of this version: wanted format "{FORMAT}", '
            f'got "{about.get("format")}"; Relevance.save writes one'
        )
    return tensors, about.get("record", "")


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
