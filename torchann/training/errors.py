"""What goes wrong in training. Each message is one line, for a person."""

from __future__ import annotations

from pathlib import Path


def printable(message: str) -> str:
    """As it can be shown: names from a file or the command line may have line ends and escape sequences in them."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in message)


class ConfigError(ValueError):
    """A bad value of an option: the message names the option, what was expected and what came."""


class TrainingError(RuntimeError):
    """Training can't go on."""


class Interrupted(Exception):
    """Training was stopped by a signal, and saved: `folder` is the run to go on with."""

    def __init__(self, message: str, folder: Path, signal: str | None) -> None:
        super().__init__(message)
        self.folder = folder
        self.status = {"SIGTERM": 143}.get(signal or "", 130)
