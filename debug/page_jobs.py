"""One job at a time, off the page's own threads: its place in the queue, its progress, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

PULSE = 0.1
"""Seconds between two looks at a job: steps that follow each other faster are shown together."""


@dataclass(frozen=True)
class Progress:
    """How far a job is: what it does, steps done of all, the latest loss, jobs that come before it."""

    what: str = ""
    done: int = 0
    total: int = 0
    loss: float | None = None
    ahead: int = 0


class Job:
    """One piece of work: `tell` and `cancelled` are for the work itself, the rest for who waits for it."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self._progress = Progress()
        self._stop = threading.Event()

    def tell(self, what: str, done: int, total: int, loss: float | None = None) -> None:
        """Note how far the work is."""
        self._progress = Progress(what, done, total, loss)

    def cancelled(self) -> bool:
        """Whether the work should end: it asks between its steps."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Ask the work to end; one that has not begun never begins."""
        self._stop.set()
        self.future.cancel()

    @property
    def ended(self) -> bool:
        """Whether there is a result, an error, or a cancelled job."""
        return self.future.done()

    def result(self) -> Any:
        """What the work returned, or the error that it raised (`CancelledError` if it never began)."""
        return self.future.result()


class Worker:
    """Carries out jobs one after the other, on one thread of its own.

    Args:
        begin: called once on that thread before its first job, such as to choose the number of threads of a
            sum, which torch keeps for each thread that asks.
    """

    def __init__(self, begin: Callable[[], None] | None = None) -> None:
        self._threads = ThreadPoolExecutor(1, "heedful-job", begin)
        self._open: list[Job] = []
        self._lock = threading.Lock()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Put work into the queue; it is given its job, to tell its progress and to ask when to end."""
        job = Job()
        with self._lock:
            self._open.append(job)
            running = self._threads.submit(self._carry_out, job, work)
        running.add_done_callback(lambda _: self._forget(job))
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs, the running one included, must end before this one begins."""
        with self._lock:
            waiting = [one for one in self._open if not one.ended]
            return waiting.index(job) if job in waiting else 0

    def updates(self, job: Job) -> Iterator[Progress]:
        """How far the job is, whenever that has changed, until it has ended."""
        told: Progress | None = None
        while not job.ended:
            found = Progress(ahead=ahead) if (ahead := self.ahead(job)) else job._progress
            if found != told:
                told = found
                yield found
            wait([job.future], PULSE)

    def close(self) -> None:
        """Cancel all jobs and end the thread; the running job ends at its next step."""
        with self._lock:
            for job in self._open:
                job.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _carry_out(self, job: Job, work: Callable[[Job], Any]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            found = work(job)
        except BaseException as problem:
            job.future.set_exception(problem)
        else:
            job.future.set_result(found)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._open.remove(job)
