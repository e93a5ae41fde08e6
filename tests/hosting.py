"""What every pipeline that guidance knows must do, as checks that a test runs through for each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from heedful.guidance import AttendAndExcite, RelativeStep, Schedule, guide
from heedful.guidance.attach import lend
from heedful.guidance.denoiser import is_probed
from heedful.guidance.hosts import host_of
from recording import plain_attention
from torch import Tensor, nn

PROMPT = "a cat and a backpack"
OTHER = "a red frog with a dog"


def unet_attention(module: nn.Module, args: Any, kwargs: Any, rows: slice) -> Tensor:
    """(image, heads, position, token) of one call of a UNet's cross-attention, from its inputs."""
    return plain_attention(module, args[0], kwargs["encoder_hidden_states"], rows)


@dataclass(frozen=True)
class Case:
    """One kind of pipeline, tiny and with random weights, and how to call it.

    Attributes:
        name: what the tests call it.
        build: makes the pipeline, each time with the same weights.
        parts: what the parts of the denoiser's batch are, in order; exactly one is "conditional".
        parts_off: the same with guidance off.
        off: the arguments that turn guidance off; None where it has no guidance to turn off.
        arguments: further arguments for a number of prompts (an image to begin with for each, say).
        settings: arguments of every call.
        columns: where the words of `PROMPT` stand in the denoiser's text, counted by hand; the first has one
            token, the second several.
        grid: of the layers that are read when nothing else is asked for.
        direct: the attention of a layer, (image, heads, position, token), from its inputs, in float64.
        text: the denoiser's argument that holds the text.
        schedulers: what else the pipeline takes, by class name, each with its settings.
        dtypes: what it runs in on a CPU besides float32.
        per_image: `arguments` takes the number of images to make, not of prompts.
        calls: how often a step calls the denoiser, where each part has a call of its own, its own one first.
    """

    name: str
    build: Callable[[], Any]
    parts: tuple[str, ...] = ("unconditional", "conditional")
    parts_off: tuple[str, ...] = ("conditional",)
    off: Mapping[str, Any] | None = field(default_factory=lambda: {"guidance_scale": 1.0})
    arguments: Callable[[int], Mapping[str, Any]] = lambda count: {}
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"height": 160, "width": 128, "num_inference_steps": 2}
    )
    columns: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"cat": (2,), "backpack": (5, 6)})
    grid: tuple[int, int] = (10, 8)
    direct: Callable[[nn.Module, Any, Any, slice], Tensor] = unet_attention
    text: str = "encoder_hidden_states"
    schedulers: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"EulerDiscreteScheduler": {}, "DDIMScheduler": {"clip_sample": False}}
    )
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)
    calls: int = 1
    per_image: bool = False

    @property
    def words(self) -> list[str]:
        """The words of `PROMPT` that are guided."""
        return list(self.columns)

    def objective(self, size: float = 0.05, until: float = 1.0, **further: Any) -> AttendAndExcite:
        """Excite these words by steps of a size, 0 for none, with no refinement."""
        schedule = Schedule({}, until=until)
        return AttendAndExcite(
            **{"words": self.words, **further}, schedule=schedule, step=RelativeStep(size), max_refinements=0
        )

    def run(
        self,
        pipe: Any,
        prompt: str | list[str] = PROMPT,
        seed: int = 0,
        count: int = 1,
        generators: list[torch.Generator] | None = None,
        **options: Any,
    ) -> Tensor:
        """The latents of one call; each image has a seed of its own."""
        prompts = 1 if isinstance(prompt, str) else len(prompt)
        if generators is None:
            generators = [
                torch.Generator(pipe.device).manual_seed(seed + image) for image in range(prompts * count)
            ]
        own = self.arguments(prompts * count if self.per_image else prompts)
        settings = {"output_type": "latent", **self.settings, **own, **options}
        return pipe(prompt=prompt, generator=generators, num_images_per_prompt=count, **settings).images

    def denoiser(self, pipe: Any) -> nn.Module:
        """The model that attends to the text."""
        return host_of(pipe, {"prompt": PROMPT}).denoiser

    def conditional(self, rows: int, off: bool = False) -> slice:
        """The conditional rows among those of the denoiser's batch."""
        parts = self.parts_off if off else self.parts
        size = rows // len(parts)
        first = parts.index("conditional") * size
        return slice(first, first + size)

    def with_scheduler(self, pipe: Any, name: str) -> None:
        """Give the pipeline another scheduler."""
        kind = getattr(diffusers, name)
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **self.schedulers[name])


def state(pipe: Any) -> list[Any]:
    """All that guidance touches, by identity and class."""
    modules = [
        (name, module)
        for part, whole in pipe.components.items()
        if isinstance(whole, nn.Module)
        for name, module in whole.named_modules(prefix=part)
    ]
    processors = [(name, getattr(module, "processor", None)) for name, module in modules]
    return [
        type(pipe),
        type(pipe.scheduler),
        [(name, type(module), module.training) for name, module in modules],
        [(name, id(found), type(found)) for name, found in processors],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for _, module in modules],
        [
            (parameter.requires_grad, parameter.grad)
            for _, module in modules
            for parameter in module.parameters(recurse=False)
        ],
        sorted(vars(pipe)),
    ]


@contextmanager
def poisoned(case: Case, pipe: Any, own: bool) -> Iterator[None]:
    """Within the block the denoiser is given other text in all rows but the conditional ones, or in these."""

    def poison(module: Any, args: Any, kwargs: Any) -> Any:
        if is_probed(module):
            return None
        text = kwargs[case.text].clone()
        mine = torch.zeros(len(text), dtype=torch.bool)
        mine[case.conditional(len(text))] = True
        rows = mine if own else ~mine
        noise = torch.Generator().manual_seed(9)
        text[rows] = torch.randn(text[rows].shape, generator=noise).to(text)
        return args, {**kwargs, case.text: text}

    hook = case.denoiser(pipe).register_forward_pre_hook(poison, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def layer_calls(pipe: Any) -> Iterator[dict[str, list[Any]]]:
    """Within the block, what each attention layer is called with: (module, args, kwargs) by its name."""
    layers = host_of(pipe, {"prompt": PROMPT}).layers()
    seen: dict[str, list[Any]] = {layer.name: [] for layer in layers}

    def watch(name: str) -> Any:
        return lambda module, args, kwargs: seen[name].append((module, args, kwargs))

    hooks = [layer.module.register_forward_pre_hook(watch(layer.name), with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def counted_steps(pipe: Any) -> Iterator[list[Any]]:
    """Within the block, the timesteps for which the scheduler is called."""
    timesteps: list[Any] = []

    def step(inherited: Any, self: Any, output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        timesteps.append(timestep)
        return inherited(output, timestep, *args, **kwargs)

    with lend(pipe.scheduler, step=step):
        yield timesteps


def last_loss(case: Case, pipe: Any, size: float) -> float:
    """The loss at which the last step of a run ends that moves the latents so far; 0 only looks.

    Every step but the first makes two moves and looks again, so that a step's own moves count.
    """
    schedule = Schedule(dict.fromkeys(range(1, 10), 1.0), until=10, unit="step")
    objective = dataclasses.replace(case.objective(size), schedule=schedule, max_refinements=2)
    with guide(pipe, objective) as session:
        case.run(pipe)
    return session.run.steps[-1].losses[0]


def assert_the_loss_falls(case: Case, pipe: Any, size: float, unguided: float) -> None:
    """The last step of a guided run ends at a lower loss than that of an unguided one with the same seed."""
    guided = last_loss(case, pipe, size)
    assert guided < unguided - 1e-5, f"{guided} is not below {unguided}"


def first_maps(case: Case, pipe: Any) -> Tensor:
    """The words' maps as the first probe finds them, (span, height, width)."""
    objective = dataclasses.replace(case.objective(0.0), schedule=Schedule({}, until=1, unit="step"))
    with guide(pipe, objective) as session:
        case.run(pipe)
    return session.run.maps[0]
