"""Slow twins of the losses: plain loops in float64 over one image's maps, written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]


def variation(image: Array) -> float:
    """The sum of differences between neighbours."""
    total = 0.0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if row:
                total += abs(image[row, column] - image[row - 1, column])
            if column:
                total += abs(image[row, column] - image[row, column - 1])
    return total


def total_variation(maps: Sequence[Array]) -> float:
    """Minus the least variation, over height + width."""
    return -min(variation(image) for image in maps) / sum(maps[0].shape)


def spread(image: Array, floor: float = 1e-3) -> list[float]:
    """A map as a distribution over its cells, a little of it even."""
    values = [float(value) for value in image.ravel()]
    return [(1 - floor) * value / sum(values) + floor / len(values) for value in values]


def kullback_leibler(p: Sequence[float], q: Sequence[float]) -> float:
    """In nats."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    """In bits."""
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kullback_leibler(p, middle) + kullback_leibler(q, middle)) / 2 / math.log(2)


def symmetric(p: Sequence[float], q: Sequence[float]) -> float:
    """Half of both divergences, in nats."""
    return (kullback_leibler(p, q) + kullback_leibler(q, p)) / 2


def jensen_shannon_binding(pairs: Sequence[tuple[Array, Array]]) -> float:
    """The mean over (noun, modifier)."""
    return sum(jensen_shannon(spread(a), spread(b)) for a, b in pairs) / len(pairs)


def symmetric_kl_binding(pairs: Sequence[tuple[Array, Array, Sequence[Array]]], floor: float) -> float:
    """The mean over (noun, modifier, the tokens outside their group)."""
    total = 0.0
    for noun, modifier, others in pairs:
        p, q = spread(noun, floor), spread(modifier, floor)
        total += symmetric(p, q)
        for other in others:
            u = spread(other, floor)
            total -= (symmetric(q, u) + symmetric(u, p)) / 2 / len(others)
    return total / len(pairs)


def cosine(a: Array, b: Array) -> float:
    dot = sum(x * y for x, y in zip(a.ravel(), b.ravel(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.ravel()) * sum(y * y for y in b.ravel()))


def nt_xent(maps: Sequence[Array], classes: Sequence[int], tau: float) -> float:
    """The mean over positive pairs; a map alone in its class is its own positive."""
    losses = []
    for i, own in enumerate(classes):
        positives = [j for j in range(len(maps)) if j != i and classes[j] == own] or [i]
        rivals = sum(math.exp(cosine(maps[i], maps[n]) / tau) for n in range(len(maps)) if classes[n] != own)
        for j in positives:
            pull = math.exp(cosine(maps[i], maps[j]) / tau)
            losses.append(-math.log(pull / (pull + rivals)))
    return sum(losses) / len(losses)


def intersection_over_union(maps: Sequence[Array]) -> float:
    """The mean over pairs of sum of minima over sum of maxima."""
    shares = []
    for a, b in combinations(maps, 2):
        pairs = list(zip(a.ravel(), b.ravel(), strict=True))
        shares.append(sum(min(x, y) for x, y in pairs) / sum(max(x, y) for x, y in pairs))
    return sum(shares) / len(shares)


def retention(maps: Sequence[Array], before: Sequence[Array]) -> float:
    """The mean over spans of what is gone of the half-peak area of the step before."""
    gone = []
    for now, then in zip(maps, before, strict=True):
        there = [float(value >= then.max() / 2) for value in then.ravel()]
        pairs = list(zip(now.ravel(), there, strict=True))
        gone.append(1 - 2 * sum(min(x, y) for x, y in pairs) / sum(x + y for x, y in pairs))
    return sum(gone) / len(gone)


def self_attention_conflict(maps: Sequence[Array], layers: Sequence[Array]) -> float:
    """The mean over pairs; layers are (row, column, row, column) of one image, all on the maps' grid."""
    around = []
    for image in maps:
        row, column = divmod(int(image.argmax()), image.shape[1])
        around.append(sum(layer[row, column] for layer in layers) / len(layers))
    shares = []
    for a, b in combinations(around, 2):
        pairs = list(zip(a.ravel(), b.ravel(), strict=True))
        shares.append(sum(min(x, y) for x, y in pairs) / sum(x + y for x, y in pairs))
    return sum(shares) / len(shares)


def covered(box: Box, row: int, column: int, grid: tuple[int, int]) -> float:
    """How much of one cell lies in a box, by counting the points of a fine lattice."""
    fine, count = 40, 0
    for i in range(fine):
        for j in range(fine):
            y, x = (row + (i + 0.5) / fine) / grid[0], (column + (j + 0.5) / fine) / grid[1]
            count += box[1] < y < box[3] and box[0] < x < box[2]
    return count / fine**2


def inside(box: Box, grid: tuple[int, int]) -> list[list[bool]]:
    """The cells of which at least a half lies in the box."""
    return [[covered(box, row, column, grid) >= 0.5 for column in range(grid[1])] for row in range(grid[0])]


def inner_box(image: Array, cells: Sequence[Sequence[bool]], share: float) -> float:
    return 1 - strongest(image, cells, True, share)


def outer_box(image: Array, cells: Sequence[Sequence[bool]], share: float) -> float:
    return strongest(image, cells, False, share)


def strongest(image: Array, cells: Sequence[Sequence[bool]], wanted: bool, share: float) -> float:
    values = sorted(
        image[row, column]
        for row in range(image.shape[0])
        for column in range(image.shape[1])
        if cells[row][column] == wanted
    )
    count = math.ceil(share * len(values))
    return sum(values[len(values) - count :]) / count if count else 0.0


def box_corners(image: Array, cells: Sequence[Sequence[bool]], reach: int) -> float:
    """Along each axis, near each edge of the box, what the greatest value differs from the box's."""
    lines = [
        [(max(image[:, column]), any(row[column] for row in cells)) for column in range(image.shape[1])],
        [(max(image[row, :]), any(cells[row])) for row in range(image.shape[0])],
    ]
    means = []
    for line in lines:
        near = set()
        for at in range(1, len(line)):
            if line[at][1] != line[at - 1][1]:
                near |= {cell for cell in range(at - reach, at + reach) if 0 <= cell < len(line)}
        gaps = [abs(line[cell][0] - float(line[cell][1])) for cell in sorted(near)]
        means.append(sum(gaps) / len(gaps) if gaps else 0.0)
    return sum(means) / 2


def layout_energy(image: Array, box: Box) -> float:
    grid = image.shape
    within = sum(
        image[row, column] * covered(box, row, column, (grid[0], grid[1]))
        for row in range(grid[0])
        for column in range(grid[1])
    )
    return float((1 - within / image.sum()) ** 2)


def attention_peak(attention: Sequence[Array], share: float, reduction: str = "mean") -> float:
    """The loss of one image from the unsmoothed attention to each of its spans."""
    surprises = []
    for image in attention:
        cells = sorted(image.ravel().tolist(), reverse=True)
        count = math.ceil(share * len(cells))
        surprises.append(-math.log(max(1e-4, sum(cells[:count]) / count)))
    return max(surprises) if reduction == "max" else sum(surprises) / len(surprises)
