"""Every relevance method by name: what it needs of a forward, and the rule that it applies to that."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from . import bimodal, rules
from .capture import capture
from .errors import InputError, UnsupportedMethodError
from .evidence import Evidence, Maps
from .flow import attention_flow
from .libra import libra
from .lrp import lrp
from .models.family import Family, Reading, Target
from .outside import OUTSIDE, outside
from .rows import Result
from .wiring import Readout

Kind = Literal["plain", "libra", "lrp"]
_MODES: Final = {"plain": lambda: None, "libra": libra, "lrp": lrp}


class Sources:
    """The forwards that a method asks for, each made when it is first needed."""

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        inputs: Mapping[str, Any],
        target: Target,
        watch: tuple[str, ...] = (),
    ) -> None:
        self.model, self.family, self.inputs, self.target = model, family, inputs, target
        self._watch = watch
        self._made: dict[Kind, Evidence] = {}

    def __call__(self, kind: Kind = "plain") -> Evidence:
        """The evidence of a forward under a mode; all explain what the first of them was asked."""
        if kind not in self._made:
            model, inputs = (
                _in_float32(self.model, self.inputs) if kind == "lrp" else (self.model, self.inputs)
            )
            made = self._made[kind] = Evidence(
                model, self.family, inputs, self.target, mode=_MODES[kind](), watch=self._watch
            )
            if made.reading.fixed is not None:
                self.target = made.reading.fixed  # rounding must not change which class is the predicted one
        return self._made[kind]


def _in_float32(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[nn.Module, Mapping[str, Any]]:
    """A copy of a half-precision model, and its inputs: LRP divides by sums that nearly cancel.

    In float16 the relevance of lower layers is lost: against float32 it correlated at -0.8 to 0.03 in the
    worst layers of small random models.
    """
    half = (torch.float16, torch.bfloat16)
    if not any(each.dtype in half for each in model.parameters()):
        return model, inputs
    wide = {
        name: value.float() if isinstance(value, Tensor) and value.dtype in half else value
        for name, value in inputs.items()
    }
    return copy.deepcopy(model).float(), wide


def _cams(
    evidence: Evidence, readout: Readout, rows: slice, fusion: str, signed: bool, of: Maps | None = None
) -> dict[Any, Tensor]:
    """Eq. 5 of Chefer et al. 2021 at every attention that the readout can see, or the same of relevances."""
    sites = evidence.sites_of(readout)
    gradient, maps = evidence.gradients(sites, rows), of or evidence.attention(sites, rows)
    return {site: rules.fuse(maps[site], gradient[site], fusion=fusion, signed=signed) for site in sites}


def _raw_attention(
    sources: Sources, readout: Readout, rows: slice, *, layer: int = -1, head: int | None = None,
    fusion: str = "mean", query: int | None = None,
) -> Result:  # fmt: skip
    evidence = sources()
    maps = evidence.attention(evidence.sites_of(readout), rows)
    if readout.stream != evidence.reading.readouts[0].stream:
        query = None  # a token of the first tower is none of the second's
    return bimodal.raw_attention(
        evidence.wiring, maps, readout, layer=layer, head=head, fusion=fusion, query=query
    )


def _rollout(
    sources: Sources, readout: Readout, rows: slice, *, fusion: str = "mean", start_layer: int = 0
) -> Result:
    return bimodal.rollout(
        sources().wiring, _fused(sources, readout, rows, fusion), readout, start_layer=start_layer
    )


def _fused(sources: Sources, readout: Readout, rows: slice, fusion: str) -> dict[Any, Tensor]:
    maps = sources().attention(sources().sites_of(readout), rows)
    return {site: rules.fuse(each, fusion=fusion) for site, each in maps.items()}


def _gradient_rollout(
    sources: Sources, readout: Readout, rows: slice, *, normalise: bool = False, fusion: str = "mean",
    start_layer: int = 0,
) -> Result:  # fmt: skip
    cams = _cams(sources(), readout, rows, fusion, signed=normalise)
    return bimodal.gradient_rollout(
        sources().wiring, cams, readout, normalise=normalise, start_layer=start_layer
    )


def _grad_cam(
    sources: Sources, readout: Readout, rows: slice, *, layer: int = -1, signed: bool = False
) -> Result:
    evidence = sources()
    sites = evidence.sites_of(readout)
    maps, gradient = evidence.attention(sites, rows), evidence.gradients(sites, rows)
    return bimodal.attention_grad_cam(evidence.wiring, maps, gradient, readout, layer=layer, signed=signed)


def _generic(
    sources: Sources, readout: Readout, rows: slice, *, fusion: str = "mean", start_layer: int = 0,
    signed: bool = False, normalise: bool = True, aggregate: bool = True, self_in_rule_10: bool = True,
) -> Result:  # fmt: skip
    return _by_rules(
        sources(), readout, rows, fusion, signed, start_layer=start_layer, normalise=normalise,
        aggregate=aggregate, self_in_rule_10=self_in_rule_10,
    )  # fmt: skip


def _libra(
    sources: Sources, readout: Readout, rows: slice, *, fusion: str = "mean", start_layer: int = 0,
    signed: bool = False,
) -> Result:  # fmt: skip
    return _by_rules(sources("libra"), readout, rows, fusion, signed, start_layer=start_layer)


def _by_rules(
    evidence: Evidence, readout: Readout, rows: slice, fusion: str, signed: bool, *, start_layer: int,
    aggregate: bool = True, **ablations: bool,
) -> Result:  # fmt: skip
    """Eq. 5 to 11; one row alone, without storing gradients, where that is enough."""
    if aggregate:
        row = evidence.row_relevance(readout, start_layer, fusion=fusion, signed=signed)
        if row is not None:
            return {readout.stream: row}
    cams = _cams(evidence, readout, rows, fusion, signed)
    return bimodal.generic(
        evidence.wiring, cams, readout, start_layer=start_layer, aggregate=aggregate, **ablations
    )


def _partial_lrp(
    sources: Sources, readout: Readout, rows: slice, *, layer: int = -1, signed: bool = False
) -> Result:
    evidence = sources("lrp")
    relevance = evidence.gradients(evidence.sites_of(readout), rows)
    return bimodal.last_relevance(evidence.wiring, relevance, readout, layer=layer, signed=signed)


def _attribution(
    sources: Sources, readout: Readout, rows: slice, *, fusion: str = "mean", start_layer: int = 0,
    signed: bool = False,
) -> Result:  # fmt: skip
    evidence = sources()
    relevance = sources("lrp").gradients(evidence.sites_of(readout), rows)
    cams = _cams(evidence, readout, rows, fusion, signed, of=relevance)
    return bimodal.attribution(evidence.wiring, cams, readout, start_layer=start_layer)


def _legrad(
    sources: Sources, readout: Readout, rows: slice, *, start_layer: int = 0, signed: bool = False
) -> Result:
    family, model = sources.family, sources.model
    names = family.layers(model)[readout.stream]
    evidence = sources()
    sites = [step.site for step in evidence.wiring.of(readout.stream)]
    first = rules.position(start_layer, len(names), f"layer of stream {readout.stream!r}")
    found = []
    for name, site in list(zip(names, sites, strict=True))[first:]:
        hidden = evidence.seen.outputs[name]
        asked = (model, evidence.inputs, evidence.outputs, evidence.reading, readout, hidden)
        if readout.pool is None:
            attention = evidence.seen.attention[site]
            scores = family.layer_scores(*asked)
        else:
            with capture(model, [readout.pool]) as pooled:
                scores = family.layer_scores(*asked)
            attention = pooled.attention[readout.pool]
        found.append(evidence.gradient_of(scores, attention, evidence.is_shared(readout))[rows])
    row = rules.legrad(found, signed=signed)
    return {readout.stream: row if readout.pool else rules.without_readout(row, readout.weights)}


def _gradient_x_input(sources: Sources, readout: Readout, rows: slice) -> Result:
    return _times_tokens(sources, readout, rows, "plain")


def _libra_gradient_x_input(sources: Sources, readout: Readout, rows: slice) -> Result:
    return _times_tokens(sources, readout, rows, "libra")


def _times_tokens(sources: Sources, readout: Readout, rows: slice, kind: Kind) -> Result:
    """The sum over channels of token times d score / d token, where tokens enter the first layer."""
    modules = sources.family.embeddings(sources.model)
    evidence = sources(kind)
    result: Result = {}
    for stream in evidence.wiring.part(readout.stream).streams:
        if stream in modules:
            tokens = evidence.seen.outputs[modules[stream]]
            shared = evidence.rows > 1 and stream in evidence.reading.shared
            gradient = evidence.gradient_of(evidence.reading.scores, tokens, shared)
            product = gradient[rows] * tokens.detach().expand(evidence.rows, *tokens.shape[1:])[rows]
            # A feature map has its channels first and its cells in two axes.
            result[stream] = product.sum(1).flatten(1) if product.ndim == 4 else product.sum(-1)
    return result


def _flow(
    sources: Sources, readout: Readout, rows: slice, *, fusion: str = "mean", start_layer: int = 0,
    direction: str = "to_inputs",
) -> Result:  # fmt: skip
    capacities = _fused(sources, readout, rows, fusion)
    return _flowing(sources, capacities, readout, start_layer, direction)


def _gradient_flow(
    sources: Sources, readout: Readout, rows: slice, *, fusion: str = "mean", start_layer: int = 0,
    direction: str = "to_inputs",
) -> Result:  # fmt: skip
    capacities = _cams(sources(), readout, rows, fusion, signed=False)
    return _flowing(sources, capacities, readout, start_layer, direction)


def _flowing(
    sources: Sources, capacities: Mapping[Any, Tensor], readout: Readout, start_layer: int, direction: str
) -> Result:
    flow = attention_flow(sources().wiring, capacities, readout, start_layer=start_layer, direction=direction)
    own = flow.values[readout.stream]
    if readout.pool is None:
        own = rules.without_readout(own, readout.weights.to(own))
    return {**flow.values, readout.stream: own}


Rule = Callable[..., Result]
RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "generic": _generic,
        "libra": _libra,
        "attribution": _attribution,
        "partial_lrp": _partial_lrp,
        "legrad": _legrad,
        "grad_cam": _grad_cam,
        "gradient_rollout": _gradient_rollout,
        "rollout": _rollout,
        "raw_attention": _raw_attention,
        "flow": _flow,
        "gradient_flow": _gradient_flow,
        "gradient_x_input": _gradient_x_input,
        "libra_gradient_x_input": _libra_gradient_x_input,
    }
)
"""The methods that look inside; those of `OUTSIDE` change the input."""
METHODS: Final = (*RULES, *OUTSIDE)
"""Every method that `explain` knows."""
_SIGNED: Final = frozenset({"gradient_x_input", "libra_gradient_x_input"})
_KINDS: Final[Mapping[str, Kind]] = {
    "libra": "libra", "libra_gradient_x_input": "libra", "partial_lrp": "lrp",
}  # fmt: skip
"""The forward that a method needs first, where that is not a plain one."""


def settings_of(method: str) -> dict[str, Any]:
    """The settings that a method takes, with their defaults.

    Raises:
        UnsupportedMethodError: for a method that is not there.
    """
    if method in OUTSIDE:
        return dict(OUTSIDE[method])
    if method not in RULES:
        close = difflib.get_close_matches(str(method), METHODS, 1)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        raise UnsupportedMethodError(f'there is no method "{method}".{meant} Methods: {", ".join(METHODS)}')
    parameters = inspect.signature(RULES[method]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


@torch.enable_grad()
def relevance_of(
    model: nn.Module,
    family: Family,
    inputs: Mapping[str, Any],
    target: Target,
    method: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Reading, Result, bool]:
    """Run one method: what was explained, the relevance of every stream's tokens, whether it has a sign.

    Raises:
        UnsupportedMethodError: a method that is not there, or has no meaning for this family: it says why.
        InputError: a setting that the method does not take.
        CaptureError: attention or relevance that is not whole.
    """
    known = settings_of(method)
    if strange := [name for name in settings if name not in known]:
        raise InputError(
            f'"{method}" takes no setting {", ".join(strange)}; it takes: {", ".join(known) or "none"}'
        )
    if method in family.refuses:
        raise UnsupportedMethodError(f'"{method}" has no meaning for {family.name}: {family.refuses[method]}')
    chosen = {**known, **settings}
    signed = bool(chosen.get("signed", method in _SIGNED))
    if method in OUTSIDE:
        return (*outside(model, family, inputs, target, method, settings), signed)
    sources = Sources(model, family, inputs, target, _watched(method, model, family))
    first = sources(_KINDS.get(method, "plain"))
    parts: dict[str, list[Tensor]] = {}
    for readout in first.reading.readouts:
        maps = first.seen.attention[first.sites_of(readout)[0]]  # float64 in a float64 model
        for rows in first.chunks(readout):
            taken = Readout(readout.stream, readout.weights[rows].to(maps), readout.pool)
            for stream, values in RULES[method](sources, taken, rows, **settings).items():
                parts.setdefault(stream, []).append(values.detach())
    return first.reading, {stream: torch.cat(each) for stream, each in parts.items()}, signed


def _watched(method: str, model: nn.Module, family: Family) -> tuple[str, ...]:
    if method == "legrad":
        return tuple(name for names in family.layers(model).values() for name in names)
    return tuple(family.embeddings(model).values()) if method.endswith("gradient_x_input") else ()
