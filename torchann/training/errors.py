"""What goes wrong in training. Each message is one line, for a person."""

from __future__ import annotations

from pathlib import Path


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
