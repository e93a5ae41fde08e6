"""Bulk work: nothing lost or twice after a kill, and the same rows from two processes as from one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from heedful.explain import InputError
from heedful.explain.evaluation import run

ABOUT = {"protocol": "planted", "steps": [0, 0.5]}


def work(items: Sequence[int]) -> list[dict[str, Any]]:
    return [{"item": item, "values": {"generic": {"square": float(item**2)}}} for item in items]


def go(file: Path, work: Callable[..., Any] = work, count: int = 11, **settings: Any) -> list[dict[str, Any]]:
    return run(work, count, file, **{"batch_size": 3, "about": ABOUT, **settings})


def test_every_item_comes_once_in_order_with_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = go(tmp_path / "deep" / "rows.jsonl", progress=lambda done, all_: told.append((done, all_)))

    assert found == work(range(11))
    assert told == [(3, 11), (6, 11), (9, 11), (11, 11)]
    assert sorted(file.name for file in (tmp_path / "deep").iterdir()) == ["rows.about.json", "rows.jsonl"]


def test_a_kill_loses_the_batch_in_hand_and_nothing_is_made_twice(tmp_path: Path) -> None:
    file, made = tmp_path / "rows.jsonl", []

    def dies(items: Sequence[int]) -> list[dict[str, Any]]:
        if 6 in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(items)

    def counts(items: Sequence[int]) -> list[dict[str, Any]]:
        made.extend(items)
        return work(items)

    child = os.fork()
    if child == 0:
        go(file, dies)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    assert go(file, counts) == work(range(11))
    assert made == [6, 7, 8, 9, 10]
    assert go(file, counts) == work(range(11))
    assert made == [6, 7, 8, 9, 10]


def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    file, made = tmp_path / "rows.jsonl", []
    lines = [json.dumps(record) for record in work(range(6))]
    (tmp_path / "rows.part-0.jsonl").write_text("\n".join(lines)[:-5])

    def counts(items: Sequence[int]) -> list[dict[str, Any]]:
        made.extend(items)
        return work(items)

    assert go(file, counts) == work(range(11))
    assert made == [5, 6, 7, 8, 9, 10]


def test_a_kill_while_files_were_joined_doubles_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    go(file)
    (tmp_path / "rows.part-0.jsonl").write_text(file.read_text())  # joined, and not deleted yet

    assert go(file) == work(range(11))
    assert len(file.read_text().splitlines()) == 11


def test_more_items_and_other_batches_take_up_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    go(file, count=5)

    assert go(file, batch_size=4) == work(range(11))
    assert go(file, count=2) == work(range(2))
    assert len(file.read_text().splitlines()) == 11


def test_processes_share_the_batches(tmp_path: Path) -> None:
    file, meeting = tmp_path / "rows.jsonl", threading.Barrier(2, timeout=60)
    go(file, count=2)

    class Two:
        num_processes = 2

        def __init__(self, process_index: int) -> None:
            self.process_index = process_index
            self.made: list[int] = []

        def wait_for_everyone(self) -> None:
            meeting.wait()

        def work(self, items: Sequence[int]) -> list[dict[str, Any]]:
            self.made += items
            return work(items)

    first, second = states = Two(0), Two(1)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda state: go(file, state.work, processes=state), states))

    assert found == [work(range(11))] * 2
    assert (first.made, second.made) == ([2, 6, 7, 8], [3, 4, 5, 9, 10])
    assert not list(tmp_path.glob("*part*"))


def test_a_run_that_lost_a_process_says_what_is_missing(tmp_path: Path) -> None:
    class Deserted:
        process_index, num_processes = 0, 2

        def wait_for_everyone(self) -> None:
            pass

    with pytest.raises(InputError, match="5 items are missing"):
        go(tmp_path / "rows.jsonl", processes=Deserted())


def test_other_settings_and_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    go(file)

    with pytest.raises(InputError, match="other settings: steps differ"):
        go(file, about={**ABOUT, "steps": [0, 1]})
    file.write_text("{}\n" + file.read_text())
    with pytest.raises(InputError, match="line 1 of"):
        go(file)
    with pytest.raises(InputError, match="one record for each of the items"):
        go(tmp_path / "new.jsonl", lambda items: work(items[1:]))
    with pytest.raises(InputError, match="at least one item"):
        go(file, count=0)


SCRIPT = """
import json, sys, torch
from accelerate import PartialState
from explain_planted import GRID, BrightestPatch, random_maps, scenes
from heedful.explain.evaluation import MaskedAttack, Patches, Perturbation, Colour, records, run

torch.set_num_threads(1)
inputs, labels, truth = scenes(10)
test, model, maps = Perturbation((Patches(GRID, Colour()),)), BrightestPatch(), random_maps(10)

def work(items):
    pixels = {"pixel_values": inputs["pixel_values"][items]}
    found = test.measure(model, pixels, labels[items], [maps[items]])
    return records(items, {"random": found}, by=PartialState().process_index if "--who" in sys.argv else 0)

rows = run(work, 10, sys.argv[1], batch_size=2, about=test.told)
assert len(rows) == 10, rows
"""


def test_accelerate_launch_with_two_processes_gives_the_rows_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(tests), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    many = [*launch, "--num_processes", "2", str(script), str(tmp_path / "two.jsonl"), "--who"]
    for command in ([sys.executable, str(script), str(tmp_path / "one.jsonl")], many):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    one, two = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("one.jsonl", "two.jsonl")
    )
    assert [record.pop("by") for record in two] == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]  # two had a hand in it
    assert [record.pop("by") for record in one] == [0] * 10
    assert one == two
