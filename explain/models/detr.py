"""DETR: why a box was found, over the cells of the image's feature map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import InputError, TargetError
from ..wiring import Readout, Segment, Wiring
from .common import ask_function, check_call, class_id, encoder_decoder, label_of
from .family import Family, Found, Reading, Target
from .inputs import check_mask, check_whole
from .registry import register
from .targets import entries, one_hot, rows_of, touched


class Detr(Family):
    """DETR for object detection (Carion et al. 2020).

    Streams: "image", the cells of the last feature map, and "queries", one a box. In every decoder layer the
    queries first attend to each other, then to the encoded image.

    Target: a box by its number; a label, for the surest box that shows it; None, for the surest box of all.
    The score is the box's largest class logit, "no object" left out, as in the code of Chefer et al. 2021; a
    box is as sure as the probability of that class. A function is read from the queries that its gradient
    reaches.
    """

    name: ClassVar[str] = "DETR"
    classes: ClassVar[tuple[str, ...]] = ("DetrForObjectDetection",)
    refuses: ClassVar[Mapping[str, str]] = {
        "legrad": "a box is read from a decoder; LeGrad lets the head read every layer of one encoder",
    }

    def wiring(self, model: Any) -> Wiring:
        """The encoder's layers, then for every decoder layer the queries, and the queries on the image."""
        return encoder_decoder(model, "image", "queries")

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """The projected feature map, (batch, channel, height, width); the queries come from no module."""
        return {"image": "model.input_projection"}

    def watches(self, model: Any) -> tuple[str, ...]:
        """The feature map, for its height and width, and the decoder, whose queries the heads read."""
        return ("model.input_projection", "model.decoder")

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse anything but normalised images, with a pixel mask that leaves some of each."""
        check_call(model, inputs, "pixel_values")
        check_whole(inputs)
        pixels, channels = inputs["pixel_values"], model.config.backbone_config.num_channels
        if pixels.ndim != 4 or 0 in pixels.shape or pixels.shape[1] != channels:
            raise InputError(
                f"pixel_values must be (batch, {channels} channels, height, width), got {tuple(pixels.shape)}"
            )
        if not pixels.is_floating_point():
            raise InputError(f"pixel_values must be floats, scaled as the processor does, got {pixels.dtype}")
        check_mask(inputs, "pixel_mask", (len(pixels), *pixels.shape[2:]))

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """The scores of boxes, each read from its query."""
        queries = found.outputs["model.decoder"]
        batch = len(queries)
        with torch.enable_grad():
            if callable(target):
                score, words, _ = ask_function(target, outputs, batch, many=batch == 1)
                scores = score(outputs)
                weights = touched(scores, queries)
            else:
                score, words, boxes = self._boxes(model.config, outputs.logits, target)
                scores, weights = score(outputs), one_hot(boxes, queries.shape[1])
        return Reading(
            scores=scores,
            targets=words,
            readouts=(Readout("queries", weights),),
            segments=(self._cells(inputs, found.outputs["model.input_projection"], len(scores)),),
            shared=frozenset(("image", "queries") if len(scores) > batch else ()),
            fixed=score,
            score_of=score,
            coupled=callable(target),
        )

    def _boxes(
        self, config: Any, logits: Float[Tensor, "batch query class_or_none"], target: Target
    ) -> tuple[Callable[[Any], Tensor], tuple[str, ...], Tensor]:
        """What reads the rows' scores, the rows in words, and their boxes."""
        rows = rows_of(target, len(logits))
        of = entries(len(rows), len(logits)).to(logits.device)
        sure, kinds = logits.detach().float().softmax(-1)[..., :-1].max(-1)
        picked = [
            _box(config, one, sure[entry], kinds[entry], logits.shape[-1] - 1)
            for one, entry in zip(rows, of.tolist(), strict=True)
        ]
        boxes = torch.tensor(picked, device=logits.device)
        shown = kinds[of, boxes]
        words = [
            f"box {box}: {label_of(config, kind)}" for box, kind in zip(picked, shown.tolist(), strict=True)
        ]
        return lambda outputs: outputs.logits[of, boxes, shown], tuple(words), boxes

    def _cells(
        self, inputs: Mapping[str, Any], features: Float[Tensor, "batch channel height width"], rows: int
    ) -> Segment:
        """The cells of the feature map; the model takes those for image whose nearest pixel is."""
        grid = (features.shape[2], features.shape[3])
        mask = inputs.get("pixel_mask")
        if mask is not None:
            mask = (
                nn.functional.interpolate(mask[None].float(), size=grid)[0].bool().flatten(1).expand(rows, -1)
            )
        return Segment("image", "image", slice(0, grid[0] * grid[1]), grid=grid, mask=mask)


def _box(
    config: Any,
    one: int | str | None,
    sure: Float[Tensor, "query"],
    kinds: Int[Tensor, "query"],
    count: int,
) -> int:
    """The box that a row asks for.

    Raises:
        TargetError: a box that is not there, or a label that none shows.
    """
    if one is None:
        return int(sure.argmax())
    if not isinstance(one, str):
        if 0 <= one < len(sure):
            return int(one)
        raise TargetError(f"there is no box {one}: the model answers with boxes 0 to {len(sure) - 1}")
    shows = kinds == class_id(config, one, count)
    if not shows.any():
        present = ", ".join(sorted({label_of(config, kind) for kind in kinds.tolist()}))
        raise TargetError(f'no box shows "{one}"; the boxes show: {present}')
    return int(sure.masked_fill(~shows, -1).argmax())


register(Detr())
