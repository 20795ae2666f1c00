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
    """Notes the first SIGINT or SIGTERM, and stops at once at the next SIGINT. Use it in a `with` statement.

    Handlers can be set in the main thread alone; in others it notes nothing.

    Attributes:
        requested: the signal that came, "SIGINT" or "SIGTERM", or None.

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
            signal.signal(number, handler or signal.SIG_DFL)  # None is one that C code set

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number).name
            say_from_handler(f"{self.requested}: the step will be finished and saved; another Ctrl-C stops at once")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def say_from_handler(line: str) -> None:
    if is_first_process():
        start = "\n" if os.isatty(2) else ""  # after a progress bar
        with suppress(OSError):
            os.write(
                2, f"{start}{line}\n".encode()
            )  # print could be what the signal interrupted, and can't be entered twice
