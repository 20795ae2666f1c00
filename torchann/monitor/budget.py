"""How much of the time the monitor may take, and whether it has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Budget:
    """A part of the training time, for work of several kinds that get equal parts of it.

    Work is affordable when what it took the last time fits into what its kind has left, so that at no moment has more
    been spent than `part` of the time that passed outside of it.

    Args:
        part: of the training time, from 0 to 1.
        guesses: the kinds of work, with the seconds that each is taken to last until it has been measured.

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
        """As if nothing had been spent, and no training time gone by."""
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
