"""Head maps of a query: the right row of the attention, laid out row by row."""

from __future__ import annotations

import pytest
import torch
from explain_tiny import images, tiny
from heedful.emoji import load_classifier
from heedful.explain.errors import InputError
from heedful.explain.probing.heads import head_maps
from heedful.explain.probing.tower import attention_of, tower_of


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_registers", "clip", "siglip"])
@pytest.mark.parametrize("image", [0, -1])
def test_maps_are_rows_of_the_attention(name: str, image: int) -> None:
    model, inputs = tiny(name)
    tower = tower_of(model)
    (attention,) = attention_of(tower, inputs)
    found = head_maps(model, inputs, (2, 1), image=image)
    for layer, each in enumerate(attention):
        for row in range(3):
            for column in range(5):
                wanted = each[image, :, tower.specials + 11, tower.specials + row * 5 + column]
                torch.testing.assert_close(found.maps[layer, :, row, column], wanted)
    torch.testing.assert_close(
        found.on_specials,
        torch.stack([each[image, :, tower.specials + 11, : tower.specials].sum(-1) for each in attention]),
        atol=1e-5,
        rtol=0,
    )
    assert (found.query, found.layers) == ((2, 1), tower.layers)


def test_without_a_query_it_is_the_class_token() -> None:
    model, inputs = tiny("dinov2_registers")
    (attention,) = attention_of(tower_of(model), inputs)
    found = head_maps(model, inputs)

    torch.testing.assert_close(found.maps[1].flatten(1), attention[1][0, :, 0, 5:])
    with pytest.raises(InputError, match=r"SiglipModel has no \[CLS\]"):
        head_maps(*tiny("siglip"))


def test_places_that_are_not_there_are_refused() -> None:
    model, inputs = tiny("vit")
    for query in ((3, 0), (0, 5), (-1, 0)):
        with pytest.raises(InputError, match="rows 0 to 2, columns 0 to 4"):
            head_maps(model, inputs, query)
    with pytest.raises(InputError, match="there is no image 2; there are 2"):
        head_maps(model, inputs, image=2)


@pytest.mark.gpu
def test_half_precision_on_cuda_agrees_with_the_cpu() -> None:
    pixels = {"pixel_values": images(64, 64)}
    wanted = head_maps(load_classifier("cpu"), pixels, (3, 4))
    found = head_maps(load_classifier(), pixels, (3, 4))

    torch.testing.assert_close(found.maps, wanted.maps, rtol=0.05, atol=0.01)
