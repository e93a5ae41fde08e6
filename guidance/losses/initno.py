"""InitNO's score of a starting noise: whether the words' places attend to the same surroundings."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from ..maps import AttentionMaps
from .needs import needs
from .overlaps import mean_over_pairs, shared
from .reading import Reading, Spans, subject_maps


@needs("pairs", "last", "self_attention")
def self_attention_conflict(
    maps: AttentionMaps, spans: Spans, **reading: Unpack[Reading]
) -> Float[Tensor, "batch"]:
    """InitNO's self-attention conflict: two words whose places belong together become one subject.

    Source: Guo et al., "InitNO: Boosting Text-to-Image Diffusion Models via Initial Noise Optimization" (CVPR
    2024), the self-attention conflict score. Its other one, the cross-attention response score, is
    `attend_and_excite`.
    Formula: mean over pairs (m, n) of sum_q min(S_m, S_n) / sum_q (S_m + S_n), where S_s is the
    self-attention of the position at which G(A_s) is greatest, over positions q, mean over heads and layers.
    Range 0 (no common surroundings) to 0.5 (the same); 0 for an image with fewer than two spans. The
    positions are chosen without gradient.

    Raises:
        GuidanceError: `maps` without self-attention.
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    read = subject_maps(maps, spans, **reading)
    surroundings = maps.self_attention(reading.get("grid"))
    return torch.stack(
        [
            mean_over_pairs(around.flatten(0, 1).flatten(1)[image.detach().flatten(1).argmax(1)], shared)
            if len(image)
            else image.sum()
            for image, around in zip(read, surroundings, strict=True)
        ]
    )
