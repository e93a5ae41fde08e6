"""The rooms know each other only downwards, importing one stays light, the wheel lacks none of them."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWS = {
    "pictures": set(),
    "guidance": {"pictures"},
    "explain": {"pictures", "emoji"},  # emoji only for the model that `check` loads by default
    "pipelines": {"guidance", "explain"},
    "emoji": set(),
    "evaluation": {"pictures", "guidance", "explain", "pipelines", "emoji"},
    "debug": {"pictures", "guidance", "explain", "pipelines", "emoji"},
    "scripts": {"pictures", "guidance", "explain", "pipelines", "emoji", "evaluation", "debug"},
}
MODULES = [(room, path) for room in KNOWS for path in sorted((ROOT / room).rglob("*.py"))]


def rooms_imported(source: str, package: tuple[str, ...]) -> set[str]:
    """The rooms that a module in `package` (such as ("emoji", "training")) imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["heedful", *package][: len(package) + 2 - node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names += [".".join([*module, alias.name]) for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "heedful" and len(part) > 1 and part[1] in KNOWS}


@pytest.mark.parametrize(("room", "path"), MODULES, ids=[str(path.relative_to(ROOT)) for _, path in MODULES])
def test_modules_import_only_the_rooms_they_may_know(room: str, path: Path) -> None:
    package = path.relative_to(ROOT).parent.parts
    found = rooms_imported(path.read_text(encoding="utf-8"), package) - {room}

    assert found <= KNOWS[room], f"{path.relative_to(ROOT)} imports {', '.join(sorted(found - KNOWS[room]))}"


@pytest.mark.parametrize(
    ("source", "package", "rooms"),
    [
        ("from ..guidance import guide", ("explain",), {"guidance"}),
        ("from .. import guidance", ("explain",), {"guidance"}),
        ("def f():\n    from ...guidance.maps import x", ("emoji", "training"), {"guidance"}),
        ("import heedful.scripts.cli", ("emoji",), {"scripts"}),
        ("from heedful import explain", ("emoji",), {"explain"}),
        ("from .maps import guidance\nimport torch", ("guidance",), {"guidance"}),
        ("import guidance", ("emoji",), set()),
    ],
)
def test_the_reading_of_imports_finds_them(source: str, package: tuple[str, ...], rooms: set[str]) -> None:
    assert rooms_imported(source, package) == rooms


def test_importing_guidance_stays_light() -> None:
    code = (
        "import sys, heedful.guidance\n"
        "heavy = [name for name in sys.modules if name.split('.')[0] in ('matplotlib', 'gradio')\n"
        "         or name.startswith('transformers.models.')]\n"
        "print(*heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )

    assert done.stdout.split() == []


def test_the_wheel_lists_every_folder_with_code() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = sorted({path.parent.relative_to(ROOT).as_posix() for _, path in MODULES})

    assert sorted(tool["package-dir"].values()) == folders
    assert (
        sorted(tool["packages"])
        == sorted(tool["package-dir"])
        == ["heedful." + f.replace("/", ".") for f in folders]
    )


@pytest.mark.parametrize("room", KNOWS)
def test_every_room_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()
