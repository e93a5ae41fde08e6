"""Slow twins of the library's formulas: plain loops in float64, written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gaussian(sigma: float, size: int, published: bool = False) -> Array:
    """A Gaussian of size x size cells that sums to 1; `published` squares x / (2 sigma)."""
    weights = np.zeros((size, size))
    middle = (size - 1) / 2
    for row in range(size):
        for column in range(size):
            squared = (row - middle) ** 2 + (column - middle) ** 2
            exponent = squared / (4 * sigma**2) if published else squared / (2 * sigma**2)
            weights[row, column] = math.exp(-exponent)
    return weights / weights.sum()


def reflected(index: int, size: int) -> int:
    """The cell that an index beyond the edge is mirrored to; the edge itself is not repeated."""
    if index < 0:
        return -index
    return 2 * (size - 1) - index if index >= size else index


def smoothed(image: Array, weights: Array) -> Array:
    """Correlate one (height, width) map with a small kernel, edges reflected."""
    height, width = image.shape
    margin = len(weights) // 2
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            for i in range(len(weights)):
                for j in range(len(weights)):
                    there = reflected(row + i - margin, height), reflected(column + j - margin, width)
                    result[row, column] += weights[i, j] * image[there]
    return result


def area_mean(image: Array, grid: tuple[int, int]) -> Array:
    """Pool a (height, width) map: each new cell is the mean of all old cells that it touches."""
    result = np.zeros(grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            rows = touched(row, grid[0], image.shape[0])
            columns = touched(column, grid[1], image.shape[1])
            result[row, column] = np.mean([image[r, c] for r in rows for c in columns])
    return result


def touched(cell: int, cells: int, size: int) -> range:
    """The old cells, `size` in a row, that new cell number `cell` of `cells` covers at least in part."""
    return range(cell * size // cells, -(-(cell + 1) * size // cells))


def mean_map(layers: Mapping[str, Array], image: int, grid: tuple[int, int]) -> Array:
    """The mean over all heads of all layers, (height, width, token), each layer pooled to the grid."""
    heads = [layer[image, head] for layer in layers.values() for head in range(layer.shape[1])]
    pooled = [
        np.stack([area_mean(head[:, :, token], grid) for token in range(head.shape[2])], axis=2)
        for head in heads
    ]
    return sum(pooled) / len(pooled)


def softmax_over(attention: Array, kept: Sequence[int], temperature: float) -> Array:
    """Softmax over the kept tokens at each position; the others are 0."""
    result = np.zeros_like(attention)
    for row in range(attention.shape[0]):
        for column in range(attention.shape[1]):
            values = {token: temperature * attention[row, column, token] for token in kept}
            top = max(values.values(), default=0.0)
            total = sum(math.exp(value - top) for value in values.values())
            for token, value in values.items():
                result[row, column, token] = math.exp(value - top) / total
    return result


def subject_map(
    layers: Mapping[str, Array],
    image: int,
    indices: Sequence[int],
    *,
    last: int | None,
    grid: tuple[int, int],
    temperature: float | None = 100.0,
    sigma: float = 0.5,
    size: int = 3,
    published: bool = False,
) -> Array:
    """The smoothed map of one span of one image."""
    mean = mean_map(layers, image, grid)
    kept = range(1, mean.shape[2] - 1 if last is None else last)
    probabilities = mean if temperature is None else softmax_over(mean, kept, temperature)
    summed = sum(probabilities[:, :, index] for index in indices)
    return smoothed(summed, gaussian(sigma, size, published))


def attend_and_excite(span_maps: Sequence[Array], reduction: str = "max") -> float:
    """The loss of one image from the smoothed maps of its spans."""
    shortfalls = [max(0.0, 1.0 - float(image.max())) for image in span_maps]
    if not shortfalls:
        return 0.0
    return max(shortfalls) if reduction == "max" else sum(shortfalls) / len(shortfalls)


def overlap(span_maps: Sequence[Array]) -> float:
    """The mean over pairs of sum of minima over sum of sums."""
    shares = []
    for first in range(len(span_maps)):
        for second in range(first):
            a, b = span_maps[first].ravel(), span_maps[second].ravel()
            common = sum(min(x, y) for x, y in zip(a, b, strict=True))
            shares.append(common / (a.sum() + b.sum()))
    return sum(shares) / len(shares) if shares else 0.0


def clip_words(tokens: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Group CLIP's byte pairs into words by their end-of-word mark, each with its positions."""
    words: list[tuple[str, tuple[int, ...]]] = []
    text, positions = "", []
    for position, token in enumerate(tokens):
        text += token.removesuffix("</w>")
        positions.append(position)
        if token.endswith("</w>"):
            words.append((text, tuple(positions)))
            text, positions = "", []
    return words
