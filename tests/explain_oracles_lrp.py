"""Slow twins, in float64 and by hand, of layer-wise relevance propagation and of Libra gradients.

Written from the formulas, in numpy, one sample at a time: a transformer block is run forward, its values are
kept, and relevance (or the gradient with its constants) goes back through it, contribution by contribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import erf, sqrt

import numpy as np

Array = np.ndarray
EPSILON = 1e-9


def divide(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return 0.0
    shifted = denominator + EPSILON
    return numerator / (shifted if shifted != 0 else EPSILON)


def linear_relevance(x: Array, weight: Array, relevance: Array) -> Array:
    """Each output j hands its relevance to the inputs i whose x_i w_ji is positive, in proportion to it."""
    shares = np.zeros_like(x)
    for token in range(x.shape[0]):
        for j in range(weight.shape[0]):
            positive = [max(x[token, i] * weight[j, i], 0.0) for i in range(x.shape[1])]
            rate = divide(relevance[token, j], sum(positive))
            for i, contribution in enumerate(positive):
                shares[token, i] += contribution * rate
    return shares


def product_relevance(a: Array, b: Array, relevance: Array) -> tuple[Array, Array]:
    """Each (a b)_ik hands the share of every summand a_ij b_jk half to a_ij and half to b_jk."""
    of_a, of_b = np.zeros_like(a), np.zeros_like(b)
    for i in range(a.shape[0]):
        for k in range(b.shape[1]):
            terms = [a[i, j] * b[j, k] for j in range(a.shape[1])]
            rate = divide(relevance[i, k], sum(terms))
            for j, term in enumerate(terms):
                of_a[i, j] += term * rate / 2
                of_b[j, k] += term * rate / 2
    return of_a, of_b


def sum_relevance(a: Array, b: Array, relevance: Array) -> tuple[Array, Array]:
    """Contributions to a + b, each operand's rescaled to its part of the whole (a and b of one shape)."""
    parts = [np.zeros_like(a), np.zeros_like(b)]
    for place in np.ndindex(*a.shape):
        rate = divide(relevance[place], a[place] + b[place])
        parts[0][place], parts[1][place] = a[place] * rate, b[place] * rate
    sizes = [abs(part.sum()) for part in parts]
    return tuple(  # type: ignore[return-value]
        part * divide(divide(size, sum(sizes)) * relevance.sum(), part.sum())
        for part, size in zip(parts, sizes, strict=True)
    )


def phi(x: Array) -> Array:
    return np.vectorize(lambda value: 0.5 * (1 + erf(value / sqrt(2))))(x)


@dataclass
class Norm:
    weight: Array
    bias: Array
    eps: float

    def __call__(self, x: Array) -> Array:
        return (x - x.mean(-1, keepdims=True)) / self.sigma(x) * self.weight + self.bias

    def sigma(self, x: Array) -> Array:
        return np.sqrt(x.var(-1, keepdims=True) + self.eps)

    def back(self, x: Array, gradient: Array) -> Array:
        """Its gradient with sigma constant: scaled, and the mean taken off."""
        scaled = gradient * self.weight / self.sigma(x)
        return scaled - scaled.mean(-1, keepdims=True)


@dataclass
class Block:
    """A transformer block: (weight, bias) of linear layers, norms before (ViT) or after (BERT) each half."""

    query: tuple[Array, Array]
    key: tuple[Array, Array]
    value: tuple[Array, Array]
    out: tuple[Array, Array]
    up: tuple[Array, Array]
    down: tuple[Array, Array]
    norms: tuple[Norm, Norm]
    heads: int
    norm_first: bool
    kept: dict[str, Array] = field(default_factory=dict)

    def forward(self, x: Array, visible: Array | None = None) -> Array:
        def apply(layer: tuple[Array, Array], tokens: Array) -> Array:
            return tokens @ layer[0].T + layer[1]

        entered = self.norms[0](x) if self.norm_first else x
        q, k, v = (self.split(apply(each, entered)) for each in (self.query, self.key, self.value))
        scores = np.einsum("hqd,hkd->hqk", q, k) / sqrt(q.shape[-1])
        if visible is not None:
            scores[:, :, ~visible] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attention = weights / weights.sum(-1, keepdims=True)
        context = self.join(np.einsum("hqk,hkd->hqd", attention, v))
        mixed = apply(self.out, context)
        total = mixed + x
        middle = total if self.norm_first else self.norms[0](total)
        fed = self.norms[1](middle) if self.norm_first else middle
        inner = apply(self.up, fed)
        activated = inner * phi(inner)
        lowered = apply(self.down, activated)
        self.kept = {
            name: value
            for name, value in locals().items()
            if isinstance(value, np.ndarray) and name not in ("visible",)
        }
        last = lowered + middle
        return last if self.norm_first else self.norms[1](last)

    def split(self, tokens: Array) -> Array:
        return tokens.reshape(len(tokens), self.heads, -1).transpose(1, 0, 2)

    def join(self, heads: Array) -> Array:
        return heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)

    def relevance(self, relevance: Array) -> tuple[Array, Array]:
        """Relevance of the result -> that of what entered, and of the attention (head, query, key)."""
        kept = self.kept
        of_lowered, of_middle = sum_relevance(kept["lowered"], kept["middle"], relevance)
        of_activated = linear_relevance(kept["activated"], self.down[0], of_lowered)
        of_middle = of_middle + linear_relevance(kept["fed"], self.up[0], of_activated)
        of_mixed, of_x = sum_relevance(kept["mixed"], kept["x"], of_middle)
        of_context = self.split(linear_relevance(kept["context"], self.out[0], of_mixed))
        parts: dict[str, list[Array]] = {"attention": [], "query": [], "key": [], "value": []}
        for head in range(self.heads):
            attention, of_v = product_relevance(kept["attention"][head], kept["v"][head], of_context[head])
            of_q, of_k = product_relevance(kept["q"][head], kept["k"][head].T, attention)
            for name, part in zip(parts, (attention, of_q, of_k.T, of_v), strict=True):
                parts[name].append(part)
        for name in ("query", "key", "value"):
            weight = getattr(self, name)[0]
            of_x = of_x + linear_relevance(kept["entered"], weight, self.join(np.stack(parts[name])))
        return of_x, np.stack(parts["attention"])

    def libra(self, gradient: Array) -> tuple[Array, Array]:
        """The same for the gradient with softmax, gates and sigma constant, where norms come first."""
        kept = self.kept
        of_fed = (gradient @ self.down[0] * phi(kept["inner"])) @ self.up[0]
        of_middle = gradient + self.norms[1].back(kept["middle"], of_fed)
        of_context = self.split(of_middle @ self.out[0])
        attention = np.einsum("hqd,hkd->hqk", of_context, kept["v"])
        of_value = self.join(np.einsum("hqk,hqd->hkd", kept["attention"], of_context))
        return of_middle + self.norms[0].back(kept["x"], of_value @ self.value[0]), attention
