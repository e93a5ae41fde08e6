"""Rows as they come: the same noise for all, nothing lost or done twice, two processes as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from evaluating import PROMPTS, NoisePipeline, brighter, evaluation
from heedful.evaluation import EvaluationError
from heedful.evaluation.comparison import compare
from heedful.evaluation.methods import Method, noise_seed, plain
from heedful.evaluation.rows import Drawing
from heedful.explain import InputError
from PIL import Image


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        file.stem: timeless([json.loads(line) for line in file.read_text().splitlines()])
        for file in sorted((folder / "rows").glob("*.jsonl"))
    }


def test_every_prompt_and_seed_has_a_row_and_its_image(tmp_path: Path) -> None:
    rows = evaluation(tmp_path).records(plain())

    assert [(row["item"], row["prompt"], row["seed"]) for row in rows] == [
        (place + 4 * seed, prompt.text, seed) for seed in range(2) for place, prompt in enumerate(PROMPTS)
    ]  # fmt: skip
    assert len({row["noise"] for row in rows}) == 8
    with Image.open(tmp_path / rows[5]["image"]) as image:
        drawn = NoisePipeline()(["x"], generator=[torch.Generator().manual_seed(noise_seed(PROMPTS[1], 1))])
        assert image.tobytes() == drawn.images[0].tobytes()
    assert rows[1]["seen"].keys() == {"dog", "bow"}
    assert rows[1]["coloured"].keys() == {"red bow"}
    assert all(row["all"] == all(row["seen"].values()) for row in rows)


def test_methods_share_their_noise_and_candidates_do_not(tmp_path: Path) -> None:
    whole = evaluation(tmp_path)
    base, other = whole.records(plain()), whole.records(brighter())

    assert [row["noise"] for row in base] == [row["noise"] for row in other]
    assert not {row["noise"] for row in base} & {row["noise"] for row in whole.records(plain(1))}
    assert all(row["change"] == 0 for row in base)
    assert all(row["change"] > 1e-4 for row in other)
    assert all(row["change"] is None for row in whole.records(plain(1)))
    assert timeless(whole.records(brighter("same", by=0))) == [
        {**row, "method": "same", "change": pytest.approx(0, abs=1e-6), "moved": True, "probes": None,
         "image": row["image"].replace("plain", "same")}
        for row in timeless(base)
    ]  # fmt: skip


def test_more_seeds_go_on_where_fewer_ended(tmp_path: Path) -> None:
    few = evaluation(tmp_path, seeds=1).records(plain())
    whole = evaluation(tmp_path, seeds=3)
    more = whole.records(plain())

    assert more[:4] == few
    assert len(more) == 12
    assert sorted(whole.pipe.drawn) == sorted(2 * [prompt.text for prompt in PROMPTS])


def test_without_its_plain_image_nothing_is_compared(tmp_path: Path) -> None:
    whole = evaluation(tmp_path)
    with pytest.raises(EvaluationError, match=r"there is no plain image .*; draw plain first"):
        whole.records(brighter())


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    evaluation(tmp_path).records(plain())
    evaluation(tmp_path).records(brighter(told={"by": 60}))

    with pytest.raises(InputError, match="other settings: batch size differ"):
        evaluation(tmp_path, batch_size=2).records(plain())
    with pytest.raises(InputError, match="other settings: method differ"):
        evaluation(tmp_path).records(brighter(told={"by": 61}))


@pytest.mark.parametrize("settings", [{"seeds": 0}, {"batch_size": 0}])
def test_nothing_to_draw_is_refused(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(EvaluationError, match="wanted at least one prompt, seed and image at once"):
        evaluation(tmp_path, **settings)


def dying(method: Method, at: int) -> Callable[..., Any]:
    """A drawing that is killed when the item's turn comes."""

    class Dies(Drawing):
        def __call__(self, items: Any) -> Any:
            if self.method.name == method.name and at in items:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(items)

    return Dies


def test_a_kill_loses_the_batch_in_hand_and_nothing_is_drawn_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("heedful.evaluation.rows.Drawing", dying(brighter(), at=6))
        compare(evaluation(tmp_path / "killed"), [brighter()])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    resumed = evaluation(tmp_path / "killed", counted=False)
    compare(resumed, [brighter()], most_candidates=1)
    assert resumed.pipe.drawn == [PROMPTS[2].text, PROMPTS[3].text]  # items 6 and 7 of seed 1, once
    whole = evaluation(tmp_path / "whole")
    compare(whole, [brighter()], most_candidates=1)
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def two_processes(act: Callable[[], object]) -> list[int]:
    """Run `act` in two processes that know of each other as `accelerate launch` tells them; exit codes.

    When one is killed the other is, too, as the launcher does.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_forked(act, rank, port) for rank in range(2)]
    codes: dict[int, int] = {}
    while running := [child for child in children if child not in codes]:
        for child in running:  # these two alone: the suite may have other children
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif any(codes.values()):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[child] for child in children]


def _forked(act: Callable[[], object], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ |= {
            "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
        PartialState._reset_state()  # an earlier test may have found itself alone
        act()
        code = 0
    finally:
        os._exit(code)


def test_two_processes_give_the_rows_of_one_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(evaluation(tmp_path / "one", seeds=3), [brighter()], most_candidates=1)

    def act() -> None:
        compare(evaluation(tmp_path / "two", seeds=3), [brighter()], most_candidates=1)

    with monkeypatch.context() as patched:
        patched.setattr("heedful.evaluation.rows.Drawing", dying(brighter(), at=9))
        killed = two_processes(act)
    assert -signal.SIGKILL in killed
    assert {file.name for file in (tmp_path / "two" / "rows").glob("plain*")} == {
        "plain.about.json", "plain.jsonl",
    }  # fmt: skip
    assert two_processes(act) == [0, 0]
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
    images = [
        sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert images[0] == images[1]


def test_the_processes_share_the_work(tmp_path: Path) -> None:
    def act() -> None:
        whole = evaluation(tmp_path, seeds=3)
        whole.records(plain())
        (tmp_path / f"drawn-{os.environ['RANK']}").write_text(str(len(whole.pipe.drawn)))

    assert two_processes(act) == [0, 0]
    assert [(tmp_path / f"drawn-{rank}").read_text() for rank in range(2)] == ["6", "6"]
