"""Slow twins of the relevance rules for one row: loops in float64, equation by equation, from the papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CrossLayer = tuple[Array, Array, Array, Array]
"""Of LXMERT: text to image, image to text, text to itself, image to itself."""


def times(left: Array, right: Array) -> Array:
    """A matrix product."""
    rows, columns = left.tolist(), turned(right).tolist()  # plain floats are faster one by one
    return np.array(
        [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]
    )


def turned(matrix: Array) -> Array:
    """Its transpose."""
    return np.array([[matrix[i, j] for i in range(matrix.shape[0])] for j in range(matrix.shape[1])])


def fused(
    attention: Array, gradient: Array | None = None, fusion: str = "mean", signed: bool = False
) -> Array:
    """Eq. 5 of Chefer et al. 2021 on (head, query, key)."""
    heads, queries, keys = attention.shape
    result = np.zeros((queries, keys))
    for query in range(queries):
        for key in range(keys):
            values = []
            for head in range(heads):
                value = attention[head, query, key]
                if gradient is not None:
                    value = value * gradient[head, query, key]
                    value = value if signed else max(value, 0.0)
                values.append(value)
            result[query, key] = {"mean": sum(values) / heads, "max": max(values), "min": min(values)}[fusion]
    return result


def grad_cammed(attention: Array, gradient: Array, signed: bool = False) -> Array:
    """Attention Grad-CAM on (head, query, key): each head weighted by the mean of its gradient."""
    heads, queries, keys = attention.shape
    result = np.zeros((queries, keys))
    for head in range(heads):
        weight = sum(gradient[head, q, k] for q in range(queries) for k in range(keys)) / (queries * keys)
        for query in range(queries):
            for key in range(keys):
                result[query, key] += weight * attention[head, query, key] / heads
    return result if signed else np.where(result > 0, result, 0.0)


def self_relevance(cams: Sequence[Array]) -> Array:
    """Eq. 6 from R = I."""
    relevance = np.eye(len(cams[0]))
    for cam in cams:
        relevance = relevance + times(cam, relevance)
    return relevance


def residual_normalised(relevance: Array) -> Array:
    """Eq. 8 and 9, a row of nothing left as nothing."""
    result = []
    for i, row in enumerate(relevance.tolist()):
        gathered = [value - (i == k) for k, value in enumerate(row)]
        total = sum(abs(value) for value in gathered)
        result.append([(value / total if total else 0.0) + (i == k) for k, value in enumerate(gathered)])
    return np.array(result)


def rule_10(own: Array, cam: Array, other: Array, normalise: bool, self_in_rule_10: bool) -> Array:
    """Eq. 10: what is added to R_sq."""
    if not self_in_rule_10:
        return cam
    if normalise:
        own, other = residual_normalised(own), residual_normalised(other)
    return times(turned(own), times(cam, other))


def lxmert(
    language: Sequence[Array],
    vision: Sequence[Array],
    cross: Sequence[CrossLayer],
    *,
    normalise: bool = True,
    aggregate: bool = True,
    self_in_rule_10: bool = True,
    one_by_one: bool = False,
) -> tuple[Array, Array]:
    """Eq. 6 to 11 in LXMERT's order; answers R_tt and R_ti. `one_by_one` is the wrong order, to compare."""
    texts, images = len(cross[0][0]), len(cross[0][1])
    tt, ii = np.eye(texts), np.eye(images)
    ti, it = np.zeros((texts, images)), np.zeros((images, texts))
    keep = 1.0 if aggregate else 0.0
    for cam in language:
        tt, ti = keep * tt + times(cam, tt), keep * ti + times(cam, ti)  # Eq. 6, 7
    for cam in vision:
        ii, it = keep * ii + times(cam, ii), keep * it + times(cam, it)
    for number, (cam_ti, cam_it, cam_t, cam_i) in enumerate(cross):
        ti_more = rule_10(tt, cam_ti, ii, normalise, self_in_rule_10)
        tt_more = times(cam_ti, it)  # Eq. 11
        if one_by_one:
            ti, tt = keep * ti + ti_more, keep * tt + tt_more
        if number < len(cross) - 1:  # of the last layer only the text is read
            it_more = rule_10(ii, cam_it, tt, normalise, self_in_rule_10)
            ii_more = times(cam_it, ti)
            it, ii = keep * it + it_more, keep * ii + ii_more
        if not one_by_one:
            ti, tt = keep * ti + ti_more, keep * tt + tt_more
        tt, ti = keep * tt + times(cam_t, tt), keep * ti + times(cam_t, ti)
        if number < len(cross) - 1:
            ii, it = keep * ii + times(cam_i, ii), keep * it + times(cam_i, it)
    return tt, ti


def detr(
    encoder: Sequence[Array],
    decoder: Sequence[tuple[Array, Array]],
    *,
    normalise: bool = True,
    aggregate: bool = True,
    self_in_rule_10: bool = True,
    cross_first: bool = False,
) -> tuple[Array, Array]:
    """Eq. 6, 7 and 10 in DETR's order: (self, cross) of each decoder layer; answers R_qq and R_qi."""
    queries, images = decoder[0][1].shape
    qq, ii, qi = np.eye(queries), np.eye(images), np.zeros((queries, images))
    keep = 1.0 if aggregate else 0.0
    for cam in encoder:
        ii = keep * ii + times(cam, ii)
    for cam_q, cam_qi in decoder:
        if cross_first:  # the wrong order, for comparison
            qi = keep * qi + rule_10(qq, cam_qi, ii, normalise, self_in_rule_10)
        qq, qi = keep * qq + times(cam_q, qq), keep * qi + times(cam_q, qi)
        if not cross_first:
            qi = keep * qi + rule_10(qq, cam_qi, ii, normalise, self_in_rule_10)
    return qq, qi


def mixed(cam: Array, normalise: bool = True) -> Array:
    """One layer of a rollout: I + cam with rows that sum to 1, or half of it."""
    result = np.zeros_like(cam)
    for row in range(len(cam)):
        values = [cam[row, k] + (1.0 if row == k else 0.0) for k in range(len(cam))]
        for k, value in enumerate(values):
            result[row, k] = value / (sum(values) if normalise else 2.0)
    return result


def rolled(cams: Sequence[Array], normalise: bool = True) -> Array:
    """The product of the mixed layers, the top one leftmost."""
    result = np.eye(len(cams[0]))
    for cam in cams:
        result = times(mixed(cam, normalise), result)
    return result


def rolled_across(own: Sequence[Array], cam: Array, other: Sequence[Array], normalise: bool = True) -> Array:
    """(rollout_ss)^T A_sq rollout_qq."""
    left = rolled(own, normalise) if len(own) else np.eye(cam.shape[0])
    right = rolled(other, normalise) if len(other) else np.eye(cam.shape[1])
    return times(turned(left), times(cam, right))


def legrad(gradients: Sequence[Array], signed: bool = False) -> Array:
    """The mean over layers, heads and queries of the positive part of (head, query, key)."""
    result = np.zeros(gradients[0].shape[-1])
    for gradient in gradients:
        heads, queries, keys = gradient.shape
        for head in range(heads):
            for query in range(queries):
                for key in range(keys):
                    value = gradient[head, query, key]
                    value = value if signed else max(value, 0.0)
                    result[key] += value / (heads * queries * len(gradients))
    return result


def read(weights: Array, matrix: Array, identity: bool = False, own: bool = False) -> Array:
    """A row of weights times R; of the own stream less the identity, the one token that is read set to 0."""
    result = np.zeros(matrix.shape[1])
    for j in range(matrix.shape[1]):
        result[j] = sum(weights[i] * matrix[i, j] for i in range(len(weights)))
        if identity:
            result[j] -= weights[j]
        if own and weights[j] == 1:
            result[j] = 0.0
    return result
