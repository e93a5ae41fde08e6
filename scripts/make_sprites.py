"""Draws the sprites of the emoji world from the two sets they come from; run once, its output is committed.

npm install --prefix SETS @iconify-json/noto @iconify-json/fluent-emoji-flat
pip install resvg_py
python scripts/make_sprites.py SETS/node_modules/@iconify-json
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

SIDE = 96
SETS = {"noto": "noto", "fluent": "fluent-emoji-flat"}
# Faces rather than whole animals where a set has both: at 30 pixels a face is what a person still recognises.
ICONS = {
    "bear": "bear",
    "bird": "bird",
    "cat": "cat-face",
    "dog": "dog-face",
    "elephant": "elephant",
    "frog": "frog",
    "horse": "horse-face",
    "lion": "lion",
    "monkey": "monkey-face",
    "rabbit": "rabbit-face",
    "rat": "rat",
    "turtle": "turtle",
    "apple": "red-apple",
    "backpack": "backpack",
    "balloon": "balloon",
    "bow": "ribbon",
    "bowl": "bowl-with-spoon",
    "car": "automobile",
    "chair": "chair",
    "clock": "alarm-clock",
    "couch": "couch-and-lamp",
    "crown": "crown",
    "glasses": "glasses",
    "suitcase": "luggage",
}


def find_icon(icon_set: dict[str, Any], name: str) -> dict[str, Any]:
    """The drawing called `name`, through its aliases; a `KeyError` names the set where there is none."""
    parent = icon_set.get("aliases", {}).get(name, {}).get("parent", name)
    if parent not in icon_set["icons"]:
        raise KeyError(
            f'no icon "{name}" in "{icon_set["prefix"]}"; install the version that the licence file names'
        )
    return icon_set["icons"][parent]


def rasterise(icon_set: dict[str, Any], name: str, side: int) -> Image.Image:
    """The drawing as an RGBA image of `side` pixels, cut to what is drawn and centred again."""
    from resvg_py import svg_to_bytes

    icon = find_icon(icon_set, name)
    width, height = (icon.get(key, icon_set.get(key, 16)) for key in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )
    large = Image.open(
        io.BytesIO(bytes(svg_to_bytes(svg_string=svg, width=4 * side, height=4 * side)))
    ).convert("RGBA")
    cut = large.crop(large.getchannel("A").getbbox())
    square = Image.new("RGBA", (max(cut.size), max(cut.size)))
    square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def main(
    packages: Annotated[
        Path, typer.Argument(help="the folder @iconify-json with noto and fluent-emoji-flat in it")
    ],
    out: Annotated[Path, typer.Option(help="where the PNG files go")] = Path("emoji/sprites"),
) -> None:
    """Write one PNG a subject and set."""
    out.mkdir(parents=True, exist_ok=True)
    for short, package in SETS.items():
        file = packages / package / "icons.json"
        if not file.is_file():
            raise typer.BadParameter(f"{file} is missing; run: npm install @iconify-json/{package}")
        icon_set = json.loads(file.read_text(encoding="utf-8"))
        for subject, name in ICONS.items():
            rasterise(icon_set, name, SIDE).save(out / f"{subject}-{short}.png", optimize=True)
    typer.echo(f"{len(ICONS) * len(SETS)} sprites in {out}")


if __name__ == "__main__":
    typer.run(main)
