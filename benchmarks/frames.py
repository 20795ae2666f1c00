"""The files, functions and frames of torchann that one training step of an `MLP` runs, by Python's profiler.

    python -m benchmarks.frames

A frame is one call of a function written in Python; files and functions are counted once.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

import torchann

PACKAGE = Path(torchann.__file__).parent
STEPS = {"small": (4, [3, 4, 1]), "in blocks": (8192, [64] * 7)}  # rows, sizes


class Passed(NamedTuple):
    """The functions of one step, in the order of their first call, with their number of calls."""

    functions: Counter[tuple[str, str]]  # (file, name)

    @property
    def frames(self) -> int:
        return self.functions.total()

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self.functions))


def step(rows: int, sizes: list[int]) -> Passed:
    """Count torchann's functions in one forward and backward pass."""
    net, x, error = torchann.MLP(sizes), torch.randn(rows, sizes[0]), torch.randn(rows, sizes[-1])
    net(x).backward(error)  # a first pass, so that work done only once is not counted
    found: Counter[tuple[str, str]] = Counter()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(PACKAGE):
            found[str(file.relative_to(PACKAGE)), frame.f_code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        net(x).backward(error)
    finally:
        sys.setprofile(None)
    return Passed(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", action="store_true", help="list each function as well")
    options = parser.parse_args()
    for name, (rows, sizes) in STEPS.items():
        passed = step(rows, sizes)
        counts = f"{len(passed.files)} files, {len(passed.functions)} functions, {passed.frames} frames"
        print(f"{name}, {rows} × {sizes}: {counts}: {', '.join(passed.files)}")
        for (file, function), times in passed.functions.items() if options.functions else ():
            print(f"  {times:3d} × {file}: {function}")


if __name__ == "__main__":
    main()
