"""Bulk work over a data set: in batches, on several processes, stopped and taken up again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from ..errors import InputError
from .records import Record

Work = Callable[[Sequence[int]], Sequence[Record]]
"""Makes the records of these items, one for each, in their order."""
Progress = Callable[[int, int], None]
"""Is told how many items of this process are done, and how many there are for it."""


_SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun, which accelerate runs, and MPI say how many processes there are."""


@runtime_checkable
class Processes(Protocol):
    """What is needed of accelerate's `PartialState`, which is one."""

    process_index: int
    num_processes: int

    def wait_for_everyone(self) -> None:
        """Return when every process has come here."""


class Alone:
    """One process."""

    process_index = 0
    num_processes = 1

    def wait_for_everyone(self) -> None:
        """Nobody to wait for."""


def run(
    work: Work, count: int, file: str | Path, *, batch_size: int, about: Mapping[str, Any],
    progress: Progress | None = None, processes: Processes | None = None,
) -> list[Record]:  # fmt: skip
    """The records of items 0 to `count` - 1, of which those in the file are not made again.

    Batches are the same whatever the number of processes is, and go to them in turn. Each process appends a
    batch to a file of its own as soon as it is made (`rows.part-1.jsonl` beside `rows.jsonl`); at the end,
    and before anything is taken up again, the first process puts all into `file`, sorted. So a kill loses the
    batch that was in hand, and nothing else; a line that was cut off is made again.

    Args:
        file: JSON lines, one item each.
        batch_size: how many items `work` is given at once, at most.
        about: the settings that made the records, as JSON takes them; kept in `rows.about.json`. A file of
            other settings is refused.
        progress: called after each batch.
        processes: None: those that `accelerate launch` started, else this one alone.

    Returns:
        All records in the order of items, on every process.

    Raises:
        InputError: a file of other settings or with a broken line, or work that leaves an item out.
    """
    if count < 1 or batch_size < 1:
        raise InputError(
            f"wanted at least one item, in batches of at least one; got {count} and {batch_size}"
        )
    path, state = Path(file), processes or launched()
    if state.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_about(path, dict(about))
        _settle(path)
    state.wait_for_everyone()
    done = {record["item"] for record in _read(path)}
    own = _own_batches(count, batch_size, done, state)
    total, made = sum(map(len, own)), 0
    part = path.with_name(f"{path.stem}.part-{state.process_index}.jsonl")
    for items in own:
        _append(part, _made(work, items))
        made += len(items)
        if progress is not None:
            progress(made, total)
    state.wait_for_everyone()
    if state.process_index == 0:
        _settle(path)
    state.wait_for_everyone()
    found = [record for record in _read(path) if record["item"] < count]
    if len(found) != count:
        raise InputError(f"{count - len(found)} items are missing in {path}: was another run writing to it?")
    return found


def _own_batches(count: int, batch_size: int, done: set[int], state: Processes) -> list[list[int]]:
    """What this process has to do: every n-th of the batches with something left, without what is done."""
    starts = range(0, count, batch_size)
    whole = ([i for i in range(start, min(start + batch_size, count)) if i not in done] for start in starts)
    return [items for items in whole if items][state.process_index :: state.num_processes]


def _made(work: Work, items: Sequence[int]) -> list[Record]:
    found = list(work(items))
    came = [record.get("item") for record in found]
    if came != list(items):
        raise InputError(
            f"work must give one record for each of the items {list(items)}, in order; got {came}"
        )
    return found


def _append(part: Path, found: Sequence[Record]) -> None:
    """One write for the batch, brought to the disk before it counts as done."""
    text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in found)
    with part.open("a", encoding="utf-8") as lines:
        lines.write(text)
        lines.flush()
        os.fsync(lines.fileno())


def _settle(path: Path) -> None:
    """Put what the processes left into the file, each item once, in order; then their files can go."""
    parts = sorted(path.parent.glob(f"{path.stem}.part-*.jsonl"))
    if not parts and path.exists():
        return
    found: dict[int, Record] = {}
    for source in (path, *parts):
        for record in _read(source):
            found.setdefault(record["item"], record)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    _append(fresh, [found[item] for item in sorted(found)])
    fresh.replace(path)
    for part in parts:
        part.unlink()


def _read(path: Path) -> Iterator[Record]:
    """The records of a file; a last line without its end was cut off by a kill and does not count."""
    if not path.exists():
        return
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            record["item"] += 0
        except (ValueError, TypeError, KeyError) as problem:
            raise InputError(
                f"line {number} of {path} is no record; delete the line, and its item is made again"
            ) from problem
        yield record


def _check_about(path: Path, about: dict[str, Any]) -> None:
    """Records of other settings would be mixed into one table."""
    note = path.with_name(f"{path.stem}.about.json")
    text = json.dumps(about, indent=1, sort_keys=True)
    if not note.exists():
        note.write_text(text + "\n", encoding="utf-8")
        return
    before, now = json.loads(note.read_text(encoding="utf-8")), json.loads(text)
    if before != now:
        other = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise InputError(
            f"{path} holds records of other settings: {', '.join(other)} differ. Write to another file, or "
            f"delete this one and {note.name}"
        )


def launched() -> Processes:
    """The processes that `accelerate launch` (or torchrun, or MPI) started, as this one sees them."""
    if max(int(os.environ.get(name, "1")) for name in _SIZES) == 1:
        return Alone()
    import torch
    from accelerate import PartialState

    # Accelerate does not look for other processes on a CPU unless it is told that it is one.
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    return PartialState(cpu=told or not torch.accelerator.is_available())
