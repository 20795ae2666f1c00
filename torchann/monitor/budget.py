"""The share of the training time that the monitor may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Budget:
    """A share of the training time, divided equally between several kinds of work.

    Work of a kind is affordable if its last duration fits into what is left of the kind's share. Training time is all
    time outside of the work itself.

    Args:
        part: the share of the training time, from 0 to 1.
        guesses: for each kind of work, its duration in seconds, assumed until it is measured.
        clock: returns the time in seconds.

    Example:
        >>> budget = Budget(0.05, {"numbers": 0.0})
        >>> budget.affords("numbers")
        True
        >>> with budget.spend("numbers"):
        ...     time.sleep(0.01)
        >>> budget.affords("numbers")  # not before 20 times as long has gone by
        False
    """

    def __init__(self, part: float, guesses: dict[str, float], clock: Callable[[], float] = time.perf_counter) -> None:
        self.part = part / len(guesses)
        self.guesses = guesses
        self.clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget all durations, and count training time from now on."""
        self.last = dict(self.guesses)
        self.spent = dict.fromkeys(self.guesses, 0.0)
        self.start = self.clock()

    def affords(self, kind: str) -> bool:
        training = self.clock() - self.start - sum(self.spent.values())
        return self.spent[kind] + self.last[kind] <= self.part * training

    @contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.last[kind] = self.clock() - start
            self.spent[kind] += self.last[kind]
