"""The parts of the attention measurements that a figure stands or falls with."""

from __future__ import annotations

from pathlib import Path

import torch
from heedful.emoji import load_pipeline
from heedful.emoji.world import scene
from heedful.guidance.places import places
from heedful.scripts.measure_attention import shuffled
from heedful.scripts.measure_cross_attention import KINDS, joined, look, rows_of, scored, short
from safetensors.torch import load_file, save_file


def test_shuffled_images_keep_their_patches_and_nothing_else() -> None:
    pixels = torch.rand(2, 3, 16, 24)
    mixed = shuffled(pixels)
    for one, other in zip(pixels, mixed, strict=True):
        before, after = (
            {tuple(image[:, y : y + 8, x : x + 8].flatten().tolist()) for y in (0, 8) for x in (0, 8, 16)}
            for image in (one, other)
        )
        assert before == after
    assert not torch.equal(mixed, pixels)
    assert torch.equal(shuffled(pixels), mixed)


def test_words_meet_the_masks_of_their_own_scene(tmp_path: Path) -> None:
    pipe = load_pipeline("cpu")
    pipe.scheduler.set_timesteps(2)
    drawn = [
        scene(3, named=(("bow", "red"), ("cat", None))),
        scene(4, named=(("frog", None), ("dog", None))),
    ]
    rows = [row for number, one in enumerate(drawn) for row in rows_of(pipe, one, number)]
    maps = look(pipe, drawn, rows, 0, 1)
    save_file(scored(pipe, drawn, rows, 1), tmp_path / "kept")
    told = joined([load_file(tmp_path / "kept")], rows, [9.0, 1.0])
    wanted = places(maps, [row.mask for row in rows])

    assert [(row.scene, row.span.label, KINDS[row.kind]) for row in rows][:3] == [
        (0, "bow", "noun, its own mask"),
        (0, "bow", "noun, the other's mask"),
        (0, "red", "colour, its subject's mask"),
    ]
    assert len(rows) == 9
    bow, cat = (torch.from_numpy(one.mask).double() for one in drawn[0].subjects)
    assert torch.equal(rows[0].mask, bow)
    assert torch.equal(rows[1].mask, cat)
    assert torch.equal(rows[2].mask, bow)
    assert told.layers == tuple(maps)
    for layer, found in wanted.auc.items():
        torch.testing.assert_close(told.auc[layer], found)
    assert told.auc["up 1.1, 8x8"].shape == (2, 9, 4)
    assert told.auc["mean of all"].shape == (2, 9, 1)


def test_layers_have_short_names() -> None:
    assert short("up_blocks.1.attentions.0.transformer_blocks.0.attn2") == "up 1.0"
    assert short("mid_block.attentions.0.transformer_blocks.0.attn2") == "mid"
