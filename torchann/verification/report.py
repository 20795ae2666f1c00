"""What comes back: a row for each check, and the report, which is their table as text, as data and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

Verdict: TypeAlias = Literal["pass", "fail", "unsupported", "skipped"]


@dataclass(frozen=True)
class Row:
    """What one check found. Error and tolerance are NaN where nothing is measured; the message explains a verdict."""

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
        """Whether no row failed."""
        return not self.failures

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


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_table(name: str, rows: Sequence[Row]) -> str:
    lines = [
        f"{name}: {count(rows)}",
        f"  {'check':22}{'verdict':13}{'error':>9}{'tolerance':>11}{'seconds':>9}",
    ]
    above = ""
    for row in rows:
        verdict = row.verdict.upper() if row.verdict == "fail" else row.verdict
        error, tolerance = ("" if finite(value) is None else f"{value:.1e}" for value in (row.error, row.tolerance))
        lines.append(f"  {row.check:22}{verdict:13}{error:>9}{tolerance:>11}{row.seconds:>9.2f}")
        if row.verdict == "fail":
            lines.append(f"      {row.message}")
        elif row.message not in ("", above):
            lines.append("      " + textwrap.shorten(row.message, 110, placeholder=" …"))
        above = row.message
    return "\n".join(lines)


def count(rows: Sequence[Row]) -> str:
    numbers = Counter(row.verdict for row in rows)
    return ", ".join(f"{numbers[verdict]} {verdict}" for verdict in get_args(Verdict) if verdict in numbers)
