"""What `heedful explain-methods` was asked for, as one frozen value; light: mistakes answer at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .explain_settings import METHODS
from .settings import DTYPES, LARGEST_SEED, UsageError

STUDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "classifier": "ViT classifier, one subject: perturbation, blank-out, agreement, localisation",
        "classifier-attack": "ViT classifier, one subject: masked attack",
        "classifier-pairs": "ViT classifier, one of two subjects: blank-out, pointing, class specificity",
        "judge-pairs": "ViT with a sigmoid for each label, one of two subjects: specificity, localisation",
        "blank-out-fills": "ViT classifier, one subject: blank-out by black, gray and blurred patches",
        "blank-out-fills-pairs": "ViT classifier, one of two subjects: blank-out by several fills",
        "clip": "CLIP over the subjects' texts, one subject: perturbation, localisation",
        "clip-pairs": "CLIP, a text on one of two subjects: specificity, localisation",
        **{
            f"tokens-{side}": f"ViT classifier on {side} pixels a side, {(side // 8) ** 2} patches: blank-out"
            for side in (24, 32, 48, 64, 96, 128)
        },
        "visual-bert": "VisualBERT on questions: words, regions and both perturbed, blanked out, pointed at",
        "lxmert": "LXMERT on questions: words, regions and both perturbed, blanked out, pointed at",
        "visual-bert-log-odds": "VisualBERT, where the answer's log-odds are explained, and not its logit",
        "lxmert-log-odds": "LXMERT, where the answer's log-odds are explained, and not its logit",
        "detr": "DETR, every box that it found: masks of relevance and their AP, pointing, segmentation",
        "detr-pairs": "DETR, two subjects: specificity",
        "bert": "BERT on captions: perturbation, blank-out, pointing at the words that decide",
        "clip-text": "CLIP from text to image: perturbation of words",
    }
)
"""The studies of the embedded models, each with what it measures; `studies.py` builds them."""
QUICK_STUDY: Final = "classifier"
QUICK_COUNT: Final = 32
"""What is done where nothing is asked for: half a minute on a CPU."""
ABLATIONS: Final = ("generic, no normalisation", "generic, no aggregation")
"""Those of heedful.explain.evaluation, which is not imported here for its weight."""
PROTOCOLS: Final = (
    "perturbation", "deletion-insertion", "blank-out", "agreement", "masked-attack", "pointing",
    "segmentation", "specificity", "masks", "found-masks",
)  # fmt: skip
"""Beginnings of the names of tests: "perturbation" stands for that of words and that of regions, too."""
ALL: Final = "all"
"""In place of names of methods or protocols."""
OWN_PROTOCOLS: Final = ("perturbation", "agreement", "pointing", "segmentation")
"""What own images are measured by where --protocol does not say: what few forwards are enough for."""
OWN_COUNT: Final = 256
"""So many of a person's own images are taken, at most, where --count does not say."""


@dataclass(frozen=True)
class MethodsSettings:
    """All that decides which methods are compared by what, on which model and data.

    Attributes:
        studies: of `STUDIES`; none for the quick one, or for the folder of images.
        images: a person's own images, with `labels` (a CSV file) and `masks` (a folder) where there are any.
        imagenet_seg: the file gtsegs_ijcv.mat, in place of `images`.
        model: for own images: a folder or a hub id; None for the embedded classifier.
        template: for models that compare images with texts: the text of a label, which stands at {}.
        methods: of `METHODS` and `ABLATIONS`, or `ALL`; none for all in a study that is named, else for a
            handful that each need one forward.
        protocols: of `PROTOCOLS`, or `ALL`; none for all in a study, for own images for `OWN_PROTOCOLS`.
        count: how many items; None for each study's own number, of the quick one `QUICK_COUNT`.
        batch_size: items at once.
        seed: of the data; None for each study's own, and for 0 with own images.
        device: a torch device; None for CUDA where there is one, else the CPU.
        dtype: one of `DTYPES`; None for float16 on CUDA and float32 elsewhere.

    Raises:
        UsageError: values outside their range, or that do not go together.
    """

    studies: tuple[str, ...] = ()
    images: Path | None = None
    labels: Path | None = None
    masks: Path | None = None
    imagenet_seg: Path | None = None
    model: str | None = None
    template: str = "a photo of a {}"
    methods: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    count: int | None = None
    batch_size: int = 16
    seed: int | None = None
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        _check_each("--study", "study", self.studies, tuple(STUDIES))
        _check_each("--method", "method", self.methods, (*METHODS, *ABLATIONS, ALL))
        _check_each("--protocol", "protocol", self.protocols, (*PROTOCOLS, ALL))
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f'--dtype must be one of {", ".join(DTYPES)}; got "{self.dtype}"')
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed must lie in 0..{LARGEST_SEED}, got {self.seed}")
        for option, number in (("--count", self.count), ("--batch-size", self.batch_size)):
            if number is not None and number < 1:
                raise UsageError(f"{option} must be at least 1, got {number}")
        if "{}" not in self.template:
            raise UsageError(f'--template needs {{}}, where the label stands; got "{self.template}"')
        self._check_company()

    @property
    def own(self) -> bool:
        """Whether a person's own images are what methods are compared on."""
        return self.images is not None or self.imagenet_seg is not None

    @property
    def quick(self) -> bool:
        """Whether nothing says what to compare on."""
        return not self.own and not self.studies

    @property
    def chosen(self) -> tuple[str, ...]:
        """The studies of the embedded models that are to be made."""
        return () if self.own else self.studies or (QUICK_STUDY,)

    def measures(self, test: str) -> bool:
        """Whether a test of this name is wanted."""
        default = OWN_PROTOCOLS if self.own else (ALL,)
        wanted = self.protocols or default
        return ALL in wanted or any(test.startswith(each) for each in wanted)

    def _check_company(self) -> None:
        """Refuse options that nothing would heed."""
        if self.images is not None and self.imagenet_seg is not None:
            raise UsageError("--images and --imagenet-seg are two sets of data; give one of both")
        if self.own and self.studies:
            raise UsageError("--study brings data of its own; leave it out with --images or --imagenet-seg")
        if self.imagenet_seg is not None and (self.masks is not None or self.labels is not None):
            raise UsageError("--imagenet-seg brings its own masks, and no labels; leave both options out")
        for option, value in {"--masks": self.masks, "--labels": self.labels}.items():
            if value is not None and self.images is None:
                raise UsageError(f"{option} goes with --images, the folder of the images that it is for")
        if self.model is not None and not self.own:
            raise UsageError("--model goes with --images or --imagenet-seg; studies bring their own model")


def parse_list(given: Sequence[str]) -> tuple[str, ...]:
    """Names from repeated or comma-separated options; ablations have a comma in their own names."""
    found: list[str] = []
    for one in given:
        rest = one.strip()
        whole = next((name for name in ABLATIONS if rest == name), None)
        found += [whole] if whole else [part.strip() for part in rest.split(",")]
    return tuple(found)


def _check_each(option: str, what: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            meant = f' did you mean "{near[0]}"?' if near else ""
            raise UsageError(f'there is no {what} "{value}";{meant} choose of {", ".join(choices)}')
        if values.count(value) > 1:
            raise UsageError(f'{option} "{value}" is given twice')
