"""What asks a run to stop: SIGTERM and Ctrl-C. The step that is under way is finished first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Asked:
    """Whether somebody has asked, and how the run ends then."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def end(self) -> NoReturn:
        """Raise what the signal means: KeyboardInterrupt for Ctrl-C, else exit code 143.

        Also in a process that was asked nothing itself, but is one of several.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signal.SIGTERM)

    def take(self, number: int, frame: FrameType | None) -> None:
        """A handler. A second Ctrl-C does not wait for the step."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def stop_signals() -> Iterator[Asked]:
    """While it lasts, signals are noted; only the main thread can be told of them."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {
        number: signal.signal(number, asked.take) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python: it cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
