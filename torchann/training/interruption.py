"""Ctrl-C and SIGTERM: finish the step, and save."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from torchann.training.distributed import is_first_process


class Interruption:
    """Remembers the first SIGINT or SIGTERM; a later SIGINT stops at once. Use it in a `with` statement.

    Python sets signal handlers only in the main thread; in other threads this does nothing.

    Attributes:
        requested: the signal that was received, "SIGINT" or "SIGTERM", or None.

    Raises:
        KeyboardInterrupt: at a SIGINT after the first signal.

    Example:
        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interruption.requested
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.former[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None stands for a handler that C code had set

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number).name
            say_from_handler(f"{self.requested}: the step will be finished and saved; another Ctrl-C stops at once")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def say_from_handler(line: str) -> None:
    if is_first_process():
        start = "\n" if os.isatty(2) else ""  # the progress bar does not end its line
        with suppress(OSError):
            # Not print: the signal may have interrupted a print, which can't be entered again.
            os.write(2, f"{start}{line}\n".encode())
