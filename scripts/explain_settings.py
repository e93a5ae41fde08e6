"""What `heedful explain` was asked for, as one frozen value; light, so that mistakes answer at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .settings import DTYPES, LARGEST_SEED, UsageError

METHODS = (
    "generic", "libra", "attribution", "partial_lrp", "legrad", "grad_cam", "gradient_rollout", "rollout",
    "raw_attention", "flow", "gradient_flow", "gradient_x_input", "libra_gradient_x_input", "saliency",
    "smoothgrad", "integrated_gradients", "occlusion",
)  # fmt: skip
"""Those of heedful.explain, which are not imported here for their weight."""
LAYERED = ("raw_attention", "grad_cam", "partial_lrp")
"""The methods that look at one layer."""


@dataclass(frozen=True)
class ExplainSettings:
    """All that decides what is explained, and how.

    Attributes:
        image: a file that Pillow opens.
        texts: what the image is compared with, for models that do so.
        labels: classes, by label or number, for classifiers; none for the predicted one.
        methods: of `METHODS`; none for `libra`, or for raw attention with `query`.
        query: (x, y) in pixels of the image: whose attention to see.
        layer: of the methods in `LAYERED`; `head`, of raw attention.
        model: a folder or a hub id; None for the embedded CLIP with texts, else for the embedded classifier.
        device: a torch device; None for CUDA where there is one, else the CPU.
        dtype: one of `DTYPES`; None for float16 on CUDA and float32 elsewhere.
        seed: of SmoothGrad's noise.

    Raises:
        UsageError: values outside their range, or that do not go together.
    """

    image: Path
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    query: tuple[float, float] | None = None
    layer: int | None = None
    head: int | None = None
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.texts and self.labels:
            raise UsageError(
                "--text is for models that compare an image with texts, --label for classifiers; "
                "give one of both"
            )
        _check_each("--text", self.texts)
        _check_each("--label", self.labels)
        _check_methods(self.methods)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{self.dtype}"')
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {self.seed}")
        self._check_company()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods, with the default where none was named."""
        return self.methods or (("raw_attention",) if self.query else ("libra",))

    def _check_company(self) -> None:
        """Refuse options that no chosen method would heed."""
        wanted = {
            "--query": (self.query, ("raw_attention",)),
            "--head": (self.head, ("raw_attention",)),
            "--layer": (self.layer, LAYERED),
            "--seed": (self.seed, ("smoothgrad",)),
        }
        for option, (value, methods) in wanted.items():
            if value is not None and not set(methods) & set(self.chosen):
                raise UsageError(
                    f"{option} is heeded by {', '.join(methods)} only; got --method {', '.join(self.chosen)}"
                )


def _check_each(option: str, values: Sequence[str]) -> None:
    for value in values:
        if not value.strip():
            raise UsageError(f'{option} is empty; say what to look for, such as {option} "a cat"')
        if values.count(value) > 1:
            raise UsageError(f'{option} "{value}" is given twice')


def _check_methods(methods: Sequence[str]) -> None:
    for method in methods:
        if method not in METHODS:
            near = difflib.get_close_matches(method, METHODS, 1)
            meant = f' did you mean "{near[0]}"?' if near else ""
            raise UsageError(f'there is no method "{method}";{meant} choose of {", ".join(METHODS)}')
        if methods.count(method) > 1:
            raise UsageError(f'--method "{method}" is given twice')


def parse_methods(given: Sequence[str]) -> tuple[str, ...]:
    """Methods from repeated or comma-separated options."""
    return tuple(part.strip() for one in given for part in one.split(","))


def parse_query(text: str) -> tuple[float, float]:
    """`"120,40"` to (120, 40): x, then y, in pixels."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*,\s*(\d{1,6}(?:\.\d+)?)\s*", text)
    if not match:
        raise UsageError(f'--query must be X,Y in pixels of the image, such as 120,40; got "{text}"')
    return float(match[1]), float(match[2])
