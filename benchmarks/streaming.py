"""Peak memory and time of `train.py` on large CSV files, streamed and in memory: python -m benchmarks.streaming

A row has 20 columns: 17 numbers, two names and the class. Each run is a process of its own that trains for one epoch.
Its peak is the process's largest resident memory, including PyTorch and Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks.report import as_size, as_time, circumstances, machine, new_results, parser_of, table, write
from torchann.console import speak_utf8

TRAIN = Path(__file__).parents[1] / "train.py"
ROWS = (250_000, 1_000_000, 4_000_000)
COLUMNS = 20


class Cost(NamedTuple):
    """The cost of one run.

    Args:
        peak: the peak memory, in bytes.
        seconds: of the whole process.
    """

    peak: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("streaming", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    arguments = parser.parse_args(argv)
    results = {**new_results(machine("cpu"), {"columns": COLUMNS}, {}), "tables": list(map(measure, arguments.rows))}
    print(markdown(results))
    write(results, markdown(results), arguments.out, "streaming-cpu")
    return 0


def measure(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        write_table(path, rows)
        return {
            "rows": rows,
            "file": path.stat().st_size,
            "streamed": train(path, Path(folder), "--stream")._asdict(),
            "in memory": train(path, Path(folder))._asdict(),
        }


def write_table(path: Path, rows: int) -> None:
    """Write the file piece by piece, so that this process needs little memory."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            numbers = {f"x{index}": random.normal(size=count) for index in range(COLUMNS - 3)}
            frame = pl.DataFrame(numbers).with_columns(
                city=random.choice(["Bern", "Oslo", "Rome"], count),
                colour=random.choice(["blue", "green", "red", "white"], count),
                kind=np.where(numbers["x0"] + numbers["x1"] > 0, "high", "low"),
            )
            frame.write_csv(file, include_header=start == 0)


def train(path: Path, folder: Path, *options: str) -> Cost:
    """Train one epoch with batches of 1024 samples."""
    arguments = ["--data", path, "--target", "kind", "--epochs", "1", "--batch-size", "1024", "--device", "cpu"]
    command = [sys.executable, TRAIN, *arguments, "--logdir", folder / "runs", *options]
    start = time.monotonic()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"benchmarks: expected train.py to end with 0, got {child.returncode}")
    return Cost(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.monotonic() - start)


def markdown(results: dict[str, Any]) -> str:
    rows = [
        [f"{each['rows']:,}", as_size(each["file"])]
        + [text for way in ("streamed", "in memory") for text in as_texts(Cost(**each[way]))]
        for each in results["tables"]
    ]
    return "\n".join(
        [
            "# Tables larger than memory",
            "",
            circumstances(results),
            "",
            f"`train.py --data table.csv --target kind`, {results['settings']['columns']} columns, one epoch; peak "
            "memory and time of the whole process, with and without `--stream`. A file of more than a GiB is streamed "
            "anyway.",
            "",
            *table(["rows", "file", "peak, streamed", "time", "peak, in memory", "time"], rows),
            "",
        ]
    )


def as_texts(cost: Cost) -> list[str]:
    return [as_size(cost.peak), as_time(cost.seconds)]


if __name__ == "__main__":
    sys.exit(main())
