"""Which patches a masked auto-encoder has to guess: drawn at random, or by how much there is to see in them.

Pure: weights in, an order of patches out. `pretraining.py` trains with it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError


def tilted(weights: Float[Tensor, "image patch"], strength: float = 2.0) -> Float[Tensor, "image patch"]:
    """How readily each patch is masked: f ~ exp(s w / max w), normalised so that a row sums to 1.

    The fullest patch is e^s times as readily masked as an empty one: above 0 what is concentrated is masked,
    below 0 what is empty, at 0 all alike. An image without weights (all 0) is uniform, too.

    Args:
        weights: the concentration of each patch, at least 0, in any unit.
        strength: s, in -20..20.

    Raises:
        InputError: weights that are negative or not finite, or a strength outside its range.
    """
    if not -20.0 <= strength <= 20.0:
        raise InputError(
            f"strength must lie in -20..20 (0: uniform; above: masks what is concentrated), got {strength}"
        )
    if not torch.isfinite(weights).all() or (weights < 0).any():
        raise InputError("weights must be finite and not negative")
    largest = weights.amax(-1, keepdim=True)
    share = torch.where(largest > 0, weights / largest.clamp_min(torch.finfo(weights.dtype).tiny), 0.0)
    return torch.softmax(strength * share, -1)


def masking_order(
    readiness: Float[Tensor, "image patch"], generator: torch.Generator | None = None
) -> Float[Tensor, "image patch"]:
    """Noise for `ViTMAEForPreTraining(noise=...)`, which keeps the patches where it is least.

    log f + Gumbel noise: its k largest entries are k draws without replacement, each in proportion to f among
    those that are left (Efraimidis & Spirakis 2006; Vieira 2014). Uniform f gives the model's own masks.

    Raises:
        InputError: f that is negative or not finite, or a row of zeros.
    """
    if not torch.isfinite(readiness).all() or (readiness < 0).any() or (readiness.sum(-1) == 0).any():
        raise InputError("each image needs finite values of at least 0, not all of them 0")
    waits = torch.empty(readiness.shape, dtype=torch.float64).exponential_(generator=generator)
    gumbel = -waits.clamp_min(torch.finfo(torch.float64).tiny).log()  # -log of an exponential draw
    return (readiness.double().clamp_min(1e-300).log() + gumbel.to(readiness.device)).float()


def masked_patches(order: Float[Tensor, "image patch"], ratio: float = 0.75) -> Bool[Tensor, "image patch"]:
    """Which patches `ViTMAEForPreTraining` hides of that order: all but the int(n (1 - ratio)) least.

    Raises:
        InputError: a ratio that leaves no patch to see or none to guess.
    """
    count = order.shape[-1]
    kept = int(count * (1 - ratio))
    if not 0 < kept < count:
        raise InputError(
            f"ratio must leave some of {count} patches to see and some to guess, got {ratio:g}, which leaves "
            f"{kept} to see"
        )
    places = order.argsort(dim=-1).argsort(dim=-1)
    return places >= kept
