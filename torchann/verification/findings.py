"""What a check has to say: a finding for each comparison that holds, or an exception that says why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True)
class Finding:
    error: float = math.nan
    tolerance: float = math.nan
    message: str = ""


Comparisons: TypeAlias = Iterator[Finding]  # what each comparison found, or an exception


class Mismatch(AssertionError):
    """The check failed."""

    def __init__(self, message: str, error: float = math.nan, tolerance: float = math.nan) -> None:
        super().__init__(message)
        self.finding = Finding(error, tolerance, message)


class Unsupported(Exception):
    """fn refuses, which is honest."""


class Skipped(Exception):
    """The check does not apply."""


def merged(findings: Iterable[Finding]) -> Finding:
    """The finding of the largest error, and the first message."""
    findings = list(findings) or [Finding()]
    worst = max(findings, key=lambda finding: -1 if math.isnan(finding.error) else finding.error)
    return replace(worst, message=next((finding.message for finding in findings if finding.message), ""))


def first_line(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, (AssertionError, Unsupported)) else f"{type(error).__name__}: {text}"
