"""How a check is run: over its samples to a row, and which of its errors says that something is not supported."""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from torchann.verification.findings import Comparisons, Finding, Mismatch, Skipped, Unsupported, first_line, merged
from torchann.verification.report import Row, Verdict
from torchann.verification.runs import quiet
from torchann.verification.samples import Sample

CheckFunction: TypeAlias = Callable[[Sample], Comparisons]


@dataclass(frozen=True)
class Check:
    name: str
    run: CheckFunction
    once: bool = False  # one seed is enough
    transforms: bool = False  # hands fn to one of PyTorch's transforms: its errors are refusals
    advisory: bool = False  # an error above the tolerance fails only where the check is required
    repeats: bool = True  # compares two runs, which tells nothing of an fn that isn't deterministic

    @property
    def summary(self) -> str:
        """The first line of what it does and finds; `inspect.getdoc(check.run)` is all of it."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


SEVERITY: tuple[Verdict, ...] = ("skipped", "pass", "unsupported", "fail")  # over several seeds, the last one counts


def run_check(check: Check, samples: Sequence[Sample], required: bool) -> Row:
    """The row of a check over its samples: the worst verdict, the largest error and the time of all."""
    start = time.perf_counter()
    found: list[tuple[Verdict, Finding]] = []
    for sample in samples[:1] if check.once else samples:
        found.append(judge(check, sample))
        if found[-1][0] == "fail":
            break
    verdict, finding = max(found, key=lambda each: SEVERITY.index(each[0]))
    if verdict == "pass":
        finding = merged(each for _, each in found)
    if required and verdict in ("unsupported", "skipped"):
        verdict, finding = "fail", replace(finding, message=f"required, but {verdict}: {finding.message}")
    if required and check.advisory and finding.error > finding.tolerance:
        verdict = "fail"
    return Row(check.name, verdict, finding.error, finding.tolerance, time.perf_counter() - start, finding.message)


def judge(check: Check, sample: Sample) -> tuple[Verdict, Finding]:
    seed = "" if sample.seed is None else f"seed {sample.seed}: "
    try:
        with quiet(check.transforms):
            if check.repeats and not sample.is_deterministic:
                raise Skipped("fn is not deterministic, so that its runs can't be compared")
            return "pass", merged(check.run(sample))
    except Mismatch as mismatch:
        return "fail", replace(mismatch.finding, message=f"{seed}{mismatch}")
    except Skipped as reason:
        return "skipped", Finding(message=str(reason))
    except Exception as error:
        if is_refusal(error, check.transforms):
            return "unsupported", Finding(message=first_line(error))
        return "fail", Finding(message=f"{seed}{first_line(error)}")


def rows_of_trouble(selected: Sequence[str], samples: Sequence[Sample]) -> list[Row]:
    """Where fn can't be run at all, one row says so for all of them."""
    trouble = next(filter(None, (sample.trouble for sample in samples)), "")
    if not trouble or not selected:
        return []
    where = "reverse" if "reverse" in selected else selected[0]
    return [
        Row(name, "fail", math.nan, math.nan, 0.0, trouble)
        if name == where
        else Row(name, "skipped", math.nan, math.nan, 0.0, f"fn can't be run: see {where}")
        for name in selected
    ]


# How PyTorch, and others after its example, say that something is not there.
REFUSALS = re.compile(
    "not (yet )?(been )?(implemented|supported)|(does not|doesn't) support|must override|does not have vmap support"
    "|differentiate twice|Can't call numpy",
    re.IGNORECASE,
)


def is_refusal(error: Exception, by_a_transform: bool) -> bool:
    """Whether the error says that something isn't supported, rather than that something is broken."""
    if isinstance(error, (Unsupported, NotImplementedError)):
        return True
    if by_a_transform:
        return isinstance(error, (RuntimeError, AssertionError))
    return isinstance(error, RuntimeError) and bool(REFUSALS.search(str(error)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Over a few numbers, several threads do nothing but wait for each other, on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
