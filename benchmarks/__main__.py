"""The command `python -m benchmarks`.

python -m benchmarks                                  every row, on the CPU and on the GPU, if there is one
python -m benchmarks --rows '4x3-4-1' '8192x*'        some rows; the saved results of the other rows are kept
python -m benchmarks --sweeps                         also how cost grows with batch, width and depth
python -m benchmarks --table                          write the README's table from the saved results
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from benchmarks import report
from benchmarks.competitors import names
from benchmarks.measure import Makers, Measured, Settings, makers, measure
from benchmarks.peers import PEERS, look_for
from benchmarks.report import ReportError, Results
from benchmarks.rows import ROWS, SWEEPS, Row
from torchann.console import speak_utf8

FULL = Settings(rounds=21, block_seconds=0.02)
QUICK = Settings(rounds=3, block_seconds=0.002)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if gradients are wrong, 2 for invalid arguments."""
    speak_utf8()
    arguments = parse(argv)
    try:
        if arguments.table:
            return write_table(arguments)
        if arguments.sweeps and find_spec("matplotlib") is None:
            raise BadArguments(
                "--sweeps: expected matplotlib, which draws the plot, got none; it is in the extra `bench`"
            )
        wrong = [name for device in devices(arguments) for name in run(arguments, device)]
    except (BadArguments, ReportError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    for name in wrong:
        print(f"benchmarks: wrong gradients: {name}", file=sys.stderr)
    return 1 if wrong else 0


class BadArguments(Exception):
    pass


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="torchann and what a user would pick instead."
    )
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="only rows whose name matches")
    parser.add_argument(
        "--competitors", nargs="+", default=["*"], metavar="PATTERN", help="only these and eager; saved as with --quick"
    )
    parser.add_argument("--device", choices=ROWS, help="default: each that this machine has")
    parser.add_argument("--rounds", type=int, help=f"default: {FULL.rounds}")
    parser.add_argument(
        "--quick", action="store_true", help="few short rounds, to see that it runs; saved apart, as FOLDER/KIND-rough"
    )
    parser.add_argument("--sweeps", action="store_true", help="also measure how cost grows with batch, width and depth")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    parser.add_argument("--table", action="store_true", help="only write the README's table from the saved results")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), metavar="FILE")
    return parser.parse_args(argv)


def devices(arguments: argparse.Namespace) -> list[str]:
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if arguments.device not in (None, *there):
        raise BadArguments(f"--device: expected one of {there}, got {arguments.device!r}, which is not there")
    return [arguments.device] if arguments.device else there


def run(arguments: argparse.Namespace, device: str) -> list[str]:
    """Measure, print and save. Returns the names of the rows and competitors with wrong gradients."""
    settings = settings_of(arguments)
    rows = matching(arguments.rows, device)
    if not rows and not arguments.sweeps:
        return []
    modules, absent = look_for(PEERS)
    results = report.new_results(report.machine(device), settings._asdict(), absent)
    print("\n".join([report.circumstances(results), *report.absences(results)]), flush=True)

    for row in rows:
        measured = measure(row, device, entrants(row, device, modules, arguments.competitors), settings)
        results["rows"].append(measured)
        print("\n".join(["", *report.row_section(measured)]), flush=True)
        save(results, arguments, device)
    if arguments.sweeps:
        run_sweeps(results, arguments, device, settings)
        save(results, arguments, device)
        report.plot_growth(results, arguments.out / report.plot_name(stem_of(arguments, device)))
    return [
        f"{row['title']}: {name}: {entry['wrong']}"
        for row in [*results["rows"], *(row for sweep in results["growth"].values() for _, row in sweep["points"])]
        for name, entry in row["competitors"].items()
        if "wrong" in entry
    ]


def run_sweeps(results: Results, arguments: argparse.Namespace, device: str, settings: Settings) -> None:
    for sweep in SWEEPS:
        points: list[tuple[int, Measured]] = []
        for size, row in list(sweep.rows.items())[: 2 if arguments.quick else None]:
            points.append((size, measure(row, device, entrants(row, device, {}, arguments.competitors), settings)))
        results["growth"][sweep.name] = {"label": sweep.label, "points": points}
        print("\n".join(["", *report.growth_section(sweep.name, results["growth"][sweep.name])]), flush=True)


def settings_of(arguments: argparse.Namespace) -> Settings:
    settings = QUICK if arguments.quick else FULL
    if arguments.rounds is None:
        return settings
    if arguments.rounds < 1:
        raise BadArguments(f"--rounds: expected a positive number, got {arguments.rounds}")
    return settings._replace(rounds=arguments.rounds)


def matching(patterns: list[str], device: str) -> list[Row]:
    every = [row.name for rows in ROWS.values() for row in rows]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise BadArguments(f"--rows: expected one of {', '.join(every)}, got {pattern!r}")
    return [row for row in ROWS[device] if any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def entrants(row: Row, device: str, modules: dict[str, ModuleType], patterns: list[str]) -> Makers:
    suited = {name: module for name, module in modules.items() if PEERS[name].suits(row, device)}
    every = makers(names(device), {name: partial(PEERS[name].enter, module) for name, module in suited.items()})
    return {
        name: maker
        for name, maker in every.items()
        if name == "eager" or any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def save(results: Results, arguments: argparse.Namespace, device: str) -> None:
    """Called after every row, so that an interrupted run keeps its results."""
    stem = stem_of(arguments, device)
    order = [row.name for row in ROWS[device]]
    report.save(report.merged(report.load(arguments.out, stem), results, order), arguments.out, stem)


def stem_of(arguments: argparse.Namespace, device: str) -> str:
    """The name of the files of results. Results of a quick or partial run go to files of their own."""
    is_rough = arguments.quick or arguments.competitors != ["*"]
    kind = report.kind_of_cpu() if device == "cpu" else device
    return f"{kind}-rough" if is_rough else kind


def write_table(arguments: argparse.Namespace) -> int:
    stems = [path.stem for device in ROWS for path in sorted(arguments.out.glob(f"{device}*.json"))]
    saved = [results for stem in stems if "-rough" not in stem and (results := report.load(arguments.out, stem))]
    if not saved:
        raise ReportError(f"--table: expected saved results in {arguments.out}, got none; run without --table first")
    report.write_readme(arguments.readme, saved)
    return 0


if __name__ == "__main__":
    sys.exit(main())
