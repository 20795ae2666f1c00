"""What comes back: what a comparison found, a row for each check, and the report, which is the table of the rows."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args
from xml.etree import ElementTree

Verdict: TypeAlias = Literal["pass", "fail", "advice", "unsupported", "skipped"]


# --- What one comparison found ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A comparison that holds. NaN where nothing was measured."""

    error: float = math.nan
    tolerance: float = math.nan
    message: str = ""


Comparisons: TypeAlias = Iterator[Finding]  # a check yields one for each comparison, or raises one of the below


class Mismatch(AssertionError):
    """The check failed."""

    def __init__(self, message: str, error: float = math.nan, tolerance: float = math.nan) -> None:
        super().__init__(message)
        self.finding = Finding(error, tolerance, message)


class Advice(Exception):
    """Nothing is wrong, but the reader should know this."""

    def __init__(self, message: str, error: float = math.nan, tolerance: float = math.nan) -> None:
        super().__init__(message)
        self.finding = Finding(error, tolerance, message)


class Unsupported(Exception):
    """fn refuses with an error, which is honest, or nothing can be said."""


class Skipped(Exception):
    """The check does not apply, or was not run."""


def merged(findings: Iterable[Finding]) -> Finding:
    """The finding with the largest error, and the first message."""
    findings = list(findings) or [Finding()]
    worst = max(findings, key=lambda finding: -1 if math.isnan(finding.error) else finding.error)
    return replace(worst, message=next((finding.message for finding in findings if finding.message), ""))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with its type unless it is one of ours."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, (Mismatch, Unsupported)) else f"{type(error).__name__}: {text}"


# --- Rows and their table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What one check found.

    Attributes:
        check: its name.
        verdict: "pass", "fail", "advice" (nothing is wrong, but read the message), "unsupported" (fn refuses it, or it
            can't be decided) or "skipped" (it does not apply, or the budget was spent).
        error: the largest error; NaN where nothing is measured.
        tolerance: what it was held to; NaN where nothing is measured.
        seconds: the time that the check took.
        message: why the verdict is not "pass", or how the check was done.
    """

    check: str
    verdict: Verdict
    error: float
    tolerance: float
    seconds: float
    message: str = ""


class Report(str):
    """The rows, and their table as text.

    A str, because pytest abridges anything else that stands behind the comma in `assert report.ok, report`.
    """

    name: str
    rows: tuple[Row, ...]

    def __new__(cls, name: str, rows: Iterable[Row]) -> Report:
        rows = tuple(rows)
        report = super().__new__(cls, as_table(name, rows))
        report.name, report.rows = name, rows
        return report

    def __getnewargs__(self) -> tuple[str, tuple[Row, ...]]:  # type: ignore[override]
        return self.name, self.rows

    @property
    def ok(self) -> bool:
        """Whether the gradient is proven: no row failed, and if `reverse` was among the checks, it passed."""
        return not self.failures and not unproven(self.rows)

    @property
    def failures(self) -> list[Row]:
        """The rows that failed."""
        return [row for row in self.rows if row.verdict == "fail"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which knows neither NaN nor infinity: they become None."""
        rows = [{key: finite(value) for key, value in asdict(row).items()} for row in self.rows]
        return {"name": self.name, "ok": self.ok, "rows": rows}

    def to_json(self) -> str:
        """`as_dict` as JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_junit(self) -> str:
        """The rows as test cases of a JUnit XML file, which CI services display."""
        return junit([self])


def junit(reports: Iterable[Report]) -> str:
    """Reports as one JUnit XML document: a suite for each report, a test case for each row.

    Unsupported rows count as skipped. What proves nothing (see `Report.ok`) is a failure, as it is for `ok`.
    """
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(root, "testsuite", name=report.name, tests=str(len(report.rows)))
        for row in report.rows:
            case = ElementTree.SubElement(
                suite, "testcase", classname=report.name, name=row.check, time=f"{row.seconds:.3f}"
            )
            failed = row.verdict == "fail" or row in unproven(report.rows)
            if failed or row.verdict in ("unsupported", "skipped"):
                ElementTree.SubElement(
                    case, "failure" if failed else "skipped", message=f"{row.verdict}: {row.message}"
                )
            elif row.message:
                ElementTree.SubElement(case, "system-out").text = row.message
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def unproven(rows: Sequence[Row]) -> list[Row]:
    """The row `reverse`, if it neither passed nor failed: then nothing is known about the gradient."""
    return [row for row in rows if row.check == "reverse" and row.verdict not in ("pass", "fail")]


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_table(name: str, rows: Sequence[Row]) -> str:
    nothing = "".join(f" · not proven, as {row.check} is {row.verdict}" for row in unproven(rows))
    lines = [
        f"{name}: {count(rows)}{nothing}",
        f"  {'check':22}{'verdict':13}{'error':>9}{'tolerance':>11}{'seconds':>9}",
    ]
    above = ""
    for row in rows:
        verdict = row.verdict.upper() if row.verdict == "fail" else row.verdict
        error, tolerance = ("" if finite(value) is None else f"{value:.1e}" for value in (row.error, row.tolerance))
        lines.append(f"  {row.check:22}{verdict:13}{error:>9}{tolerance:>11}{row.seconds:>9.2f}")
        if row.verdict in ("fail", "advice"):
            lines.append(f"      {row.message}")
        elif row.message not in ("", above):
            lines.append("      " + textwrap.shorten(row.message, 220, placeholder=" …"))
        above = row.message
    return "\n".join(lines)


def count(rows: Sequence[Row]) -> str:
    numbers = Counter(row.verdict for row in rows)
    return ", ".join(f"{numbers[verdict]} {verdict}" for verdict in get_args(Verdict) if verdict in numbers)
