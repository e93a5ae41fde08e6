"""What makes attention follow the words is in these functions: exchanged tails, the loss, the check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from heedful.emoji.tokenizer import MAX_LENGTH, build_tokenizer
from heedful.emoji.training import attention
from heedful.emoji.training.diffusion import (
    DiffusionStep,
    Generator,
    build_scheduler,
    build_text_encoder,
    with_tails,
)
from heedful.emoji.training.export import assemble, export_pipeline, lay_out
from heedful.emoji.training.latents import Drawn, Latents, draw, encode, tokenise
from heedful.emoji.training.loop import Plan
from heedful.emoji.training.vae import Reconstruction, edges, peak_ratio, reconstruct, set_scaling, train_vae
from heedful.emoji.world import scenes
from PIL import Image
from transformers import CLIPConfig, CLIPModel

TOKENIZER = build_tokenizer()
ALPHAS = build_scheduler().alphas_cumprod


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


@pytest.fixture(scope="module")
def latents(vae: AutoencoderKL) -> Latents:
    return encode(vae, draw(TOKENIZER, 3, 6, noisy=0.3))


@pytest.fixture(scope="module")
def model() -> Generator:
    torch.manual_seed(0)
    return Generator(TOKENIZER)


def test_tails_are_exchanged_from_the_end_token_on() -> None:
    tokens = torch.tensor([[7, 1, 9, 9, 9], [7, 1, 2, 3, 9]])
    words = torch.arange(10.0).view(2, 5, 1)
    empty = -torch.arange(1.0, 6.0).view(5, 1)
    keep, donors = torch.tensor([False, False]), torch.tensor([-1, 0])
    made = with_tails(words, empty, tokens, 9, keep, donors)[..., 0]
    assert made.tolist() == [[0, 1, -3, -4, -5], [5, 6, 7, 8, 2]]
    kept = with_tails(words, empty, tokens, 9, torch.tensor([True, True]), donors)
    assert torch.equal(kept, words)


def test_a_caption_s_tail_tells_nothing_at_first(model: Generator) -> None:
    """Two captions of one length differ only at their words; what follows them is equal."""
    tokens = tokenise(TOKENIZER, ["a cat", "a cat"])
    swapped = tokens.clone()
    swapped[1] = tokenise(TOKENIZER, ["a dog"])[0]
    hidden = model.text_encoder(swapped).last_hidden_state
    empty = model.text_encoder(model.empty).last_hidden_state[0]
    none, borrowed = torch.zeros(2, dtype=torch.bool), torch.full((2,), -1)
    made = with_tails(hidden, empty, swapped, model.end, none, borrowed)
    assert torch.equal(made[0, 3:], made[1, 3:])
    assert not torch.allclose(made[0, 2], made[1, 2])
    assert not torch.allclose(hidden[0, 3:], hidden[1, 3:])


def test_word_identity_is_most_of_what_an_untrained_encoder_says(model: Generator) -> None:
    tokens = tokenise(TOKENIZER, ["a cat and a dog", "the dog and one cat", "cat, dog"])
    hidden = model.text_encoder(tokens).last_hidden_state
    cat, dog = (TOKENIZER.convert_tokens_to_ids(word) for word in ("cat</w>", "dog</w>"))
    cats, dogs = hidden[tokens == cat], hidden[tokens == dog]
    within = (cats - cats.mean(0)).square().sum() + (dogs - dogs.mean(0)).square().sum()
    assert within < 0.5 * (cats.mean(0) - dogs.mean(0)).square().sum()


def test_a_step_is_the_same_each_time_and_can_be_learnt_from(model: Generator, latents: Latents) -> None:
    step = DiffusionStep(latents, 1.0, steps=10, batch_size=4, alphas=ALPHAS)
    losses = [step(model, torch.Generator().manual_seed(5), number)[0] for number in (0, 0)]
    assert losses[0].item() == losses[1].item()
    losses[0].backward()
    grown = model.text_encoder.get_input_embeddings().weight.grad
    assert grown is not None
    assert grown.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.average.parameters())
    model.zero_grad()


def test_the_tail_is_hidden_first_and_swapped_in_half_of_the_samples_later(
    model: Generator, latents: Latents
) -> None:
    step = DiffusionStep(latents, 1.0, steps=100, batch_size=400, alphas=ALPHAS)
    rows = torch.zeros(400, dtype=torch.long)
    tokens, keep, donors = step._captions(model, rows, torch.Generator().manual_seed(1), 64)
    dropped = (tokens == model.empty).all(1)
    assert 0.05 < dropped.float().mean() < 0.16
    assert torch.equal(keep, dropped)
    assert set(donors.tolist()) == {-1}
    tokens, keep, donors = step._captions(model, rows, torch.Generator().manual_seed(1), 65)
    assert 0.45 < keep.float().mean() < 0.65
    assert sorted(donors.tolist()) == list(range(400))


def test_the_average_follows(model: Generator) -> None:
    live, kept = model.unet.conv_in.weight, model.average["unet"].conv_in.weight
    before = (live - kept).abs().max().item()
    with torch.no_grad():
        live.add_(1.0)
    model.update_average(0)
    assert (live - kept).abs().max().item() < before + 0.2
    assert not torch.equal(live, kept)


def test_attention_is_measured_and_the_processors_put_back(model: Generator, vae: AutoencoderKL) -> None:
    unet = model.average["unet"]
    kept = unet.attn_processors
    known = list(scenes(4, 2, subjects=2))
    found = attention.measure(unet, model.average["text_encoder"], vae, TOKENIZER, ALPHAS, known)
    assert set(found) == {4, 8, 16}
    assert all(0.5 < seen.in_box < 1.5 for seen in found.values())
    assert all(0 < seen.peak <= 1 for seen in found.values())
    assert unet.attn_processors == kept


def test_word_positions_are_those_of_all_tokens() -> None:
    tokens = tokenise(TOKENIZER, ["a red backpack and a bow"])[0]
    assert attention.word_positions(TOKENIZER, tokens, "red") == [2]
    assert attention.word_positions(TOKENIZER, tokens, "backpack") == [3, 4]
    assert attention.word_positions(TOKENIZER, tokens, "bow") == [7]
    with pytest.raises(ValueError, match='"frog" is not in "a red backpack and a bow'):
        attention.word_positions(TOKENIZER, tokens, "frog")


def test_scenes_and_latents_come_back_from_their_files(tmp_path: Path, latents: Latents) -> None:
    drawn = draw(TOKENIZER, 3, 4, noisy=0.0)
    drawn.save(tmp_path / "scenes.pt")
    again = Drawn.load(tmp_path / "scenes.pt")
    assert torch.equal(drawn.images, again.images)
    assert torch.equal(drawn.tokens, again.tokens)
    assert drawn.tokens.shape[-1] == MAX_LENGTH
    latents.save(tmp_path / "latents.pt")
    assert torch.equal(Latents.load(tmp_path / "latents.pt").mean, latents.mean)
    with pytest.raises(FileNotFoundError, match='run the stage "latents" first'):
        Latents.load(tmp_path / "nothing.pt")


def test_a_frozen_encoder_stays_and_the_decoder_learns(tmp_path: Path, vae: AutoencoderKL) -> None:
    images = draw(TOKENIZER, 3, 8, noisy=0.0).images
    before = vae.encoder.conv_in.weight.clone(), vae.decoder.conv_in.weight.clone()
    plan = Plan(steps=2, folder=tmp_path, save_every=2, show_every=1, warmup=1)
    train_vae(vae, images, images, plan, batch_size=2, encoder_frozen=True)
    assert torch.equal(vae.encoder.conv_in.weight, before[0])
    assert not torch.equal(vae.decoder.conv_in.weight, before[1])
    assert (tmp_path / "model" / "config.json").is_file()
    assert (tmp_path / "sheet-000002.png").is_file()
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "fresh_psnr" in logged[-1]


def test_reconstruction_and_its_figures(vae: AutoencoderKL) -> None:
    images = draw(TOKENIZER, 3, 2, noisy=0.0).images
    assert reconstruct(vae, images).shape == (2, 3, 64, 64)
    assert peak_ratio(torch.full((1, 3, 4, 4), 0.2)).item() == pytest.approx(20.0, abs=1e-4)
    flat = torch.zeros(1, 3, 16, 16)
    assert edges(flat).sum() == 0
    flat[..., 8:] = 1.0
    assert edges(flat)[0, 0, 0].tolist() == [0] * 5 + [1] * 5 + [0] * 6
    assert (
        Reconstruction(vae, encoder_frozen=False)(flat.repeat(1, 1, 4, 4), torch.zeros(1, 4, 16, 16))[1] > 0
    )
    set_scaling(vae, images)
    assert vae.config.scaling_factor > 0


def test_an_exported_pipeline_is_float16_on_disk_and_float32_in_use(
    tmp_path: Path, model: Generator, vae: AutoencoderKL
) -> None:
    from diffusers import StableDiffusionPipeline

    average = model.average
    export_pipeline(assemble(average["unet"], average["text_encoder"], vae, TOKENIZER), tmp_path)
    assert (tmp_path / "tokenizer" / "merges.txt").is_file()
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert {part.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder)} == {torch.float32}
    assert average["unet"].dtype == torch.float32


def test_sheets_hold_all_images(tmp_path: Path) -> None:
    lay_out([Image.new("RGB", (8, 8), "red")] * 3, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (40, 40)


def test_training_can_start_from_an_exported_pipeline(tmp_path: Path, vae: AutoencoderKL) -> None:
    torch.manual_seed(1)
    trained = Generator(TOKENIZER)
    export_pipeline(assemble(trained.unet, trained.text_encoder, vae, TOKENIZER), tmp_path)
    begun = Generator(TOKENIZER)
    begun.start_from(tmp_path)
    for name in ("unet", "text_encoder"):
        expected = {key: value.half().float() for key, value in getattr(trained, name).state_dict().items()}
        for part in (getattr(begun, name), begun.average[name]):
            for key, value in part.state_dict().items():
                assert torch.equal(value.float(), expected[key].float()), key


def test_training_can_start_from_the_text_tower_of_a_clip(tmp_path: Path) -> None:
    text = build_text_encoder(TOKENIZER).config.to_dict() | {"hidden_act": "gelu"}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(2)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    clip.save_pretrained(tmp_path)
    begun = Generator(TOKENIZER)
    begun.start_from(None, tmp_path)
    tokens = TOKENIZER(["a cat"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    expected = clip.eval().text_model(tokens).last_hidden_state
    for encoder in (begun.text_encoder, begun.average["text_encoder"]):
        assert torch.allclose(encoder.eval()(tokens).last_hidden_state, expected, atol=1e-5)
    assert all(weight.requires_grad for weight in begun.text_encoder.parameters())
    assert not any(weight.requires_grad for weight in begun.average.parameters())
