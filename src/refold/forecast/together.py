"""Trainings side by side: one network is too small to fill several cores, several networks are not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from refold.train.signals import Asked, stop_signals

T = TypeVar("T")
Task = Callable[[Callable[[], None]], T]

# Seconds after which a signal is noticed.
_LOOK = 0.1


class _Stopped(Exception):
    """Raised in a task that is no longer wanted."""


def together(tasks: Sequence[Task[T]], threads: int, told: Callable[[int], None]) -> list[T]:
    """What the tasks return, in their order. Each has torch to itself, with one thread.

    A task is given a function to call from time to time, which raises where it is to stop. threads:
    how many cores there are; with one, tasks run one after the other. Of three tasks on two cores
    all run at once: the last would else run alone. told: hears how many are done.

    Errors  the first error of a task, when the others have stopped; KeyboardInterrupt for Ctrl-C and
    exit code 143 for SIGTERM, as `fit` has them.
    """
    if threads < 2 or len(tasks) < 2:
        return _one_by_one(tasks, told)
    stop = threading.Event()

    def alone(task: Task[T]) -> T:
        torch.set_num_threads(1)  # a new thread has as many as there are cores
        return task(lambda: _check(stop))

    # `fit` seeds torch's generator and puts it back, each thread as it found it.
    with (
        torch.random.fork_rng(devices=[]),
        stop_signals() as asked,
        ThreadPoolExecutor(min(len(tasks), 2 * threads)) as pool,
    ):
        running = [pool.submit(alone, task) for task in tasks]
        try:
            _wait(running, asked, told)
        finally:
            stop.set()
    if asked:
        asked.end()
    return [one.result() for one in running]


def _one_by_one(tasks: Sequence[Task[T]], told: Callable[[int], None]) -> list[T]:
    found = []
    for task in tasks:
        found.append(task(lambda: None))
        told(len(found))
    return found


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise _Stopped


def _wait(running: list[Future[T]], asked: Asked, told: Callable[[int], None]) -> None:
    """Until all are done, one has failed, or a signal has come."""
    left, done = set(running), 0
    while left and not asked:
        ended, left = wait(left, _LOOK, FIRST_COMPLETED)
        for one in ended:
            one.result()
            done += 1
            told(done)
