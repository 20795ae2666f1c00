"""`torchann.verify` on functions of other packages: python -m benchmarks.verify_world

It runs what is installed of `benchmarks.world_subjects` (the extra `world`), and installs nothing. A correct function
must get no false alarm, and no function may make `verify` raise. `--page docs/verify-world.md` writes the page from the
saved results and runs nothing.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.report import (
    ReportError,
    Results,
    as_line,
    circumstances,
    load,
    machine,
    merged,
    new_results,
    parser_of,
    status_of,
    write,
)
from benchmarks.world_subjects import DEFECT, DESIGN, SUBJECTS, Subject
from torchann.console import speak_utf8
from torchann.verification import CHECKS, verify

STEM = "verify-world"
BUDGET = 60.0  # seconds for a function
MARKS = {"pass": "✓", "fail": "✗", "advice": "!", "unsupported": "–", "skipped": "·"}
NAMES = tuple(subject.name for subject in SUBJECTS)
FAILS = {subject.name: subject.fails for subject in SUBJECTS}
KINDS = (DEFECT, DESIGN)


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("verify_world", __doc__)
    parser.add_argument("--only", nargs="+", metavar="PREFIX", help="functions whose names begin so; others are kept")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page from the saved results; run nothing")
    arguments = parser.parse_args(argv)
    if arguments.page:
        return status_of(lambda: arguments.page.write_text(page(load(arguments.out, STEM)), encoding="utf-8"))
    warnings.simplefilter("ignore")
    chosen = [each for each in SUBJECTS if each.name.startswith(tuple(arguments.only or [""]))]
    results = merged(load(arguments.out, STEM), run(chosen), NAMES)
    write(results, markdown(results), arguments.out, STEM)
    print(*problems(results), sep="\n")
    return int(any(problems(results)))


# --- Running ----------------------------------------------------------------------------------------------------------


def run(subjects: Iterable[Subject]) -> Results:
    absent = {each.distribution: "not installed" for each in SUBJECTS if not installed(each.distribution)}
    results = new_results(machine("cpu"), {"budget": BUDGET}, absent)
    for subject in subjects:
        if subject.distribution not in absent:
            results["rows"].append(checked(subject))
            print(as_text(results["rows"][-1]), flush=True)
    return results


def installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def checked(subject: Subject) -> dict[str, Any]:
    """The verdicts of one function, and the messages of those other than "pass"."""
    start, raised, rows = time.perf_counter(), "", ()
    try:
        options = {"budget": BUDGET, "name": subject.name, **subject.options}
        rows = verify(subject.made(), subject.inputs, **options).rows
    except Exception as error:
        raised = f"{type(error).__name__}: {error}".splitlines()[0]
    return {
        "name": subject.name,
        "package": subject.distribution,
        "version": installed(subject.distribution),
        "seconds": round(time.perf_counter() - start, 2),
        "raised": raised,
        "verdicts": {row.check: row.verdict for row in rows},
        "messages": {row.check: row.message for row in rows if row.message and row.verdict not in ("pass", "skipped")},
    }


def problems(results: Results) -> Iterator[str]:
    """What keeps the page from being written: an error raised by `verify`, a FAIL that nobody explained, and the
    explanation of a FAIL that is gone."""
    for row in results["rows"]:
        if row["raised"]:
            yield f"{row['name']}: verify raised {row['raised']}"
        failed, explained = failures(row), FAILS[row["name"]]
        for check in sorted(failed - explained.keys()):
            yield f"{row['name']}, {check}: no sentence says why this FAIL is true: {row['messages'][check]}"
        for check in sorted(explained.keys() - failed):
            yield f"{row['name']}, {check}: explained, but it did not fail"
        for check, why in explained.items():
            if not why.startswith(KINDS):
                yield f"{row['name']}, {check}: expected an explanation that begins with one of {', '.join(KINDS)}"


def failures(row: dict[str, Any]) -> set[str]:
    return {check for check, verdict in row["verdicts"].items() if verdict == "fail"}


# --- As text ----------------------------------------------------------------------------------------------------------


def as_text(row: dict[str, Any]) -> str:
    lines = [f"{marks(row)} {row['seconds']:6.1f} s  {row['package']} {row['version']}  {row['name']}"]
    lines += [f"    {check}: {row['messages'][check]}" for check in CHECKS if check in failures(row)]
    return "\n".join(lines + [f"    raised {row['raised']}"] * bool(row["raised"]))


def marks(row: dict[str, Any]) -> str:
    return "".join(MARKS[row["verdicts"][check]] for check in CHECKS if check in row["verdicts"])


def markdown(results: Results) -> str:
    return "\n".join(["# `verify` on functions of other packages", "", *overview(results), ""])


def page(results: Results | None) -> str:
    """The page of the documentation.

    Raises:
        ReportError: there are no results, or they have `problems`.
    """
    if results is None:
        raise ReportError("there are no saved results: run python -m benchmarks.verify_world first")
    if found := list(problems(results)):
        raise ReportError("\n".join(found))
    failed = [row for row in results["rows"] if failures(row)]
    return "\n".join(
        [
            "# Other packages' gradients",
            "",
            "<!-- Written by python -m benchmarks.verify_world --page docs/verify-world.md -->",
            "",
            INTRODUCTION.strip(),
            "",
            *overview(results),
            "",
            "## What failed, and why",
            "",
            EXPLANATION.strip(),
            *(line for row in failed for line in ("", *explanations(row))),
            "",
        ]
    )


INTRODUCTION = """
[`verify`](verify.md) must give no false alarm, and no function may make it raise an error or end its process. This page
shows its verdicts on functions of PyTorch and of public packages. Most of these have a backward pass written by hand.
"""

EXPLANATION = """
Each ✗ was analysed by hand, in float64: by differences of the function's values and by counts of tensors, which a
program made that shares no code with `verify`, or by the package's source. Each is true. "A defect" means that the
result is wrong, or that an error is raised by accident. "The package's design" means that its authors accept it.
"""


def overview(results: Results) -> list[str]:
    """How it ran, what came out, and the table of verdicts."""
    rows = results["rows"]
    packages = {row["package"] for row in rows}
    clean = sum(not failures(row) for row in rows)
    numbers = Counter(verdict for row in rows for verdict in row["verdicts"].values())
    legend = ", ".join(f"{number} `{check}`" for number, check in enumerate(CHECKS, 1))
    return [
        circumstances(results),
        "",
        f"{len(rows)} functions of {len(packages)} packages, {sum(row['seconds'] for row in rows):.0f} seconds in all. "
        f"{clean} functions have no ✗. Over all functions and checks: "
        f"{', '.join(f'{numbers[verdict]} {mark} {verdict}' for verdict, mark in MARKS.items())}.",
        "",
        f"The columns are the checks: {legend}.",
        "",
        *grid(rows),
    ]


def grid(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = as_line(["package", "function", *map(str, range(1, len(CHECKS) + 1)), "seconds"])
    rule = "|---|---|" + ":-:|" * len(CHECKS) + "---:|"
    above, lines = "", [head, rule]
    for row in rows:
        package = f"{row['package']} {row['version']}"
        cells = [MARKS[row["verdicts"][check]] if check in row["verdicts"] else "" for check in CHECKS]
        lines.append(
            as_line(["" if package == above else package, f"`{row['name']}`", *cells, f"{row['seconds']:.1f}"])
        )
        above = package
    return lines


def explanations(row: dict[str, Any]) -> list[str]:
    """A function's failures: the checks that one sentence explains, and that sentence."""
    by_sentence: dict[str, list[str]] = {}
    for check in CHECKS:
        if check in failures(row):
            by_sentence.setdefault(FAILS[row["name"]][check], []).append(f"`{check}`")
    items = [f"- {', '.join(checks)}: {sentence}" for sentence, checks in by_sentence.items()]
    return [f"**`{row['name']}`** ({row['package']} {row['version']})", "", *items]


if __name__ == "__main__":
    sys.exit(main())
