"""What a run prints: a progress bar on a terminal, else a line for each epoch; at the end, where the results are."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm  # type: ignore[import-untyped]

from torchann.training.config import Config
from torchann.training.record import Row

BAR = "{n_fmt}/{total_fmt}|{bar}|{remaining} {desc}"  # leaves room for the figures in 80 columns


class Progress:
    """A progress bar if stderr is a terminal; a line for each epoch unless stdout is a terminal that shows the bar.

    Use it in a `with` statement.
    """

    def __init__(self, epochs: int, start: int = 0, shown: bool = True) -> None:
        self.epochs = epochs
        hidden = not (shown and sys.stderr.isatty())
        self.bar = tqdm(total=epochs, initial=start, bar_format=BAR, dynamic_ncols=True, disable=hidden)
        self.lines = shown and not (sys.stderr.isatty() and sys.stdout.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def show(self, row: Row) -> None:
        text = describe(row)
        self.bar.set_description_str(text, refresh=False)
        self.bar.update()
        if self.lines:
            print(f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  {text}", flush=True)


def say(line: str) -> None:
    """Print a line to stderr, above the progress bar."""
    tqdm.write(line, file=sys.stderr)


def report(config: Config, folder: Path, summary: dict[str, Any]) -> None:
    """Print the end of a run: its figures, its folder, and the command that shows it."""
    best = summary["best"]
    print(f"final   {describe(summary)}")
    print(f"best    {describe(best)}  (epoch {best['epoch']}, by the test data)")
    print(f"took    {summary['seconds']:.1f} s on {summary['device']}")
    print(f"run     {folder}")
    print(f"tensorboard --logdir {shlex.quote(config.logdir)}")


def describe(figures: dict[str, Any]) -> str:
    """The figures of an epoch in one line, such as `loss 0.0123 (test 0.0456)  accuracy 98.4% (test 97.1%)`."""
    shown = []
    for figure, form in (("loss", ".4f"), ("accuracy", ".1%"), ("error", ".4g")):
        if f"train_{figure}" in figures:
            shown.append(f"{figure} {figures[f'train_{figure}']:{form}} (test {figures[f'test_{figure}']:{form}})")
    return "  ".join(shown)
