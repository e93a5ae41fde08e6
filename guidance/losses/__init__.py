"""What guidance wants of attention, as plain functions from maps and spans to one number an image.

A loss is any function `(maps: AttentionMaps, spans: one sequence of spans an image) -> Float[Tensor,
"batch"]`, differentiable, images apart. What it needs besides, it declares by `needs`; losses are weighted
and added by `weighted_sum`. Those here are one small file a family.
"""

from .boxes import box_corners, inner_box, layout_energy, outer_box
from .conform import nt_xent
from .divide_and_bind import jensen_shannon_binding, total_variation
from .excite import attend_and_excite
from .initno import self_attention_conflict
from .needs import Loss, Losses, beyond, name_of, needs, required_by, taken_by, weighted, weighted_sum
from .overlaps import intersection_over_union, overlap, retention
from .peak import attention_peak
from .reading import (
    Last,
    Reading,
    Spans,
    distributions,
    kernel,
    normalise_over_text,
    peaks,
    smooth,
    span_attention,
    subject_maps,
    word_maps,
)
from .syngen import symmetric_kl_binding

LOSSES: dict[str, Loss] = {
    name_of(loss): loss
    for loss in (
        attention_peak,
        attend_and_excite,
        total_variation,
        jensen_shannon_binding,
        symmetric_kl_binding,
        nt_xent,
        overlap,
        intersection_over_union,
        retention,
        self_attention_conflict,
        inner_box,
        outer_box,
        box_corners,
        layout_energy,
    )
}
"""Every loss by its name."""

__all__ = [
    "LOSSES",
    "Last",
    "Loss",
    "Losses",
    "Reading",
    "Spans",
    "attend_and_excite",
    "attention_peak",
    "beyond",
    "box_corners",
    "distributions",
    "inner_box",
    "intersection_over_union",
    "jensen_shannon_binding",
    "kernel",
    "layout_energy",
    "name_of",
    "needs",
    "normalise_over_text",
    "nt_xent",
    "outer_box",
    "overlap",
    "peaks",
    "required_by",
    "retention",
    "self_attention_conflict",
    "smooth",
    "span_attention",
    "subject_maps",
    "symmetric_kl_binding",
    "taken_by",
    "total_variation",
    "weighted",
    "weighted_sum",
    "word_maps",
]
