"""Jobs come one at a time, tell how far they are, and end when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from heedful.debug.page_jobs import Job, Progress, Worker

SOON = 20.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


class Gate:
    """Work that begins, tells so, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        self.begun.set()
        assert self.let.wait(SOON)
        return "cancelled" if job.cancelled() else "done"


def test_the_result_and_the_error_of_the_work_come_out(worker: Worker) -> None:
    def fails(_: Job) -> None:
        raise KeyError("here")

    assert worker.submit(lambda _: 7).result() == 7
    with pytest.raises(KeyError, match="here"):
        worker.submit(fails).result()


def test_jobs_run_one_after_the_other_on_one_thread_that_began_once() -> None:
    begun: list[int] = []
    worker = Worker(lambda: begun.append(threading.get_ident()))
    threads = [worker.submit(lambda _: threading.get_ident()) for _ in range(4)]

    assert {job.result() for job in threads} == set(begun)
    assert len(begun) == 1
    worker.close()


def test_a_job_knows_how_many_come_before_it(worker: Worker) -> None:
    first, second = Gate(), Gate()
    running, waiting, last = (worker.submit(one) for one in (first, second, lambda _: None))
    assert first.begun.wait(SOON)

    assert [worker.ahead(job) for job in (running, waiting, last)] == [0, 1, 2]
    first.let.set()
    assert second.begun.wait(SOON)
    assert [worker.ahead(job) for job in (running, waiting, last)] == [0, 0, 1]
    second.let.set()


def test_updates_tell_the_queue_then_the_progress_and_end_with_the_job(worker: Worker) -> None:
    first, told = Gate(), threading.Event()
    worker.submit(first)

    def work(job: Job) -> None:
        job.tell("drawing", 1, 2, 0.5)
        assert told.wait(SOON)

    seen = []
    for progress in worker.updates(worker.submit(work)):
        seen.append(progress)
        first.let.set()
        if progress.what:
            told.set()

    assert seen[0] == Progress(ahead=1)
    assert seen[-1] == Progress("drawing", 1, 2, 0.5)


def test_a_running_job_is_told_to_end_and_a_waiting_one_never_begins(worker: Worker) -> None:
    first, second = Gate(), Gate()
    running, waiting = worker.submit(first), worker.submit(second)
    assert first.begun.wait(SOON)
    waiting.cancel()
    running.cancel()
    first.let.set()

    assert running.result() == "cancelled"
    with pytest.raises(CancelledError):
        waiting.result()
    assert worker.submit(lambda _: "next").result() == "next"
    assert not second.begun.is_set()


def test_closing_cancels_what_runs_and_what_waits() -> None:
    worker, first = Worker(), Gate()
    running, waiting = worker.submit(first), worker.submit(lambda _: None)
    assert first.begun.wait(SOON)
    threading.Timer(0.05, first.let.set).start()
    worker.close()

    assert running.result() == "cancelled"
    assert waiting.ended
