"""Trains the VAE, and later its decoder alone, which leaves the UNet's latents as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from .export import lay_out
from .latents import to_pixels
from .loop import Plan, run

LEARNING_RATE: Final = 1.2e-3
ABSOLUTE, SQUARED, GRADIENT, DIVERGENCE = 2.0, 2.0, 0.5, 1e-3
EDGE_WEIGHT: Final = 2.0
"""How much more an error near an edge counts: most of a scene is a gradient that any decoder gets right."""


def build_vae() -> AutoencoderKL:
    """A VAE (Rombach et al. 2022) with 1.6 M parameters: 64 x 64 pixels to 4 channels of 16 x 16."""
    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


class Reconstruction(nn.Module):
    """The VAE from image to image, through latents drawn from the posterior, so that one call is one pass."""

    def __init__(self, vae: AutoencoderKL, *, encoder_frozen: bool) -> None:
        super().__init__()
        self.vae = vae
        self.encoder_frozen = encoder_frozen
        if encoder_frozen:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)

    def forward(
        self,
        pixels: Float[Tensor, "batch rgb height width"],
        noise: Float[Tensor, "batch channel rows columns"],
    ) -> tuple[Tensor, Tensor]:
        """The reconstruction, and the posterior's mean divergence from a normal distribution."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            posterior = self.vae.encode(pixels).latent_dist
            latents = posterior.mean + posterior.std * noise
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).float().mean()
        return self.vae.decode(latents).sample, divergence

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW over what is not frozen."""
        free = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(free, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4)


@dataclass(frozen=True)
class ReconstructionStep:
    """One step's loss: 2 |e| + 2 e^2, more near edges, 0.5 |gradient of e|, and 1e-3 of the divergence."""

    images: UInt8[Tensor, "scene height width rgb"]
    batch_size: int

    def __call__(
        self, model: nn.Module, generator: torch.Generator, number: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss, and the reconstruction's PSNR to show."""
        device = next(model.parameters()).device
        rows = torch.randint(len(self.images), (self.batch_size,), generator=generator)
        pixels = to_pixels(self.images[rows])
        if torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        noise = torch.randn(self.batch_size, 4, 16, 16, generator=generator).to(device)
        pixels = pixels.to(device)
        made, divergence = model(pixels, noise)
        error = made.float() - pixels
        weight = 1.0 + EDGE_WEIGHT * edges(pixels)
        loss = (weight * (ABSOLUTE * error.abs() + SQUARED * error.square())).mean()
        loss = (
            loss
            + GRADIENT * sum(error.diff(dim=dim).abs().mean() for dim in (-1, -2))
            + DIVERGENCE * divergence
        )
        return loss, {"psnr": peak_ratio(error.detach()).mean().item()}


def edges(pixels: Float[Tensor, "batch rgb height width"]) -> Float[Tensor, "batch one height width"]:
    """1 near an edge, 0 where the picture is smooth; grown by two pixels."""
    across = functional.pad(pixels.diff(dim=-1), (0, 1)).abs().amax(1, keepdim=True)
    down = functional.pad(pixels.diff(dim=-2), (0, 0, 0, 1)).abs().amax(1, keepdim=True)
    return functional.max_pool2d((torch.maximum(across, down) > 0.1).float(), 5, stride=1, padding=2)


def peak_ratio(error: Float[Tensor, "batch rgb height width"]) -> Float[Tensor, "batch"]:
    """Peak signal-to-noise ratio in dB of each image, for pixels between -1 and 1."""
    return -10.0 * (error.square().mean((1, 2, 3)) / 4.0).log10()


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKL, images: UInt8[Tensor, "scene height width rgb"], *, batch_size: int = 32
) -> Float[Tensor, "scene rgb height width"]:
    """The images through the VAE, by the posterior's mean, cut to -1 to 1."""
    made = [
        vae.decode(vae.encode(to_pixels(part).to(vae.device)).latent_dist.mean).sample.cpu()
        for part in images.split(batch_size)
    ]
    return torch.cat(made).clamp(-1.0, 1.0)


def train_vae(
    vae: AutoencoderKL,
    images: UInt8[Tensor, "scene height width rgb"],
    fresh: UInt8[Tensor, "scene height width rgb"],
    plan: Plan,
    *,
    batch_size: int = 16,
    encoder_frozen: bool = False,
) -> AutoencoderKL:
    """Train, resuming from `plan.folder`; reports PSNR on `fresh` and saves `plan.folder/model`."""
    model = Reconstruction(vae, encoder_frozen=encoder_frozen)

    def report(trained: nn.Module, number: int) -> dict[str, float]:
        made = reconstruct(trained.vae, fresh)
        show(fresh[:16], made[:16], plan.folder / f"sheet-{number:06d}.png")
        trained.vae.save_pretrained(plan.folder / "model")
        return {"fresh_psnr": peak_ratio(made - to_pixels(fresh)).mean().item()}

    run(model, [model.optimizer()], ReconstructionStep(images, batch_size), plan, report=report)
    return vae


def set_scaling(vae: AutoencoderKL, images: UInt8[Tensor, "scene height width rgb"]) -> None:
    """Set the scaling factor that gives the latents of these images deviation 1, as the UNet's noise has."""
    with torch.no_grad():
        means = [vae.encode(to_pixels(part).to(vae.device)).latent_dist.mean for part in images.split(32)]
    vae.register_to_config(scaling_factor=float(1.0 / torch.cat(means).std()))


def show(
    images: UInt8[Tensor, "scene height width rgb"], made: Float[Tensor, "scene rgb height width"], path: Path
) -> None:
    """A sheet of originals, each row above its reconstructions."""
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor()
    originals = processor.postprocess(to_pixels(images))
    copies = processor.postprocess(made)
    rows = [
        image
        for start in range(0, len(originals), 8)
        for image in originals[start : start + 8] + copies[start : start + 8]
    ]
    lay_out(rows, path, columns=8)
