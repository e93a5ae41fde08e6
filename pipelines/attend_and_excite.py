"""The class that diffusers deprecated, with its arguments, without a denoising loop of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from ..guidance import AttendAndExcite, Objective
from ..guidance.layers import Grid, LayerChoice, cross_attention_layers
from ..guidance.objectives import Words
from .mixin import AttendAndExciteMixin, objective_of
from .retry import Checker

_DEFAULT_ATTENTION_GRID = (16, 16)


class StableDiffusionAttendAndExcitePipeline(AttendAndExciteMixin, StableDiffusionPipeline):
    """Stable Diffusion in which no subject of the prompt is neglected (Chefer et al., SIGGRAPH 2023).

    Takes the arguments of diffusers' deprecated class of this name and, given `token_indices`, computes what
    that class computes: with DDIM and PNDM at square sizes the same call gives the same image. Where that
    class is wrong the corrected reading applies: latents are scaled for the denoiser as the scheduler asks
    (Euler, Heun ...), maps of non-square images are laid out as (height, width), layers are found at sizes
    other than 512, one list of indices serves all prompts. Given `words` instead, or neither, the corrected
    `AttendAndExcite` is used.

    `from_pretrained`, `from_pipe` and `save_pretrained` are those of `StableDiffusionPipeline`, and so is
    what it can do besides: LoRA, IP-Adapter, `callback_on_step_end`, xFormers. After a call, `guided_run`
    holds its record, and with `heeded_or_retry` `tries` what was tried for each image.
    """

    @torch.no_grad()
    def __call__(  # type: ignore[override]  # the order of arguments is that of diffusers' class
        self,
        prompt: str | list[str] | None = None,
        token_indices: Sequence[int] | Sequence[Sequence[int]] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        callback_steps: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
        max_iter_to_alter: int = 25,
        thresholds: Mapping[int, float] | None = None,
        scale_factor: float = 20,
        attn_res: Grid | None = _DEFAULT_ATTENTION_GRID,
        clip_skip: int | None = None,
        *,
        words: Words = None,
        objective: Objective | None = None,
        layers: LayerChoice = None,
        embedded_prompt: str | Sequence[str] | None = None,
        heeded_or_retry: int | None = None,
        checker: Checker | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate images; the arguments are those of diffusers' pipelines, and of Attend-and-Excite:

        Args:
            token_indices: positions of the subjects' tokens (see `get_indices`), one list, or one a prompt.
            words: the subjects as words or phrases instead; then the four below are not used.
            max_iter_to_alter: number of steps in which the latents are moved.
            thresholds: at which step the latents are refined until each subject's attention reaches which
                height (0 to 1); None is {0: 0.05, 10: 0.5, 20: 0.8}.
            scale_factor: step size; 20 suits Stable Diffusion 1.
            attn_res: (height, width) of the attention maps to read. Where no layer has the default (16, 16),
                or with None, the layers whose grid is closest to a quarter of the latents' are read. `layers`
                takes its place.
            objective, layers, embedded_prompt, heeded_or_retry, checker: see `AttendAndExciteMixin.__call__`.

        Returns:
            What `StableDiffusionPipeline` returns.
        """
        host = {name: value for name, value in locals().items() if name in _HOST_ARGUMENTS} | kwargs
        if callback is not None:
            host |= {"callback": callback, "callback_steps": callback_steps}
        if token_indices is None or objective is not None:
            wanted = objective_of(objective, words, token_indices)
        else:
            layers = self._attention_grid(attn_res, height, width) if layers is None else layers
            wanted = AttendAndExcite.paper(
                token_indices,
                words,
                max_iter_to_alter=max_iter_to_alter,
                thresholds=thresholds,
                scale_factor=scale_factor,
            )
        return self._heed(host, wanted, layers, embedded_prompt, heeded_or_retry, checker)

    def _attention_grid(self, wanted: Grid | None, height: int | None, width: int | None) -> Grid | None:
        default = self.unet.config.sample_size
        sides = default if isinstance(default, list | tuple) else (default, default)
        grid = tuple(
            size // self.vae_scale_factor if size else side
            for size, side in zip((height, width), sides, strict=True)
        )
        found = {layer.grid(grid) for layer in cross_attention_layers(self.unet)}
        return None if wanted == _DEFAULT_ATTENTION_GRID and wanted not in found else wanted


_HOST_ARGUMENTS = frozenset(inspect.signature(StableDiffusionPipeline.__call__).parameters) - {
    "self",
    "kwargs",
}
