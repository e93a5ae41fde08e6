"""Own images: labels and masks are found, what does not fit is said, the view of the model is kept."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from explain_tiny import tiny
from heedful.explain import InputError
from heedful.explain.evaluation import logits_of
from heedful.explain.evaluation.examples import Example, imagenet_segmentation, in_folder
from heedful.explain.evaluation.folder import View, drawn, numbers, source, visible
from PIL import Image

SIZE = (48, 30)  # width, height


def save(path: Path, values: np.ndarray | None = None, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        values = np.random.default_rng(len(path.name)).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


def left_half() -> np.ndarray:
    mask = np.zeros(SIZE[::-1], dtype=np.uint8)
    mask[:, : SIZE[0] // 2] = 255
    return mask


def squeeze(image: Image.Image) -> torch.Tensor:
    """The whole image, made as small as the tiny model takes it."""
    values = np.asarray(image.resize((32, 32)), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1)


WHOLE = View(squeeze, lambda size: (0.0, 0.0, float(size[0]), float(size[1])))


def test_sub_folders_are_labels_and_masks_have_the_same_names(tmp_path: Path) -> None:
    for name in ("cats/b.png", "cats/deep/a.jpg", "frogs/b.PNG", "frogs/.hidden.png", "frogs/notes.txt"):
        path = tmp_path / "images" / name
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            save(path)
    for name in ("cats/b.tif", "cats/deep/a.png", "frogs/b.png", "frogs/more.png"):
        save(tmp_path / "masks" / name, left_half())

    found = in_folder(tmp_path / "images", masks=tmp_path / "masks")

    assert [(one.name, one.label) for one in found] == [
        ("cats/b.png", "cats"), ("cats/deep/a.jpg", "cats"), ("frogs/b.PNG", "frogs"),
    ]  # fmt: skip
    for one in found:
        assert one.read().size == SIZE
        assert one.mask is not None
        np.testing.assert_array_equal(one.mask(), left_half() > 0)


def test_a_labels_file_is_found_in_the_folder_and_goes_before_sub_folders(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "x" / "b.png")
    (tmp_path / "labels.csv").write_text('\ufefffile,label\na.png, cat\nx/b.png,"tench, Tinca tinca"\n\n')

    assert [one.label for one in in_folder(tmp_path)] == ["cat", "tench, Tinca tinca"]


def test_a_folder_without_labels_has_none(tmp_path: Path) -> None:
    save(tmp_path / "a.png")

    (one,) = in_folder(tmp_path)
    assert (one.label, one.mask) == (None, None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.png,cat", "1 images have no label in .*: b.png"),
        ("a.png,cat\nb.png,frog\nc.png,frog", "names images that are not there: c.png"),
        ("a.png,cat\nb.png", 'must be "image,label", got "b.png"'),
        ("a.png,cat\nb.png,", 'must be "image,label", got "b.png,"'),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    save(tmp_path / "a.png"), save(tmp_path / "b.png")
    (tmp_path / "own.csv").write_text(lines)

    with pytest.raises(InputError, match=message):
        in_folder(tmp_path, labels=tmp_path / "own.csv")


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder of images .* is not there"):
        in_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"there is no image in"):
        in_folder(tmp_path)
    save(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match=r"folder of masks .* is not there"):
        in_folder(tmp_path / "in", masks=tmp_path / "none")
    save(tmp_path / "masks" / "b.png")
    with pytest.raises(InputError, match=r"1 images have no mask in .*: a.png"):
        in_folder(tmp_path / "in", masks=tmp_path / "masks")
    save(tmp_path / "in" / "a.jpg"), save(tmp_path / "masks" / "a.png")
    with pytest.raises(InputError, match="differ only in their ending"):
        in_folder(tmp_path / "in", masks=tmp_path / "masks")
    save(tmp_path / "in" / "sub" / "c.png")
    with pytest.raises(InputError, match=r"2 images, such as a.jpg, lie beside the sub-folders"):
        in_folder(tmp_path / "in")
    with pytest.raises(InputError, match="cannot read the labels file"):
        in_folder(tmp_path / "in", labels=tmp_path / "none.csv")
    (tmp_path / "in" / "sub" / "c.png").write_text("no image")
    broken = in_folder(tmp_path / "in" / "sub")[0]
    with pytest.raises(InputError, match=r"cannot read the image .*c.png"):
        broken.read()


def test_masks_in_every_mode_mark_what_is_not_zero(tmp_path: Path) -> None:
    coloured = np.zeros((*SIZE[::-1], 4), dtype=np.uint8)
    coloured[..., 3] = 255
    coloured[:, : SIZE[0] // 2, 1] = 7
    for place, mode in enumerate((None, "1", "P")):
        save(tmp_path / "images" / f"{place}.png")
        save(tmp_path / "masks" / f"{place}.png", left_half(), mode)
    save(tmp_path / "images" / "rgba.png"), save(tmp_path / "masks" / "rgba.png", coloured)

    for one in in_folder(tmp_path / "images", masks=tmp_path / "masks"):
        assert one.mask is not None
        np.testing.assert_array_equal(one.mask(), left_half() > 0, err_msg=one.name)


def segmentation_file(path: Path, images: list[np.ndarray], masks: list[np.ndarray]) -> Path:
    """A file as MATLAB 7.3 writes it: cells are references, axes run backwards."""
    with h5py.File(path, "w") as file:
        rows: dict[str, list[h5py.Reference]] = {"img": [], "gt": []}
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            file[f"#refs#/image{number}"] = image.T
            file[f"#refs#/mask{number}"] = mask.T
            inner = file.create_dataset(f"#refs#/cell{number}", (1, 1), dtype=h5py.ref_dtype)
            inner[0, 0] = file[f"#refs#/mask{number}"].ref
            rows["img"].append(file[f"#refs#/image{number}"].ref)
            rows["gt"].append(inner.ref)
        for name, refs in rows.items():
            cells = file.create_dataset(f"value/{name}", (len(refs), 1), dtype=h5py.ref_dtype)
            for number, ref in enumerate(refs):
                cells[number, 0] = ref
    return path


def test_imagenet_segmentation_is_read_upright(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (20 + n, 30, 3), dtype=np.uint8) for n in range(3)]
    masks = [(random.random((20 + n, 30)) > 0.5).astype(np.uint8) for n in range(3)]

    found = imagenet_segmentation(segmentation_file(tmp_path / "gtsegs_ijcv.mat", images, masks))

    assert len(found) == 3
    for one, image, mask in zip(found, images, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(one.read()), image)
        assert one.mask is not None
        np.testing.assert_array_equal(one.mask(), mask > 0)


def test_other_files_are_no_imagenet_segmentation(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("text")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["value/img"] = np.zeros((1, 1))
    for name in ("text.mat", "other.mat", "none.mat"):
        with pytest.raises(InputError, match=f"{name} is no file of ImageNet-Segmentation"):
            imagenet_segmentation(tmp_path / name)


def examples(count: int, **about: str) -> tuple[Example, ...]:
    def read(number: int) -> Image.Image:
        values = np.random.default_rng(number).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
        return Image.fromarray(values)

    return tuple(
        Example(f"{n}.png", lambda n=n: read(n), mask=lambda: left_half() > 0, **about)  # type: ignore[misc]
        for n in range(count)
    )


def test_labels_are_the_models_own_numbers() -> None:
    names = {0: "tench, Tinca tinca", 1: "fire truck", 2: "crane", 3: "crane"}
    written = ["Tench", "tinca_tinca", "fire_truck", "3", "tench, Tinca tinca"]
    given = tuple(Example(label, lambda: Image.new("RGB", (1, 1)), label) for label in written)

    assert [one.label for one in numbers(given, names)] == ["0", "0", "1", "3", "0"]
    for label, message in (("crane", "names several of its classes"), ("frog", "is no label of the model")):
        with pytest.raises(InputError, match=f'"{label}" {message} .1 of 1 labels'):
            numbers((Example("a", given[0].read, label),), names)


def test_batches_are_what_the_model_sees() -> None:
    model, _ = tiny("vit")
    ask = logits_of(model)
    make = source(examples(5, label="1"), WHOLE, model, ask)

    batch = make([3, 1])

    assert batch.items == (3, 1)
    assert batch.inputs["pixel_values"].shape == (2, 3, 32, 32)
    torch.testing.assert_close(batch.inputs["pixel_values"][1], make([1]).inputs["pixel_values"][0])
    assert batch.target == batch.labels.tolist() == [1, 1]
    assert batch.titles == ("3.png", "1.png")
    assert batch.masks is not None
    assert batch.masks.shape == (2, 32, 32)
    assert batch.masks[:, :, :16].all()
    assert not batch.masks[:, :, 16:].any()
    assert batch.pictures is not None
    assert batch.pictures[0].size == (32, 32)


def test_without_labels_the_models_answer_is_asked_about() -> None:
    model, _ = tiny("vit")
    ask = logits_of(model)
    batch = source(examples(4), WHOLE, model, ask)(range(4))

    assert batch.target == ask(batch.inputs).argmax(1).tolist()
    assert batch.truth is not None
    assert batch.truth.tolist() == batch.target


def test_the_view_of_the_model_cuts_masks_and_pictures() -> None:
    """A model that sees the right half alone sees nothing of a mask on the left."""
    model, _ = tiny("vit")
    right = View(
        lambda image: squeeze(image.crop((24, 0, 48, 30))), lambda size: (size[0] / 2, 0.0, *map(float, size))
    )
    every = examples(2)
    moved = tuple(Example("moved", one.read, mask=lambda: left_half()[:, ::-1] > 0) for one in every[:1])

    kept, reasons = visible((*every, *moved), right, (32, 32))
    assert [one.name for one in kept] == ["moved"]
    assert set(reasons) == {"0.png", "1.png"}
    assert "empty in what the model sees" in reasons["0.png"]
    batch = source(kept, right, model, logits_of(model))([0])
    assert batch.masks is not None
    assert batch.masks.all()


def test_what_cannot_be_a_batch_is_refused() -> None:
    model, _ = tiny("vit")
    small = Example("small", lambda: Image.new("RGB", (8, 8)), mask=lambda: left_half() > 0)
    with pytest.raises(InputError, match="the mask of small has 48 x 30 pixels, its image 8 x 8"):
        source((small,), WHOLE, model, logits_of(model))([0])
    growing = View(lambda image: torch.zeros(3, image.height, 32), WHOLE.box)
    with pytest.raises(InputError, match="all images one size, got"):
        source((*examples(1), small), growing, model, logits_of(model))([0, 1])


def test_the_order_is_drawn_by_the_seed() -> None:
    every = examples(20)
    names = [one.name for one in drawn(every, 1)]

    assert sorted(names) == sorted(one.name for one in every)
    assert names == [one.name for one in drawn(every, 1)] != [one.name for one in drawn(every, 2)]


@pytest.mark.gpu
def test_batches_go_to_the_models_device_and_type() -> None:
    model, _ = tiny("vit")
    model = model.to("cuda", torch.float16)
    batch = source(examples(2), WHOLE, model, logits_of(model))([0, 1])

    assert batch.inputs["pixel_values"].device.type == "cuda"
    assert batch.inputs["pixel_values"].dtype == torch.float16
    assert batch.labels.device.type == "cpu"
