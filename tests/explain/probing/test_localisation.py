"""Tokens are compared with the patches they began as, on models in which the truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from explain_tiny import images, tiny
from heedful.emoji import load_classifier, load_resnet
from heedful.explain.errors import InputError
from heedful.explain.probing.cka import linear_cka
from heedful.explain.probing.localisation import Localisation, held, localisation, patches_of
from heedful.explain.probing.vision import look
from PIL import Image
from torch import Tensor, nn

PIXELS = images(batch=16, seed=5)


class Cells(nn.Module):
    """Cells of 4 x 4 pixels as they are, then the same in the wrong places."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.shuffled = nn.Identity(), nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        cells = self.whole(nn.functional.pixel_unshuffle(pixels, 4))
        return self.shuffled(cells.flip(-1))


def test_cells_that_are_their_patches_are_all_found_and_misplaced_ones_are_not() -> None:
    pixels = torch.randn(24, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    found = localisation(Cells().eval(), pixels.split(12), layers=["whole", "shuffled"])
    whole, shuffled = found.held["whole"], found.held["shuffled"]
    assert whole.own == pytest.approx(1.0, abs=1e-5)
    assert abs(whole.others) < 0.1
    assert (whole.hits, whole.chance) == (1.0, 1 / 12)
    assert shuffled.hits == 0.0
    torch.testing.assert_close(found.cka["shuffled"][0, 0, 3], torch.tensor(1.0))


def test_every_entry_is_the_cka_of_a_token_with_a_patch() -> None:
    model, _ = tiny("deit")
    found = localisation(model, [PIXELS])
    with torch.no_grad():
        output = look(model, PIXELS)["deit.layers.1"]
    cka = found.cka["deit.layers.1"]
    assert cka.shape == (17, 3, 5)
    assert found.specials["deit.layers.1"] == 2
    for token, row, column in ((0, 0, 0), (5, 2, 1), (16, 1, 4)):
        patch = PIXELS[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        wanted = linear_cka(output[:, token], patch)
        assert float(cka[token, row, column]) == pytest.approx(float(wanted), abs=1e-5)


def test_tokens_hold_their_patch_where_they_enter_and_cls_has_no_value_there() -> None:
    found = localisation(tiny("dinov2_registers")[0], images(batch=64).split(32))
    first = found.cka["dinov2_with_registers.embeddings"]
    assert first[:5].isnan().all()
    assert found.held["dinov2_with_registers.embeddings"].hits == 1.0


@pytest.mark.parametrize(("grid", "size"), [((3, 5), (8, 8)), ((2, 3), (12, 13)), ((1, 1), (24, 40))])
def test_patches_are_cut_row_by_row(grid: tuple[int, int], size: tuple[int, int]) -> None:
    patches = patches_of(PIXELS[:2], grid)
    assert patches.shape == (2, grid[0] * grid[1], 3 * size[0] * size[1])
    last = PIXELS[1, :, (grid[0] - 1) * size[0] : grid[0] * size[0], : size[1]]
    assert torch.equal(patches[1, (grid[0] - 1) * grid[1]], last.flatten())


def test_what_tokens_hold_of_a_known_map() -> None:
    cka = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.2, 0.4], [torch.nan] * 3]).unflatten(1, (1, 3))
    found = held(cka)
    assert found.own == pytest.approx(0.55)
    assert found.others == pytest.approx(0.25)
    assert found.hits == pytest.approx(0.5)


def test_it_is_saved_loaded_and_drawn(tmp_path: Path) -> None:
    found = localisation(tiny("siglip")[0], [PIXELS])
    found.save(tmp_path / "held.safetensors")
    again = Localisation.load(tmp_path / "held.safetensors")
    assert again.held == found.held
    assert (again.images, again.model, again.specials) == (16, "SiglipModel", found.specials)
    with Image.open(found.plot(tmp_path / "held.png")) as drawn:
        assert drawn.width > 4 * 100
    with pytest.raises(InputError, match="there is no token 15"):
        found.picture(15)


def test_refusals() -> None:
    model, _ = tiny("vit")
    with pytest.raises(InputError, match="got none"):
        localisation(model, [])
    with pytest.raises(InputError, match="at least 4 images"):
        localisation(model, [PIXELS[:1]])
    with pytest.raises(InputError, match="one size"):
        localisation(model, [PIXELS, images(32, 32, batch=4)])
    with pytest.raises(InputError, match="no 30 x 5 patches"):
        patches_of(PIXELS, (30, 5))


@pytest.mark.gpu
def test_in_float16_on_cuda() -> None:
    for model in (load_classifier(), load_resnet()):
        found = localisation(model, [images(64, 64, batch=8)])
        assert all(0 < each.own <= 1.01 for each in found.held.values())
