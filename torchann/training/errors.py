"""The errors of training. Each message is one line, for the user."""

from __future__ import annotations

from pathlib import Path


def printable(message: str) -> str:
    """Escape unprintable characters: names from a file or the command line may hold line breaks or terminal codes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in message)


class ConfigError(ValueError):
    """An invalid value of an option: the message names the option, what was expected and what was given."""


class TrainingError(RuntimeError):
    """Training can't continue."""


class Interrupted(Exception):
    """A signal stopped training, and the run in `folder` was saved; it can be resumed."""

    def __init__(self, message: str, folder: Path, signal: str | None) -> None:
        super().__init__(message)
        self.folder = folder
        self.status = {"SIGTERM": 143}.get(signal or "", 130)
