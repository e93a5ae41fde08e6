"""Where SIFT finds keypoints in an image, patch by patch: how much there is to see in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..relevance import versions

Grid = tuple[int, int]
LEAST_SIDE: Final = 128
"""Pixels of the shorter side below which an image is enlarged: in fewer SIFT misses what is small."""


@dataclass(frozen=True, eq=False)
class Concentration:
    """Keypoints of several images, counted on the grid of a model's patches.

    The idea is that of "Demystify Self-Attention in Vision Transformers from a Semantic Perspective" (2022,
    arXiv 2211.08543), whose abstract alone is public: what is counted, and how, is a reconstruction.

    Attributes:
        count: keypoints in each patch.
        response: the sum of their responses, |D(x)| of Lowe 2004, Eq. 3, as OpenCV gives it, above 0.
        points: for each image x, y, diameter and response of its keypoints, in the image's own pixels.
        sizes: (width, height) of the images in pixels.
        settings: all that the counts depend on.
        versions: of heedful, of OpenCV and of the libraries besides.

    Raises:
        InputError: for parts that do not belong together.
    """

    count: Float[Tensor, "image height width"]
    response: Float[Tensor, "image height width"]
    points: tuple[Float[np.ndarray, "_ 4"], ...]
    sizes: tuple[tuple[int, int], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.count), len(self.response), len(self.points), len(self.sizes)}
        if len(lengths) != 1 or self.count.shape != self.response.shape:
            raise InputError(
                f"counts {tuple(self.count.shape)}, responses {tuple(self.response.shape)}, points of "
                f"{len(self.points)} and sizes of {len(self.sizes)} images do not belong together"
            )

    @property
    def grid(self) -> Grid:
        """Patches (height, width)."""
        return self.count.shape[1], self.count.shape[2]

    def weights(self, by: str = "count") -> Float[Tensor, "image height width"]:
        """Each patch's share of the image's keypoints, or of their responses; shares sum to 1.

        Raises:
            InputError: an image without a single keypoint, or another way to count.
        """
        if by not in ("count", "response"):
            raise InputError(f'by must be "count" or "response", got {by!r}')
        found = self.count if by == "count" else self.response
        total = found.sum((1, 2), keepdim=True)
        if empty := [row for row, each in enumerate(total.flatten().tolist()) if each == 0]:
            raise InputError(
                f"SIFT finds no keypoint in image {', '.join(map(str, empty[:6]))}"
                f"{f' and {len(empty) - 6} more' if len(empty) > 6 else ''}: it is too smooth. Leave it out, "
                f"or lower the contrast that a keypoint needs, {self.settings.get('contrast')}"
            )
        return found / total


def concentration(
    images: Sequence[Image.Image],
    grid: Grid,
    *,
    contrast: float = 0.02,
    edge: float = 10.0,
    sigma: float = 1.6,
    scales: int = 3,
    side: int = LEAST_SIDE,
) -> Concentration:
    """Find SIFT's keypoints (Lowe 2004) and count them in each patch of a grid.

    SIFT looks at luminance. A small image is enlarged first (bicubic, by the least whole factor that brings
    its shorter side to `side` pixels); a keypoint that has several orientations counts as often, as it does
    for OpenCV. A keypoint belongs to the patch in which its centre lies.

    Args:
        images: as the model sees them, that is after a processor's crop; sizes may differ.
        grid: patches (height, width).
        contrast, edge, sigma, scales: OpenCV's `contrastThreshold`, `edgeThreshold`, `sigma`,
            `nOctaveLayers`. Contrast is half of its default: at 0.04 some smooth drawings have no keypoint.
        side: pixels that the shorter side has at least; 1 enlarges nothing.

    Raises:
        InputError: for what is no list of images, a grid finer than an image, or settings out of range.
        InputError: where OpenCV is not installed.
    """
    check_images(images, grid)
    _check_settings(contrast=contrast, edge=edge, sigma=sigma, scales=scales, side=side)
    cv2 = opencv()
    finder = cv2.SIFT_create(
        nOctaveLayers=scales, contrastThreshold=contrast, edgeThreshold=edge, sigma=sigma
    )
    points = tuple(_points(finder, image, side) for image in images)
    sizes = tuple(image.size for image in images)
    told = {"grid": tuple(grid), "contrast": contrast, "edge": edge, "sigma": sigma, "scales": scales}
    counted = [_counted(own, size, grid) for own, size in zip(points, sizes, strict=True)]
    return Concentration(
        count=torch.stack([count for count, _ in counted]),
        response=torch.stack([response for _, response in counted]),
        points=points,
        sizes=sizes,
        settings={**told, "side": side},
        versions={**versions(), "opencv": str(cv2.__version__)},
    )


def shown_images(pixels: Float[Tensor, "image 3 height width"]) -> tuple[Image.Image, ...]:
    """Pixels as a model takes them, as images to look at: each from its least value (black) to its largest.

    A processor's mean and deviation are not known here, and SIFT needs only the contrasts.
    """
    found = []
    for each in pixels.detach().float().cpu():
        low, high = each.min(), each.max()
        level = (each - low) / (high - low) if high > low else torch.zeros_like(each)
        found.append(Image.fromarray((level * 255).round().byte().permute(1, 2, 0).numpy()))
    return tuple(found)


def check_images(images: Sequence[Image.Image], grid: Grid) -> None:
    """Refuse what is no list of images, and a grid that is finer than their pixels.

    Raises:
        InputError: says what came.
    """
    if isinstance(images, Image.Image) or not images:
        raise InputError("wanted a list of PIL images with at least one; put a single image into a list")
    for image in images:
        if not isinstance(image, Image.Image):
            raise InputError(f"wanted PIL images, got {type(image).__name__}; Image.fromarray makes one")
        if len(grid) != 2 or min(grid) < 1 or grid[0] > image.height or grid[1] > image.width:
            raise InputError(
                f"grid must be (height, width) in patches, at least (1, 1) and at most ({image.height}, "
                f"{image.width}), the image's pixels; got {tuple(grid)}"
            )


def _check_settings(**given: float) -> None:
    least = {"contrast": 0.0, "edge": 1.0, "sigma": 0.1, "scales": 1, "side": 1}
    for name, value in given.items():
        whole = name in ("scales", "side")
        if not value >= least[name] or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise InputError(f"{name} must be {kind} of at least {least[name]:g}, got {value!r}")


def _points(finder: Any, image: Image.Image, side: int) -> Float[np.ndarray, "_ 4"]:
    """Keypoints in the pixels of the image as it is."""
    factor = max(1, -(-side // min(image.size)))
    gray = image.convert("L")
    if factor > 1:
        gray = gray.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    level: UInt8[np.ndarray, "_ _"] = np.asarray(gray)
    found = [(*point.pt, point.size, point.response) for point in finder.detect(level, None)]
    values = np.array(found, dtype=np.float64).reshape(-1, 4)
    # A pixel's middle has whole coordinates for OpenCV; here its upper left corner has.
    values[:, :2] = (values[:, :2] + 0.5) / factor
    values[:, 2] /= factor
    return values


def _counted(
    points: Float[np.ndarray, "_ 4"], size: tuple[int, int], grid: Grid
) -> tuple[Float[Tensor, "_h _w"], Float[Tensor, "_h _w"]]:
    """Keypoints of each patch, and the sum of their responses."""
    columns, rows = (
        np.clip((points[:, axis] * grid[1 - axis] / size[axis]).astype(int), 0, grid[1 - axis] - 1)
        for axis in (0, 1)
    )
    count, response = np.zeros(grid), np.zeros(grid)
    np.add.at(count, (rows, columns), 1)
    np.add.at(response, (rows, columns), points[:, 3])
    return torch.from_numpy(count).float(), torch.from_numpy(response).float()


def opencv() -> ModuleType:
    """OpenCV, which finds the keypoints.

    Raises:
        InputError: where it is not installed, with what to install.
    """
    try:
        import cv2
    except ImportError as problem:
        raise InputError(
            "keypoints are found by OpenCV, which is not installed: pip install 'heedful[sift]'"
        ) from problem
    return cv2
