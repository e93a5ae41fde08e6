"""Someone's own images, read when they are needed: a folder with labels and masks, ImageNet-Segmentation."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from ..errors import InputError

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""What counts as an image, and as a mask."""
LABELS: Final = "labels.csv"
"""The labels file that is looked for in the folder itself."""
_HEADS: Final = ("file", "filename", "name", "image")
Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Example:
    """One image that is read when it is needed.

    Attributes:
        name: unique among all, such as "cats/one.png".
        read: the image, upright, in RGB, what is transparent in white.
        label: as it is written in the data; None where nothing says.
        mask: where the thing is, (height, width) of the image; None where nothing says.
    """

    name: str
    read: Callable[[], Image.Image]
    label: str | None = None
    mask: Callable[[], Mask] | None = None


def in_folder(
    images: str | Path, *, labels: str | Path | None = None, masks: str | Path | None = None
) -> tuple[Example, ...]:
    """The images of a folder, sorted by name.

    Args:
        images: the folder. Images in sub-folders are labelled by the names of these.
        labels: a CSV file with a line "image,label" each; None: `labels.csv` in the folder, if it is there.
        masks: a folder with an image of the same name, in any format, for each; what is not 0 is the thing.

    Raises:
        InputError: no image, images both in sub-folders and beside them, an image without a label or a mask
            where others have one, or a labels file that does not fit.
    """
    root = _folder(images, "images")
    paths = list(_images(root))
    if not paths:
        raise InputError(f"there is no image in {root}; images end with {', '.join(ENDINGS)}")
    names = [path.relative_to(root).as_posix() for path in paths]
    file = Path(labels) if labels is not None else root / LABELS
    said = _listed(file, names) if labels is not None or file.is_file() else _sorted(root, names)
    shown = {} if masks is None else _matched(_folder(masks, "masks"), names)
    return tuple(
        Example(name, _reading(path), said.get(name), _masking(shown[name]) if shown else None)
        for name, path in zip(names, paths, strict=True)
    )


def imagenet_segmentation(file: str | Path) -> tuple[Example, ...]:
    """The images and masks of ImageNet-Segmentation (Guillaumin et al. 2014), from gtsegs_ijcv.mat.

    Chefer et al. 2021 (CVPR) segment these. The file is one of MATLAB 7.3: `value/img` refers to images
    (channel, width, height), `value/gt` to masks (width, height).

    Raises:
        InputError: a file that is not there, or none of these; h5py missing.
    """
    h5py = _h5py()
    path = Path(file)
    try:
        with h5py.File(path, "r") as opened:
            count = len(opened["value/img"])
            if len(opened["value/gt"]) != count:
                raise KeyError("value/img and value/gt differ in length")
    except (OSError, KeyError) as problem:
        raise InputError(
            f"{path} is no file of ImageNet-Segmentation (gtsegs_ijcv.mat): {problem}; wanted HDF5 with "
            "value/img and value/gt"
        ) from problem
    return tuple(
        Example(f"{number:04d}", _reading_of(path, number), mask=_masking_of(path, number))
        for number in range(count)
    )


def plain(label: str) -> str:
    """A label as it is compared: small letters, spaces for _."""
    return " ".join(label.replace("_", " ").lower().split())


def _folder(path: str | Path, what: str) -> Path:
    if not Path(path).is_dir():
        raise InputError(f"the folder of {what} {path} is not there")
    return Path(path)


def _images(root: Path) -> Iterator[Path]:
    """All images below a folder, but for hidden ones."""
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in ENDINGS and path.is_file() and not hidden:
            yield path


def _sorted(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Labels by the first sub-folder; none where all images lie in the folder itself."""
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        raise InputError(
            f"{len(loose)} images, such as {loose[0]}, lie beside the sub-folders of {root}, which are "
            f"labels: move them into one, or write a {LABELS}"
        )
    return {} if loose else {name: name.split("/")[0] for name in names}


def _listed(file: Path, names: Sequence[str]) -> dict[str, str]:
    """Labels from lines "image,label"."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"cannot read the labels file {file}: {problem}") from problem
    if rows and rows[0][0].lower() in _HEADS and rows[0][0] not in names:
        rows = rows[1:]
    if wrong := next((row for row in rows if len(row) != 2 or not all(row)), None):
        raise InputError(f'a line of {file} must be "image,label", got "{",".join(wrong)}"')
    said = {row[0]: row[1] for row in rows}
    if missing := [name for name in names if name not in said]:
        raise InputError(f"{len(missing)} images have no label in {file}: {_few(missing)}")
    if strange := [name for name in said if name not in set(names)]:
        raise InputError(f"{file} names images that are not there: {_few(strange)}")
    return said


def _matched(root: Path, names: Sequence[str]) -> dict[str, Path]:
    """The mask of each image: the same name, whatever the format."""
    masks = {path.relative_to(root).with_suffix("").as_posix(): path for path in _images(root)}
    stems = {str(Path(name).with_suffix("").as_posix()): name for name in names}
    if len(stems) != len(names):
        raise InputError("two images differ only in their ending, and would share one mask; rename one")
    missing = [name for stem, name in stems.items() if stem not in masks]
    if missing:
        raise InputError(f"{len(missing)} images have no mask in {root}: {_few(missing)}")
    return {name: masks[stem] for stem, name in stems.items()}


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
            return image
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as problem:
        raise InputError(f"cannot read the image {path}: {problem}") from problem


def _reading(path: Path) -> Callable[[], Image.Image]:
    def read() -> Image.Image:
        image = _opened(path).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

    return read


def _masking(path: Path) -> Callable[[], Mask]:
    def read() -> Mask:
        image = _opened(path)
        if image.mode in ("LA", "RGBA", "PA"):
            image = image.convert("RGB")  # a picture's transparency is no part of what it marks
        values = np.array(image)
        return values.astype(bool) if values.ndim == 2 else (values != 0).any(-1)

    return read


def _reading_of(path: Path, number: int) -> Callable[[], Image.Image]:
    def read() -> Image.Image:
        with _h5py().File(path, "r") as opened:
            values = np.array(opened[opened["value/img"][number, 0]])
        return Image.fromarray(values.T.astype(np.uint8)).convert("RGB")

    return read


def _masking_of(path: Path, number: int) -> Callable[[], Mask]:
    def read() -> Mask:
        with _h5py().File(path, "r") as opened:
            cell = opened[opened["value/gt"][number, 0]]
            values = np.array(opened[cell[0, 0]])
        return values.T != 0

    return read


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as problem:
        raise InputError('files of ImageNet-Segmentation need h5py: pip install "heedful[eval]"') from problem
    return h5py
