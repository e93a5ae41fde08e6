"""Wirings of LXMERT, of DETR and of one stream with random attention, and every method on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import explain_oracles as twin
import numpy as np
import torch
from heedful.explain import bimodal
from heedful.explain.bimodal import Result
from heedful.explain.rules import fuse
from heedful.explain.wiring import CrossStep, Readout, SelfStep, Site, TogetherStep, Wiring
from hypothesis import strategies as st
from torch import Tensor

Maps = dict[Site, Tensor]


@dataclass
class Case:
    """A wiring with random attention and gradients in float64, and what they fuse to."""

    wiring: Wiring
    readout: Readout
    attention: Maps
    gradient: Maps
    cams: Maps = field(init=False)
    signed: Maps = field(init=False)

    def __post_init__(self) -> None:
        self.cams = {site: fuse(self.attention[site], self.gradient[site]) for site in self.attention}
        self.signed = {
            site: fuse(self.attention[site], self.gradient[site], signed=True) for site in self.attention
        }

    @property
    def fused(self) -> Maps:
        return {site: fuse(each) for site, each in self.attention.items()}


def case(
    wiring: Wiring,
    sizes: dict[str, int],
    stream: str,
    *,
    seed: int,
    rows: int = 2,
    heads: int = 3,
    mean: bool = False,
    pool: Site | None = None,
) -> Case:
    made = torch.Generator().manual_seed(seed)
    shapes = {
        step.site: (rows, heads, sizes[step.stream], sizes[getattr(step, "context", step.stream)])
        for step in wiring.flat
    }
    weights = torch.eye(sizes[stream], dtype=torch.float64)[1].repeat(rows, 1)
    if mean:
        weights = torch.rand(rows, sizes[stream], generator=made, dtype=torch.float64).softmax(-1)
    if pool is not None:
        shapes[pool] = (rows, heads, 1, sizes[stream])
        weights = torch.ones(rows, 1, dtype=torch.float64)
    draws = [
        {site: torch.randn(shape, generator=made, dtype=torch.float64) for site, shape in shapes.items()}
        for _ in range(2)
    ]
    attention = {site: each.softmax(-1) for site, each in draws[0].items()}
    gradient = {
        site: each + 0.5 for site, each in draws[1].items()
    }  # of both signs, no cam without a positive
    return Case(wiring, Readout(stream, weights, pool), attention, gradient)


def lxmert_wiring(language: int, vision: int, cross: int) -> Wiring:
    steps: list[SelfStep | CrossStep | TogetherStep] = []
    steps += [SelfStep("text", Site(f"language.{i}")) for i in range(language)]
    steps += [SelfStep("image", Site(f"vision.{i}")) for i in range(vision)]
    for i in range(cross):
        to_image = CrossStep("text", "image", Site(f"cross.{i}", 0))
        to_text = CrossStep("image", "text", Site(f"cross.{i}", 1))
        steps.append(TogetherStep((to_image, to_text)))
        steps += [SelfStep("text", Site(f"cross.{i}.text")), SelfStep("image", Site(f"cross.{i}.image"))]
    return Wiring(tuple(steps))


def detr_wiring(encoder: int, decoder: int) -> Wiring:
    steps: list[SelfStep | CrossStep] = [SelfStep("image", Site(f"encoder.{i}")) for i in range(encoder)]
    for i in range(decoder):
        steps += [
            SelfStep("queries", Site(f"decoder.{i}.self")),
            CrossStep("queries", "image", Site(f"decoder.{i}.cross")),
        ]
    return Wiring(tuple(steps))


def plain_wiring(layers: int) -> Wiring:
    return Wiring(tuple(SelfStep("image", Site(f"layer.{i}")) for i in range(layers)))


@dataclass(frozen=True)
class Depths:
    """How many layers an LXMERT, or DETR, has."""

    language: int
    vision: int
    cross: int


SEEDS = st.integers(0, 10**6)
SIZES = st.tuples(st.integers(3, 4), st.integers(1, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))
DEPTHS = st.builds(Depths, st.integers(1, 3), st.integers(1, 2), st.integers(2, 3))
Variant = dict[str, bool]
VARIANTS: list[Variant] = [
    {},
    {"normalise": False},
    {"self_in_rule_10": False},
    {"aggregate": False, "normalise": False},
]


def lxmert_case(
    seed: int, sizes: tuple[int, int], depths: Depths, *, mean: bool = False, rows: int = 2
) -> Case:
    wiring = lxmert_wiring(depths.language, depths.vision, depths.cross)
    return case(
        wiring, dict(zip(("text", "image"), sizes, strict=True)), "text", seed=seed, mean=mean, rows=rows
    )


def detr_case(seed: int, sizes: tuple[int, int], depths: Depths, *, mean: bool = False) -> Case:
    wiring = detr_wiring(depths.language, depths.cross)
    return case(wiring, {"queries": sizes[0], "image": sizes[1]}, "queries", seed=seed, mean=mean)


def lxmert_parts(maps: Maps, depths: Depths, row: int) -> tuple[list, list, list]:
    at = {(site.module, site.call): each[row].numpy() for site, each in maps.items()}
    return (
        [at[f"language.{i}", 0] for i in range(depths.language)],
        [at[f"vision.{i}", 0] for i in range(depths.vision)],
        [
            (at[f"cross.{i}", 0], at[f"cross.{i}", 1], at[f"cross.{i}.text", 0], at[f"cross.{i}.image", 0])
            for i in range(depths.cross)
        ],
    )


def detr_parts(maps: Maps, depths: Depths, row: int) -> tuple[list, list]:
    at = {site.module: each[row].numpy() for site, each in maps.items()}
    return (
        [at[f"encoder.{i}"] for i in range(depths.language)],
        [(at[f"decoder.{i}.self"], at[f"decoder.{i}.cross"]) for i in range(depths.cross)],
    )


def rows_of(
    case: Case, stream: str, matrix: Callable[[int], np.ndarray], identity: bool = False
) -> np.ndarray:
    """What every row reads of a twin's matrix."""
    own = stream == case.readout.stream
    weights = case.readout.weights.numpy()
    return np.array([twin.read(w, matrix(row), identity and own, own) for row, w in enumerate(weights)])


def same(found: Tensor, expected: object, tolerance: float = 1e-10) -> bool:
    return bool(np.allclose(found.numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance))


def equal(found: Result, expected: Result, tolerance: float = 1e-10) -> bool:
    return found.keys() == expected.keys() and all(same(found[s], expected[s], tolerance) for s in found)


METHODS: dict[str, Callable[[Case], Result]] = {
    "generic": lambda c: bimodal.generic(c.wiring, c.cams, c.readout),
    "attribution": lambda c: bimodal.attribution(c.wiring, c.cams, c.readout),
    "rollout": lambda c: bimodal.rollout(c.wiring, c.fused, c.readout),
    "gradient_rollout": lambda c: bimodal.gradient_rollout(c.wiring, c.cams, c.readout),
    "normalised": lambda c: bimodal.gradient_rollout(c.wiring, c.signed, c.readout, normalise=True),
    "raw_attention": lambda c: bimodal.raw_attention(c.wiring, c.attention, c.readout),
    "grad_cam": lambda c: bimodal.attention_grad_cam(
        c.wiring, c.attention, c.gradient, c.readout, signed=True
    ),
    "last_relevance": lambda c: bimodal.last_relevance(c.wiring, c.gradient, c.readout),
}
POOL = Site("head")


def all_cases(rows: int = 2) -> list[Case]:
    depths = Depths(2, 1, 2)
    return [
        lxmert_case(5, (3, 5), depths, rows=rows),
        detr_case(5, (4, 5), depths, mean=True),
        case(plain_wiring(2), {"image": 5}, "image", seed=5, pool=POOL),
    ]
