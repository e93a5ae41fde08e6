"""What a recording leaves behind: where each word of a prompt looked, as a frozen value with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..pictures import draw
from .errors import GuidanceError, LayerNotFoundError, TokenNotFoundError
from .layers import matches
from .measures import WordMeasures, bright, measures_of, overlap_of, shares_within
from .tokens import Span
from .words import folded


@dataclass(frozen=True)
class Rival:
    """A part of the prompt that looks where a word looks.

    Attributes:
        token: the part: another word, the start or end token, padding, a comma.
        share: its mean attention over the word's bright area, 0 to 1.
        own: the word's own mean attention there, 0 to 1.
    """

    token: Span
    share: float
    own: float


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """Where the words of one call's prompts looked; tuples have an entry an image.

    All maps are attention probabilities, softmax(q k^T scale + mask) over the text, float32 on the CPU: how
    much an image position attends to a token, 0 to 1, and 1 for all tokens together. A word's map is the sum
    over its tokens. Means over heads, layers and steps weigh each head of each layer and each step the same.

    Attributes:
        prompts: the prompts; empty if only embeddings were known.
        spans: the words that were recorded, in the order asked for.
        tokens: every part of the prompt's sequence in its order: words, start and end token, padding (one
            part, whose index is that of its first position).
        text: of each prompt, where its own tokens begin and end: the position after the start token, and
            that of the end token; a pair an encoder where the texts of several stand one after the other.
        attention: the mean over steps, layers and heads, for each position; the last one stands for all
            padding, where there is any. Sums to 1 over the positions.
        maps: the words' part of it, in the order of `spans`.
        steps: the timesteps of the denoiser's calls, in their order.
        layers: names of the recorded layers, in the order in which they run.
        settings: of the call and of the recording: pipeline, scheduler, steps, guidance scale, seeds, grid
            (that of the maps), grids (the layers' own), resolve, left_out (words beyond the encoder's limit).
        versions: of heedful and the libraries it stands on.
        step_maps: the words' maps of each step; empty unless resolved by step.
        layer_maps: by layer's name, the words' maps on the layer's own grid: of each step (else one entry,
            the mean) and each head (else one entry, the mean); empty unless resolved by layer or head.
    """

    prompts: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]
    tokens: tuple[tuple[Span, ...], ...]
    text: tuple[tuple[int, ...], ...]
    attention: tuple[Float[Tensor, "_token height width"], ...]
    maps: tuple[Float[Tensor, "_span height width"], ...]
    steps: tuple[float, ...]
    layers: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    step_maps: tuple[Float[Tensor, "step _span height width"], ...] = ()
    layer_maps: Mapping[str, tuple[Float[Tensor, "_step _span _head _height _width"], ...]] = field(
        default_factory=dict
    )

    def heat_map(
        self,
        word: str | Span,
        image: int = 0,
        *,
        step: int | None = None,
        layer: str | None = None,
        head: int | None = None,
    ) -> Float[Tensor, "_height _width"]:
        """One word's map, 0 to 1: the mean of all, or of one step, one layer, one head of a layer.

        Args:
            word: as it was asked for, in any case: "frog", "dog#2", "red bow".
            image: number of the image, from 0.
            step: number of the denoiser's call, from 0; -1 is the last.
            layer: name of a layer, or a part of it that no other layer has; its map is on its own grid.
            head: number of the head of that layer, from 0.

        Raises:
            TokenNotFoundError: a word that was not recorded.
            LayerNotFoundError: a layer that was not recorded.
            GuidanceError: what the recording was not resolved by, or an image, step or head not there.
        """
        place = self._place(word, image)
        if head is not None and layer is None:
            raise GuidanceError("a head is a layer's: name the layer too")
        if layer is None:
            return self.maps[image][place] if step is None else self._step_maps(image, step)[place]
        found = self._layer_maps(layer)[image][:, place]
        heads = found if head is None else found[:, _checked("head", head, self._heads(layer))].unsqueeze(1)
        return heads.mean((0, 1)) if step is None else heads[self._step(step)].mean(0)

    def by_step(self, word: str | Span, image: int = 0) -> Float[Tensor, "step height width"]:
        """One word's map of each step, on the common grid.

        Raises:
            TokenNotFoundError, GuidanceError: as in `heat_map`.
        """
        place = self._place(word, image)
        self._resolved("step")
        return self.step_maps[image][:, place]

    def by_layer(self, word: str | Span, image: int = 0) -> dict[str, Float[Tensor, "_height _width"]]:
        """One word's map of each layer, by the layer's name, each on the layer's own grid.

        Raises:
            TokenNotFoundError, GuidanceError: as in `heat_map`.
        """
        self._resolved("layer")
        return {name: self.heat_map(word, image, layer=name) for name in self.layers}

    def by_head(
        self, word: str | Span, image: int = 0, *, layer: str
    ) -> Float[Tensor, "head _height _width"]:
        """One word's map of each head of a layer, on the layer's own grid.

        Raises:
            TokenNotFoundError, LayerNotFoundError, GuidanceError: as in `heat_map`.
        """
        place = self._place(word, image)
        self._heads(layer)
        return self._layer_maps(layer)[image][:, place].mean(0)

    def overlay(
        self,
        picture: Image.Image,
        word: str | Span,
        image: int = 0,
        *,
        step: int | None = None,
        layer: str | None = None,
        head: int | None = None,
        alpha: float = 0.6,
    ) -> Image.Image:
        """Lay a word's map over a picture; its largest value glows most, its least is dark.

        Compare colours within one picture, values (`measures`) between pictures.

        Raises:
            TokenNotFoundError, LayerNotFoundError, GuidanceError: as in `heat_map`.
            ValueError: an `alpha` outside 0..1.
        """
        heat = draw.scaled(self.heat_map(word, image, step=step, layer=layer, head=head))
        return draw.overlay(picture, heat, alpha=alpha)

    def measures(self, image: int = 0) -> dict[str, WordMeasures]:
        """By each word's label: peak, mass, entropy, centre and spread of its map (see `WordMeasures`)."""
        own = self._image(image)
        return {
            span.label: measures_of(attention)
            for span, attention in zip(self.spans[own], self.maps[own], strict=True)
        }

    def overlap(self, image: int = 0) -> Float[Tensor, "span span"]:
        """How much the words look at the same places, 0 to 1, in the order of `spans`.

        Intersection over union of the areas where each map reaches half of its own peak.
        """
        return overlap_of(self.maps[self._image(image)])

    def rivals(self, word: str | Span, image: int = 0, *, specials: bool = True) -> tuple[Rival, ...]:
        """What else holds attention where a word looks (half its peak or more), the strongest first.

        Args:
            word: as in `heat_map`.
            image: number of the image.
            specials: count the start token, the end token and padding too. The start token takes most of
                the attention nearly everywhere; without them the strongest is the word or sign that competes.
        """
        place = self._place(word, image)
        span, area = self.spans[image][place], bright(self.maps[image][place, None])[0]
        own = float(self.maps[image][place][area].mean())
        shares = shares_within(self.attention[image], area)
        others = [part for part in self.tokens[image] if not set(part.indices) & set(span.indices)]
        if not specials:
            ends = self.text[image]
            text = {index for pair in zip(ends[::2], ends[1::2], strict=True) for index in range(*pair)}
            others = [part for part in others if part.indices[0] in text]
        rivals = [Rival(part, float(shares[list(part.indices)].sum()), own) for part in others]
        return tuple(sorted(rivals, key=lambda rival: -rival.share))

    def thief(self, word: str | Span, image: int = 0, *, specials: bool = True) -> Rival | None:
        """The strongest of the `rivals` of a word; None if the prompt has no other part."""
        found = self.rivals(word, image, specials=specials)
        return found[0] if found else None

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; `AttentionRecord.load` reads it."""
        from .record_files import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> AttentionRecord:
        """Read what `save` wrote.

        Raises:
            GuidanceError: a file that is not there, or is none of these.
        """
        from .record_files import load

        return load(Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, and the numbers made of them, in types that JSON knows."""
        images = range(len(self.spans))
        return {
            "prompts": list(self.prompts),
            "spans": [[asdict(span) for span in own] for own in self.spans],
            "tokens": [[asdict(span) for span in own] for own in self.tokens],
            "text": [list(extent) for extent in self.text],
            "steps": list(self.steps),
            "layers": list(self.layers),
            "measures": [
                {label: asdict(own) for label, own in self.measures(image).items()} for image in images
            ],
            "overlap": [self.overlap(image).tolist() for image in images],
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }

    def _repr_html_(self) -> str:
        from .record_html import html_of

        return html_of(self)

    def __repr__(self) -> str:
        height, width = self.maps[0].shape[1:]
        words = "; ".join(", ".join(span.label for span in own) for own in self.spans[:3])
        return (
            f"AttentionRecord({len(self.spans)} image{'s'[: len(self.spans) != 1]}, {len(self.steps)} steps, "
            f"{len(self.layers)} layers, {height}x{width}, words: {words})"
        )

    def _place(self, word: str | Span, image: int) -> int:
        own = self.spans[self._image(image)]
        if isinstance(word, Span) and word in own:
            return own.index(word)
        asked = word.label if isinstance(word, Span) else str(word)
        labels = [folded(span.label) for span in own]
        if folded(asked.removesuffix("#1")) in labels:
            return labels.index(folded(asked.removesuffix("#1")))
        close = get_close_matches(folded(asked), labels, n=1, cutoff=0.6)
        hint = f' (did you mean "{own[labels.index(close[0])].label}"?)' if close else ""
        there = ", ".join(span.label for span in own) or "none"
        raise TokenNotFoundError(
            f'word "{asked}" was not recorded for image {image}; the recorded words are: {there}{hint}'
        )

    def _image(self, image: int) -> int:
        return _checked("image", image, len(self.spans))

    def _step(self, step: int) -> int:
        self._resolved("step")
        return _checked("step", step, len(self.steps))

    def _step_maps(self, image: int, step: int) -> Tensor:
        place = self._step(step)
        return self.step_maps[image][place]

    def _heads(self, layer: str) -> int:
        self._resolved("head")
        return self._layer_maps(layer)[0].shape[2]

    def _layer_maps(self, layer: str) -> tuple[Tensor, ...]:
        self._resolved("layer")
        exact = [name for name in self.layers if name == layer]
        found = exact or [name for name in self.layers if matches(name, layer)]
        if len(found) != 1:
            several = f"matches {len(found)} layers" if found else "was not recorded"
            raise LayerNotFoundError(f"{layer!r} {several}; name one of: {', '.join(found or self.layers)}")
        return self.layer_maps[found[0]]

    def _resolved(self, axis: str) -> None:
        asked = list(self.settings.get("resolve", ()))
        if axis in asked or (axis == "layer" and "head" in asked):
            return
        wanted = ", ".join(f'"{name}"' for name in [*asked, axis])
        raise GuidanceError(
            f"the recording was not resolved by {axis}; ask for it: record(pipe, resolve=[{wanted}])"
        )


def _checked(what: str, number: int, count: int) -> int:
    if not -count <= number < count:
        raise GuidanceError(f"there is no {what} {number}; there are {count}, counted from 0")
    return number
