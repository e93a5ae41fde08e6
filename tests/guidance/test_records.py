"""An AttentionRecord answers by word, step, layer and head, survives a file, and refuses what it has not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from heedful.guidance import AttentionRecord, GuidanceError, LayerNotFoundError, Span, TokenNotFoundError
from PIL import Image
from safetensors.torch import save_file

LAYERS = {"down_blocks.0.attn2": (4, 6), "mid_block.attn2": (2, 3)}
SPANS = (Span("cat", (2,)), Span("red frog", (5, 6)), Span("cat", (8,), 2))
TOKENS = (
    Span("<start>", (0,)), Span("a", (1,)), SPANS[0], Span(",", (3,)), Span("a", (4,), 2), Span("red", (5,)),
    Span("frog", (6,)), Span("and", (7,)), SPANS[2], Span("<end>", (9,)), Span("padding", (10,)),
)  # fmt: skip
ALL = ("step", "layer", "head")


def made(resolve=ALL, images=2, **changes):
    """A record of two images as `record` makes it, of random attention over 3 steps and 2 heads a layer."""
    torch.manual_seed(0)
    attention = tuple(torch.rand(11, 4, 6).softmax(0) for _ in range(images))
    maps = tuple(torch.stack([one[list(span.indices)].sum(0) for span in SPANS]) for one in attention)
    steps, heads = 3 if "step" in resolve else 1, 2 if "head" in resolve else 1
    layers = LAYERS if "layer" in resolve or "head" in resolve else {}
    return AttentionRecord(
        prompts=("a cat, a red frog and cat",) * images,
        spans=(SPANS,) * images,
        tokens=(TOKENS,) * images,
        text=((1, 9),) * images,
        attention=attention,
        maps=maps,
        steps=(801.0, 401.0, 1.0),
        layers=tuple(LAYERS),
        settings={"scheduler": "DDIMScheduler", "resolve": list(resolve), "seeds": [1, 2]},
        versions={"heedful": "0"},
        step_maps=tuple(torch.rand(3, 3, 4, 6) for _ in range(images)) if "step" in resolve else (),
        layer_maps={
            name: tuple(torch.rand(steps, 3, heads, *grid) for _ in range(images))
            for name, grid in layers.items()
        },
        **changes,
    )


@pytest.mark.parametrize(
    ("word", "place"),
    [("cat", 0), ("Cat", 0), ("cat#1", 0), ("RED frog", 1), ("cat#2", 2), (SPANS[2], 2), (SPANS[1], 1)],
)
def test_words_are_found_as_they_were_asked_for(word, place):
    found = made()
    assert torch.equal(found.heat_map(word, 1), found.maps[1][place])
    assert torch.equal(found.by_step(word, -1), found.step_maps[1][:, place])


def test_a_map_of_a_step_of_a_layer_of_a_head():
    found = made()
    kept = found.layer_maps["mid_block.attn2"][1]
    assert torch.equal(found.heat_map("cat", step=1), found.step_maps[0][1, 0])
    assert torch.equal(found.heat_map("cat", 1, layer="mid_block", step=2, head=1), kept[2, 0, 1])
    torch.testing.assert_close(found.heat_map("cat", 1, layer="mid_block", head=-1), kept[:, 0, 1].mean(0))
    torch.testing.assert_close(found.heat_map("cat", 1, layer="mid_block", step=0), kept[0, 0].mean(0))
    torch.testing.assert_close(found.by_layer("cat", 1)["mid_block.attn2"], kept[:, 0].mean((0, 1)))
    torch.testing.assert_close(found.by_head("cat", 1, layer="mid_block"), kept[:, 0].mean(0))
    assert {name: maps.shape for name, maps in found.by_layer("cat").items()} == LAYERS


@pytest.mark.parametrize("word", ["a", "forg", "dog", "red", "", "cat#3"])
def test_a_word_that_was_not_recorded_names_those_that_were(word):
    with pytest.raises(TokenNotFoundError, match=r"image 0; the recorded words are: cat, red frog, cat#2"):
        made().heat_map(word)


def test_a_slip_is_met_with_the_word_that_was_meant():
    with pytest.raises(TokenNotFoundError, match=r'did you mean "red frog"\?'):
        made().heat_map("red forg")


@pytest.mark.parametrize(
    ("resolve", "ask", "message"),
    [
        (
            (),
            lambda r: r.by_step("cat"),
            r'by step; ask for it: record\(pipe, resolve=\["step"\]\)',
        ),
        ((), lambda r: r.heat_map("cat", step=0), "not resolved by step"),
        (("step",), lambda r: r.by_layer("cat"), r'resolved by layer.*resolve=\["step", "layer"\]'),
        (("layer",), lambda r: r.by_head("cat", layer="mid_block"), "resolved by head"),
        (("layer",), lambda r: r.heat_map("cat", layer="mid_block", head=0), "resolved by head"),
        (("layer",), lambda r: r.heat_map("cat", layer="mid_block", step=0), "resolved by step"),
        (ALL, lambda r: r.heat_map("cat", head=0), "name the layer too"),
        (ALL, lambda r: r.heat_map("cat", 2), "there is no image 2; there are 2, counted from 0"),
        (ALL, lambda r: r.heat_map("cat", step=3), "there is no step 3; there are 3"),
        (ALL, lambda r: r.heat_map("cat", layer="mid_block", head=2), "there is no head 2; there are 2"),
        (ALL, lambda r: r.measures(5), "there is no image 5"),
    ],
)
def test_what_was_not_kept_is_an_error_that_says_how_to_keep_it(resolve, ask, message):
    with pytest.raises(GuidanceError, match=message):
        ask(made(resolve))


@pytest.mark.parametrize(
    ("layer", "message"), [("up_blocks", "was not recorded"), ("attn2", "matches 2 layers")]
)
def test_a_layer_that_is_not_there_or_not_the_only_one(layer, message):
    with pytest.raises(LayerNotFoundError, match=rf"{message}; name one of: down_blocks\.0\.attn2, mid"):
        made().heat_map("cat", layer=layer)


def test_heads_resolve_layers_too():
    assert set(made(("head",)).by_layer("cat")) == set(LAYERS)


def planted():
    """The frog's place is held by the comma; the cat's by nobody."""
    found = made(images=1)
    attention = torch.full((11, 4, 6), 0.01)
    attention[0] = 0.5
    attention[2, :2, :2] = 0.4
    attention[5:7, 2:, 3:] = 0.1
    attention[3, 2:, 3:] = 0.25
    maps = torch.stack([attention[list(span.indices)].sum(0) for span in SPANS])
    return dataclasses.replace(found, attention=(attention,), maps=(maps,))


def test_who_holds_the_attention_where_a_word_looks():
    found = planted()
    assert found.thief("red frog").token.label == "<start>"
    thief = found.thief("red frog", specials=False)
    assert (thief.token.label, thief.share, thief.own) == (",", pytest.approx(0.25), pytest.approx(0.2))
    rivals = found.rivals("red frog")
    assert [rival.token.label for rival in rivals[:2]] == ["<start>", ","]
    assert not {"red", "frog"} & {rival.token.text for rival in rivals}  # its own tokens
    assert {rival.token.label for rival in rivals} == {span.label for span in TOKENS} - {"red", "frog"}
    labels = {rival.token.label for rival in found.rivals("red frog", specials=False)}
    assert labels == {"a", "cat", ",", "a#2", "and", "cat#2"}


def test_a_word_alone_has_no_thief_but_the_special_tokens():
    found = dataclasses.replace(made(images=1), tokens=((TOKENS[0], SPANS[0], TOKENS[9]),))
    assert found.thief("cat", specials=False) is None
    assert found.thief("cat").token in (TOKENS[0], TOKENS[9])


def test_measures_and_overlap_go_by_the_words():
    found = planted()
    measures = found.measures()
    assert list(measures) == ["cat", "red frog", "cat#2"]
    assert measures["red frog"].peak == pytest.approx(0.2)
    assert measures["red frog"].centre[0] > 0.5 > measures["cat"].centre[0]
    assert found.overlap().shape == (3, 3)
    assert found.overlap()[0, 1] == 0


def test_an_overlay_is_hottest_where_the_word_looks():
    picture = Image.new("RGB", (60, 40), (90, 90, 90))
    glowing = np.asarray(planted().overlay(picture, "cat", alpha=0.8)).sum(-1)
    assert glowing.shape == (40, 60)
    assert glowing[5, 5] > glowing[35, 55]
    for options in ({"step": 0}, {"layer": "mid_block"}, {"layer": "mid_block", "head": 1, "step": 2}):
        assert made().overlay(picture, "cat", 1, **options).size == (60, 40)
    with pytest.raises(ValueError, match="alpha"):
        made().overlay(picture, "cat", alpha=2.0)


@pytest.mark.parametrize("resolve", [(), ("step",), ("head",), ALL])
def test_a_record_survives_a_file(tmp_path, resolve):
    found = made(resolve)
    found.save(tmp_path / "r.safetensors")
    again = AttentionRecord.load(str(tmp_path / "r.safetensors"))
    assert again.to_dict() == found.to_dict()
    assert (again.spans, again.tokens, again.text) == (found.spans, found.tokens, found.text)
    for kind in ("attention", "maps", "step_maps"):
        assert len(getattr(again, kind)) == len(getattr(found, kind))
        assert all(map(torch.equal, getattr(again, kind), getattr(found, kind)))
    assert list(again.layer_maps) == sorted(found.layer_maps)
    for name, images in found.layer_maps.items():
        assert all(map(torch.equal, again.layer_maps[name], images))


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "r.safetensors"
    with pytest.raises(GuidanceError, match="cannot read the attention record"):
        AttentionRecord.load(path)
    path.write_bytes(b"nothing of this kind")
    with pytest.raises(GuidanceError, match="cannot read"):
        AttentionRecord.load(path)
    save_file({"a": torch.zeros(1)}, str(path), metadata={"format": "other"})
    with pytest.raises(GuidanceError, match=r'wanted format "heedful\.attention/1", got "other"'):
        AttentionRecord.load(path)
    for told in ("{", "[]", '{"spans": 3}'):
        save_file(
            {"a": torch.zeros(1)}, str(path), metadata={"format": "heedful.attention/1", "record": told}
        )
        with pytest.raises(GuidanceError, match="damaged"):
            AttentionRecord.load(path)


def test_it_fits_into_json_and_tells_its_numbers():
    told = json.loads(json.dumps(made().to_dict()))
    assert set(told["measures"][0]["cat"]) == {"peak", "mass", "entropy", "centre", "spread"}
    assert told["steps"] == [801.0, 401.0, 1.0]
    assert len(told["overlap"][1]) == 3


def test_a_notebook_shows_it_with_every_text_escaped():
    hostile = 'a <script>alert("x")</script> & \N{FROG FACE}'
    span = Span("<script>", (2,))
    found = dataclasses.replace(
        made(images=1), prompts=(hostile,), spans=((span,),), maps=(torch.rand(1, 4, 6),), tokens=((span,),)
    )
    shown = found._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert shown.count("<img") == 1


def test_a_notebook_says_what_it_does_not_show():
    assert made(images=3)._repr_html_().count("<section") == 3
    many = made(images=10)._repr_html_()
    assert many.count("<section") == 8
    assert "images not shown" in many
    empty = dataclasses.replace(made(images=1), prompts=(), spans=((),), maps=(torch.zeros(0, 4, 6),))
    assert "(embeddings)" in empty._repr_html_()


def test_it_names_itself():
    assert repr(made()) == (
        "AttentionRecord(2 images, 3 steps, 2 layers, 4x6, words: cat, red frog, cat#2; cat, red frog, cat#2)"
    )
