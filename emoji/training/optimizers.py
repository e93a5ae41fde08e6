"""Which optimiser trains which of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def optimizers_for(
    model: nn.Module, rate: float, decay: float = 0.05, slower: Mapping[str, float] | None = None
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for embeddings, heads, norms and biases.

    Args:
        slower: parts of parameters' names, and by what share of the rate those parameters learn.
    """
    matrices: list[nn.Parameter] = []
    others: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and "embed" not in name and "layer" in name and "predictor" not in name
        share = next((share for part, share in (slower or {}).items() if part in name), 1.0)
        if inner:
            matrices.append(parameter)
        else:
            others.setdefault(share, []).append(parameter)
    groups = [{"params": own, "lr": share * rate} for share, own in others.items()]
    adamw = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    return [torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), adamw]
