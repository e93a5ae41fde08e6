"""The tables of guided pre-training: pairs are told apart from what is not comparable, and n is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from heedful.scripts.measure_masking import MARKS, STRENGTHS, write
from heedful.scripts.settings import UsageError
from PIL import Image


def row(masking: str, seed: int, last: float, probe: float) -> dict[str, Any]:
    return {
        "masking": masking,
        "seed": seed,
        "strength": STRENGTHS[masking],
        "steps": [10, 20, 30],
        "losses": [1.0, (1.0 + last) / 2, last],
        "masked": {str(each): last for each in STRENGTHS.values()},
        "settings": {"steps": 30, "batch": 4, "images": 16, "ratio": 0.75},
        "versions": {"torch": "2"},
        "probe": probe,
        "probe_before": 0.2,
    }


def rows() -> list[dict[str, Any]]:
    found = []
    for seed in (0, 1, 2):
        found.append(row("random", seed, 0.5 + 0.01 * seed, 0.4))
        found.append(row("concentrated hidden more", seed, 0.4 + 0.01 * seed, 0.5 + 0.01 * seed))
        found.append(row("empty hidden more", seed, 0.6, 0.3))
    return [*found, row("random", 3, 0.1, 0.9)]  # a seed that is not whole yet


def test_the_page_gets_paired_differences_of_whole_seeds(tmp_path: Path) -> None:
    lines = [json.dumps(each) for each in [*rows(), rows()[0]]]  # one of them twice
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "pictures").mkdir()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")

    write(out=tmp_path, document=page)
    text = page.read_text()

    assert text.startswith("before")
    assert "old" not in text
    assert "3 seeds; 30 steps of 4 of 16 scenes, 75% of the patches hidden" in text
    assert "| random | 0.5100 (0.4852 to 0.5348) | - | - | 40.0 (40.0 to 40.0) | - |" in text
    assert "-0.1000 (-0.1000 to -0.1000)" in text  # 0.01 apart in every seed, and so no width
    assert "never in 3 of 3 seeds" in text
    assert "+11.0 (+8.5 to +13.5)" in text
    with Image.open(tmp_path / "pictures" / "sift-masking.png") as picture:
        assert picture.width > 400


def test_too_few_seeds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(each) for each in rows()[:3]))

    with pytest.raises(UsageError, match="holds 1 seeds with all maskings; wanted are at least 2"):
        write(out=tmp_path, document=None)
