"""Methods that look at a model from outside: what becomes of a score when its input changes; by captum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import CaptureError, InputError, TargetError, UnsupportedMethodError
from .evidence import Evidence
from .models.family import Family, Reading, Target

OUTSIDE: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "saliency": {"signed": False},
        "smoothgrad": {"signed": False, "samples": 50, "noise": 0.15, "seed": 0},
        "integrated_gradients": {"signed": True, "steps": 50, "baseline": 0.0},
        "occlusion": {"signed": True, "baseline": 0.0},
    }
)
"""The methods, and the settings that each takes with their defaults.

- `signed`: add values up as they are; else their magnitudes.
- `samples`, `noise` (share of the input's range), `seed`: SmoothGrad's, Smilkov et al. 2017.
- `steps`: points of the path integral, Gauss-Legendre, Sundararajan et al. 2017, arXiv 1703.01365, Eq. 1.
- `baseline`: the pixel that stands for nothing, in the units that the model takes (0: the mean colour that
  its processor subtracts). A token that stands for nothing is the zero vector.
"""
_SCALE: Final = 2.0**10
"""Scores are multiplied by it before a backward: small gradients would be 0 in half precision."""
Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Probe:
    """An input that can be changed, (batch, ...), the scores as a function of it, what goes at once."""

    value: Tensor
    scores: Scores
    cells: Int[Tensor, "..."]
    nothing: float


def outside(
    model: nn.Module,
    family: Family,
    inputs: Mapping[str, Any],
    target: Target = None,
    method: str = "saliency",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Reading, dict[str, Float[Tensor, "row _"]]]:
    """Relevance by gradients of the input, or by taking parts of it away.

    Pixels are added up within each patch; tokens are changed where they enter the first layer, and added up
    over their channels. Occlusion replaces a whole patch, or a whole token, and takes the drop of the score.

    Args:
        inputs: on the model's device, in its type.
        settings: of `OUTSIDE[method]`; what is left out has its default.

    Returns:
        What was explained, and for every stream with something a person can see in it, (row, token).

    Raises:
        InputError: settings that do not exist or lie outside their range.
        UnsupportedMethodError: where captum is not installed.
        TargetError: where the answer itself changes with the input and no target was named.
        CaptureError: values that are not finite.
    """
    chosen = _checked(method, settings)
    attr = _captum(method)
    first = Evidence(model, family, inputs, target, watch=tuple(family.embeddings(model).values()))
    rescore = _Rescore(model, family, dict(inputs), target, first.reading)
    results = {}
    for stream in dict.fromkeys(segment.stream for segment in first.reading.segments):
        results[stream] = _stream(first, rescore, stream, attr, method, chosen)
    return first.reading, results


@dataclass(frozen=True)
class _Rescore:
    """The model asked again about the same target, with something changed."""

    model: nn.Module
    family: Family
    inputs: dict[str, Any]
    target: Target
    first: Reading

    def pixels(self, value: Tensor) -> Tensor:
        name = str(self.family.pixels)
        return self._scores({**self.inputs, name: value.to(self.inputs[name].dtype)})

    def tokens(self, stream: str, value: Tensor) -> Tensor:
        def swap(_module: nn.Module, _args: object, output: Any) -> Any:
            whole = isinstance(output, Tensor)
            changed = value.to((output if whole else output[0]).dtype)
            return changed if whole else (changed, *output[1:])

        module = self.model.get_submodule(self.family.embeddings(self.model)[stream])
        handle = module.register_forward_hook(swap)
        try:
            return self._scores(self.inputs)
        finally:
            handle.remove()

    def _scores(self, inputs: dict[str, Any]) -> Tensor:
        if self.first.score_of is not None:  # the answer is enough, attention need not be looked at
            with torch.enable_grad():
                return self.first.score_of(self.model(**inputs)).float()
        target = self.target if self.first.fixed is None else self.first.fixed
        reading = Evidence(self.model, self.family, inputs, target).reading
        if target is None and reading.targets != self.first.targets:
            raise TargetError(
                f"the model's own answer changes with its input, from {', '.join(self.first.targets)} to "
                f"{', '.join(reading.targets)}; name the target that is to be explained"
            )
        return reading.scores.float()


def _stream(
    first: Evidence, rescore: _Rescore, stream: str, attr: ModuleType, method: str, chosen: Mapping[str, Any]
) -> Float[Tensor, "row token"]:
    """The relevance of a stream's tokens: by the pixels where they are an image's, else by the tokens."""
    own = [segment for segment in first.reading.segments if segment.stream == stream]
    pictures = [one for one in own if one.kind == "image" and first.family.pixels in first.inputs]
    if len(pictures) < len(own):
        if chosen["signed"] and method in ("saliency", "smoothgrad"):
            raise InputError(
                f"the {method} of words has no sign: behind a layer norm a gradient adds up to 0 over the "
                "channels of a token. Take signed=False, or integrated_gradients"
            )
        probe = _token_probe(first, rescore, stream)
        values = _attribute(attr, method, chosen, probe, first.reading)
        result = _gathered(values if chosen["signed"] else values.abs(), method).float()
    else:
        step = next(step for step in first.wiring.flat if step.stream == stream)
        count = first.seen.attention[step.site].shape[-2]
        result = torch.zeros(first.rows, count, device=first.reading.scores.device)
    for segment in pictures:
        assert segment.grid is not None
        probe = _pixel_probe(first, rescore, segment.grid, float(chosen.get("baseline", 0.0)))
        values = _attribute(attr, method, chosen, probe, first.reading)
        patches = _patches(values if chosen["signed"] else values.abs(), segment.grid, method)
        result[:, segment.positions] = patches.flatten(1)
    if not result.isfinite().all():
        raise CaptureError(f"{method} gave values that are not finite; load the model in float32")
    return result


def _pixel_probe(first: Evidence, rescore: _Rescore, grid: tuple[int, int], nothing: float) -> _Probe:
    pixels = first.inputs[str(first.family.pixels)].detach().float()
    rows, columns = _cells(pixels, grid)
    cells = (rows[:, None] * grid[1] + columns).expand(1, *pixels.shape[1:])
    return _Probe(pixels, rescore.pixels, cells, nothing)


def _token_probe(first: Evidence, rescore: _Rescore, stream: str) -> _Probe:
    name = first.family.embeddings(first.model)[stream]
    tokens = first.seen.outputs[name].detach().float()
    cells = torch.arange(tokens.shape[1], device=tokens.device)[None, :, None].expand(1, *tokens.shape[1:])
    return _Probe(tokens, lambda value: rescore.tokens(stream, value), cells, 0.0)


def _attribute(
    attr: ModuleType, method: str, chosen: Mapping[str, Any], probe: _Probe, reading: Reading
) -> Tensor:
    """Captum's answer for every row, in the shape of the input."""
    rows, inputs = len(reading.scores), len(probe.value)
    ask = _ablated if method == "occlusion" else partial(_gradients, method)
    if (rows == inputs and not reading.coupled) or (inputs == 1 and method == "occlusion"):
        return ask(attr, chosen, probe)
    return torch.cat([ask(attr, chosen, _alone(probe, row)) for row in range(rows)])


def _alone(probe: _Probe, row: int) -> _Probe:
    """One row's score as a function of its own input."""
    place = row if len(probe.value) > 1 else 0

    def scores(value: Tensor) -> Tensor:
        parts = (probe.value[:place], value, probe.value[place + 1 :])
        return probe.scores(torch.cat(parts))[row : row + 1]

    return replace(probe, value=probe.value[place : place + 1], scores=scores)


def _ablated(attr: ModuleType, chosen: Mapping[str, Any], probe: _Probe) -> Tensor:
    """The drop of the score, at every element of what was taken away."""
    ablation = attr.FeatureAblation(probe.scores)
    return ablation.attribute(probe.value, baselines=probe.nothing, feature_mask=probe.cells)


def _gradients(method: str, attr: ModuleType, chosen: Mapping[str, Any], probe: _Probe) -> Tensor:
    """Row by row what one input says; always one forward of the batch as it was given, never a larger one."""
    value, batch = probe.value, len(probe.value)

    def scores(changed: Tensor) -> Tensor:
        return probe.scores(changed) * _SCALE

    if method == "integrated_gradients":
        path = attr.IntegratedGradients(scores)
        found = path.attribute(
            value, baselines=probe.nothing, n_steps=chosen["steps"], internal_batch_size=batch
        )
    elif method == "saliency":
        found = attr.Saliency(scores).attribute(value.clone().requires_grad_(), abs=False)
    else:
        found = _smoothgrad(attr, chosen, scores, value)
    return found / _SCALE


def _smoothgrad(attr: ModuleType, chosen: Mapping[str, Any], scores: Scores, value: Tensor) -> Tensor:
    """Mean gradient over noisy inputs; the noise is a share of each input's own range.

    Captum has one deviation for a whole batch. So it is asked about the noise itself, whose deviation is 1.
    """
    rest = tuple(range(1, value.ndim))
    spread = chosen["noise"] * (value.amax(rest, keepdim=True) - value.amin(rest, keepdim=True))
    spread = spread.clamp_min(torch.finfo(value.dtype).tiny ** 0.5)  # a constant input has no range
    tunnel = attr.NoiseTunnel(attr.Saliency(lambda noise: scores(value + spread * noise)))
    devices = [value.device] if value.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(chosen["seed"])
        found = tunnel.attribute(
            torch.zeros_like(value),
            nt_samples=chosen["samples"],
            nt_samples_batch_size=1,
            stdevs=1.0,
            abs=False,
        )
    return found / spread


def _cells(pixels: Tensor, grid: tuple[int, int]) -> list[Int[Tensor, "_"]]:
    """The cell of every row of pixels, and of every column; where they do not divide, cells differ by one."""
    sides = zip(pixels.shape[-2:], grid, strict=True)
    return [torch.arange(size, device=pixels.device) * count // size for size, count in sides]


def _patches(
    values: Float[Tensor, "row channel height width"], grid: tuple[int, int], method: str
) -> Float[Tensor, "row _ _"]:
    """Values of pixels gathered to their patches."""
    cells = zip(_cells(values, grid), grid, strict=True)
    tall, wide = (nn.functional.one_hot(cell, count).float() for cell, count in cells)
    if method == "occlusion":  # every pixel of a patch holds the whole drop
        tall, wide = tall / tall.sum(0), wide / wide.sum(0)
        return torch.einsum("rhw,hg,wk->rgk", values[:, 0], tall, wide)
    return torch.einsum("rchw,hg,wk->rgk", values, tall, wide)


def _gathered(values: Float[Tensor, "row token channel"], method: str) -> Float[Tensor, "row token"]:
    """Values of channels gathered to their tokens."""
    return values[..., 0] if method == "occlusion" else values.sum(-1)


def _checked(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if method not in OUTSIDE:
        raise UnsupportedMethodError(f'there is no method "{method}" here; there are: {", ".join(OUTSIDE)}')
    defaults = OUTSIDE[method]
    for name, value in settings.items():
        if name not in defaults:
            raise InputError(f'{method} takes no setting "{name}"; its settings are: {", ".join(defaults)}')
        least = {"samples": 1, "steps": 1, "noise": 0.0, "seed": 0}.get(name)
        if least is not None and not (type(value) in (type(defaults[name]), int) and value >= least):
            kind = "a whole number" if isinstance(defaults[name], int) else "a number"
            raise InputError(f"{name} must be {kind} of at least {least}, got {value!r}")
    return {**defaults, **settings}


def _captum(method: str) -> ModuleType:
    try:
        import captum.attr
    except ImportError as problem:
        raise UnsupportedMethodError(
            f'method "{method}" is computed by captum, which is not installed: pip install "captum>=0.9"'
        ) from problem
    return captum.attr
