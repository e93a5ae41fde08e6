"""Keypoints are counted where they are, on any grid, of images of any size; bad input is refused."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from heedful.emoji.world import scenes
from heedful.explain import InputError
from heedful.explain.probing.sift import Concentration, concentration, shown_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw


def blobs(width: int, height: int, *centres: tuple[int, int]) -> Image.Image:
    """Dark discs on light ground."""
    image = Image.new("RGB", (width, height), (230, 230, 230))
    draw = ImageDraw.Draw(image)
    for x, y in centres:
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(20, 20, 20))
    return image


@given(
    columns=st.integers(2, 6),
    rows=st.integers(2, 6),
    place=st.tuples(st.floats(0.15, 0.85), st.floats(0.15, 0.85)),
    side=st.sampled_from([1, 128]),
)
def test_a_blob_is_counted_in_its_own_patch(
    columns: int, rows: int, place: tuple[float, float], side: int
) -> None:
    width, height = 72, 48
    x, y = round(place[0] * width), round(place[1] * height)

    found = concentration([blobs(width, height, (x, y))], (rows, columns), side=side)

    own = found.points[0]
    assert len(own) > 0
    assert found.count.sum() == len(own)
    nearest = own[np.hypot(own[:, 0] - x - 0.5, own[:, 1] - y - 0.5).argmin()]
    assert np.hypot(nearest[0] - x - 0.5, nearest[1] - y - 0.5) < 1.0
    by_hand = torch.zeros(rows, columns)
    for point in own:
        by_hand[int(point[1] * rows / height), int(point[0] * columns / width)] += 1
    assert torch.equal(found.count[0], by_hand)
    assert found.weights()[0].sum() == pytest.approx(1)


def test_responses_are_summed_and_weigh_otherwise_than_counts() -> None:
    image = Image.fromarray(next(scenes(77, 1)).image)

    found = concentration([image], (8, 8))

    assert found.response.sum() == pytest.approx(found.points[0][:, 3].sum(), rel=1e-5)
    assert ((found.response > 0) == (found.count > 0)).all()
    assert not torch.allclose(found.weights("response"), found.weights("count"))


def test_enlarging_finds_more_of_a_small_image_and_stays_in_its_pixels() -> None:
    image = Image.fromarray(next(scenes(77, 1)).image)

    plain, large = (concentration([image], (8, 8), side=side) for side in (1, 128))

    assert len(large.points[0]) > len(plain.points[0])
    assert large.points[0][:, :2].max() <= 64
    assert large.settings["side"] == 128
    assert "opencv" in large.versions


def test_most_keypoints_lie_on_the_subject() -> None:
    drawn = list(scenes(78, 12, subjects=1))

    found = concentration([Image.fromarray(each.image) for each in drawn], (8, 8))

    inside = [
        drawn[row].subjects[0].mask[int(min(y, 63)), int(min(x, 63))]
        for row, own in enumerate(found.points)
        for x, y in own[:, :2]
    ]
    area = np.mean([each.subjects[0].mask.mean() for each in drawn])
    assert np.mean(inside) > 0.6 > area


def test_images_of_several_sizes_are_counted_on_one_grid() -> None:
    found = concentration([blobs(64, 64, (12, 12)), blobs(160, 90, (120, 30))], (3, 5))

    assert found.grid == (3, 5)
    assert found.sizes == ((64, 64), (160, 90))
    assert found.count[1].argmax() == 1 * 5 + 3


def test_an_image_without_keypoints_is_named() -> None:
    found = concentration([blobs(64, 64, (20, 20)), Image.new("RGB", (64, 64), (90, 120, 90))], (4, 4))

    assert found.count[1].sum() == 0
    with pytest.raises(InputError, match=r"no keypoint in image 1: it is too smooth.*0\.02"):
        found.weights()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "at least one"),
        ({"grid": (0, 4)}, r"at least \(1, 1\)"),
        ({"grid": (65, 4)}, r"at most \(64, 64\)"),
        ({"contrast": -0.1}, "contrast must be a number of at least 0"),
        ({"scales": 0}, "scales must be a whole number"),
        ({"side": 0}, "side must be a whole number"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    given_: dict[str, Any] = {"images": [blobs(64, 64, (20, 20))], "grid": (4, 4), **change}

    with pytest.raises(InputError, match=message):
        concentration(given_.pop("images"), given_.pop("grid"), **given_)


def test_counting_by_something_else_is_refused() -> None:
    found = concentration([blobs(64, 64, (20, 20))], (4, 4))

    with pytest.raises(InputError, match='"count" or "response"'):
        found.weights("size")
    with pytest.raises(InputError, match="do not belong together"):
        Concentration(found.count, found.response, (), found.sizes)


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **rest: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args, **rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"heedful\[sift\]"):
        concentration([blobs(64, 64, (20, 20))], (4, 4))


def test_pixels_of_a_model_become_images_with_the_same_keypoints() -> None:
    image = blobs(64, 64, (20, 40))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255.0 * 2 - 1

    (shown,) = shown_images(pixels)
    flat = shown_images(torch.full((1, 3, 8, 8), 0.3))

    assert torch.equal(concentration([shown], (4, 4)).count > 0, concentration([image], (4, 4)).count > 0)
    assert np.asarray(flat[0]).max() == 0
