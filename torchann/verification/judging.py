"""How a check is run: the samples that it is given, over them to a row, and which errors mean "unsupported"."""

from __future__ import annotations

import inspect
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch

from torchann.verification.cases import Case, forward, is_differentiable, is_freed, make_case
from torchann.verification.comparing import agree_in_all, check_dtypes
from torchann.verification.derivatives import NUMERICS, Derivative, Numerics, away_from_kinks
from torchann.verification.report import (
    Advice,
    Comparisons,
    Finding,
    Mismatch,
    Row,
    Skipped,
    Unsupported,
    Verdict,
    first_line,
    merged,
)
from torchann.verification.situations import quiet

Inputs: TypeAlias = Sequence[Any] | Callable[[int], Sequence[Any]]

# --- Samples, which checks are given ----------------------------------------------------------------------------------


@dataclass
class Sample:
    """A case in the dtypes given, and in the dtype that derivatives are checked in; away from kinks."""

    own: Case
    double: Case  # in float64; where fn refuses that, in the dtypes given
    seed: int | None = None
    is_first: bool = True
    note: str = ""  # on kinks
    refusal: str = ""  # why fn runs in one of the two dtypes only
    trouble: str = ""  # why it can't be run forward and backward at all
    numerics: Numerics = NUMERICS
    derivatives: dict[int, Derivative] = field(default_factory=dict)

    @property
    def precisions(self) -> list[Case]:
        return [self.double] if self.own.eps == self.double.eps else [self.own, self.double]

    def derivative(self, order: int) -> Derivative:
        """The function whose first derivative is fn's derivative of this order."""
        if order not in self.derivatives:
            self.derivatives[order] = (
                self.derivative(order - 1).gradient() if order > 1 else Derivative.of(self.double, self.numerics)
            )
        return self.derivatives[order]

    def check_derivative(self, order: int, forward_mode: bool = False) -> Finding:
        """The derivative of this order against central differences of the one below."""
        fn = self.derivative(1)
        if self.double.eps == torch.finfo(torch.float64).eps:
            check_dtypes(fn.outputs(), torch.float64)
        if forward_mode:
            fn.hear_tangents()
        for lower in range(2, order + 1):
            self.derivative(lower).hear_refusal()
        if order > 2 and fn.has_sparse_gradients:
            raise Unsupported("of sparse gradients PyTorch loses the third derivative")
        try:
            found = self.derivative(order).compare(forward_mode, apart=order == 1 and not forward_mode)
            return replace(found, message="; ".join(filter(None, (self.note, found.message))))
        except Mismatch as mismatch:
            silently = "silently wrong: " if order > 1 else ""
            note = f" ({self.note})" if self.note else ""
            message = f"{silently}{mismatch}{note}"
            raise Mismatch(message, mismatch.finding.error, mismatch.finding.tolerance) from None

    @cached_property
    def is_random(self) -> bool:
        """Whether other random numbers give other outputs."""
        case = self.double
        runs = [forward(replace(case.fn, seed=seed), case).outputs for seed in (0, 1)]
        return not all(map(torch.equal, *runs))

    def skip_if_random(self) -> None:
        if self.is_random:
            raise Skipped("fn is random, and what it draws depends on the layout and the dtype")

    @cached_property
    def is_deterministic(self) -> bool:
        """Whether two runs from the same random numbers agree."""
        first, second = (forward(self.double.fn, self.double) for _ in range(2))
        try:
            list(agree_in_all(second, first, self.double, ("", ""), tolerance=0))
        except Mismatch:
            return False
        return True


def make_samples(
    fn: Callable[..., Any], inputs: Inputs, seeds: Sequence[int], numerics: Numerics, *others: Any, **options: Any
) -> Iterator[Sample]:
    if not callable(inputs):
        yield make_sample(make_case(fn, inputs, *others, **options), None, numerics)
        return
    if not seeds:
        raise ValueError("seeds: expected at least one, got none")
    for index, seed in enumerate(seeds):
        torch.manual_seed(seed)  # for inputs that forget to
        sample = make_sample(make_case(fn, inputs(seed), *others, **options), seed, numerics)
        sample.is_first = index == 0
        yield sample


def make_sample(own: Case, seed: int | None, numerics: Numerics) -> Sample:
    double = own.to(torch.float64)
    in_float64 = reason_against(double)
    as_given = reason_against(own) if own.eps != double.eps or in_float64 else ""
    if in_float64 and as_given:
        return Sample(own, double, seed, trouble=f"in float64, in which gradients are checked: {in_float64}")
    refusal = ""
    if in_float64:
        dtype = str(own.tensors[0].dtype).removeprefix("torch.")
        refusal = f"derivatives are checked in {dtype}, with its tolerances, as float64 is refused: {in_float64}"
        double = own
    elif as_given:
        refusal = f"every check runs in float64, as the dtype given is refused: {as_given}"
        own = double
    with quiet():
        double, note = away_from_kinks(double, numerics.until)
    pairs = zip(double.arguments, own.arguments, strict=True)
    moved = tuple(a.to(b.dtype) if is_differentiable(b) else a for a, b in pairs)
    return Sample(replace(own, arguments=moved), double, seed, note=note, refusal=refusal, numerics=numerics)


def reason_against(case: Case) -> str:
    """Why fn can't be run forward and backward there."""
    try:
        run = forward(case.fn, case)
        run.backward()
    except Exception as error:
        return first_line(error) + hint(error)
    if any(map(is_freed, run.outputs)):  # PyTorch's gradcheck, too, reads outputs after a backward pass
        return "backward freed the memory of an output; whatever reads the output later kills the process"
    return ""


# What PyTorch says first, to those who use it wrongly for the first time.
HINTS = (
    (
        "(must have|have|expected) (the )?same dtype|expected m1 and m2|expected scalar type|should be the same",
        "Does fn hold tensors or a module in another dtype? Pass them as inputs, or pass the module itself",
    ),
    ("uninitialized parameter", "Call the lazy module once before"),
)


def hint(error: Exception) -> str:
    return next((f". {words}" for pattern, words in HINTS if re.search(pattern, str(error), re.IGNORECASE)), "")


# --- Checks, which make rows ------------------------------------------------------------------------------------------

CheckFunction: TypeAlias = Callable[[Sample], Comparisons]


@dataclass(frozen=True)
class Check:
    name: str
    run: CheckFunction
    once: bool = False  # one seed is enough
    transforms: bool = False  # hands fn to one of PyTorch's transforms: its errors are refusals
    repeats: bool = True  # compares two runs, which tells nothing of an fn that isn't deterministic

    @property
    def summary(self) -> str:
        """The first line of what it does and finds; `inspect.getdoc(check.run)` is all of it."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


SEVERITY: tuple[Verdict, ...] = ("skipped", "pass", "advice", "unsupported", "fail")  # over several seeds, the last


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
    if required and verdict in ("advice", "unsupported", "skipped"):
        verdict, finding = "fail", replace(finding, message=f"required, but {verdict}: {finding.message}")
    return Row(check.name, verdict, finding.error, finding.tolerance, time.perf_counter() - start, finding.message)


def judge(check: Check, sample: Sample) -> tuple[Verdict, Finding]:
    seed = "" if sample.seed is None else f"seed {sample.seed}: "
    try:
        if time.perf_counter() > sample.numerics.until:
            raise Skipped("the budget was spent before")
        with quiet():
            if check.repeats and not sample.is_deterministic:
                raise Skipped("fn is not deterministic, so that its runs can't be compared")
            return "pass", merged(check.run(sample))
    except Mismatch as mismatch:
        return "fail", replace(mismatch.finding, message=f"{seed}{mismatch}")
    except Advice as advice:
        return "advice", advice.finding
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
    verdict: Verdict = "unsupported" if NO_DERIVATIVE.search(trouble) else "fail"
    return [
        Row(name, verdict, math.nan, math.nan, 0.0, trouble)
        if name == where
        else Row(name, "skipped", math.nan, math.nan, 0.0, f"fn can't be run: see {where}")
        for name in selected
    ]


# How PyTorch, and others after its example, say that something is not there.
REFUSALS = re.compile(
    "not (yet )?(been )?(implemented|supported)|(does not|doesn't|don't) support|must override"
    r"|does not have vmap support|differentiate twice|Can't call numpy|compatible with \.grad\(\)"
    "|could not create a primitive|not available (in|on) this|is not differentiable",
    re.IGNORECASE,
)


def is_refusal(error: Exception, by_a_transform: bool) -> bool:
    """Whether the error says that something isn't supported, rather than that something is broken."""
    if isinstance(error, (Unsupported, NotImplementedError)):
        return True
    if by_a_transform:
        return isinstance(error, RuntimeError) or (isinstance(error, AssertionError) and raised_in_torch(error))
    return isinstance(error, RuntimeError) and bool(REFUSALS.search(str(error)))


def raised_in_torch(error: BaseException) -> bool:
    """Whether an `assert` of PyTorch failed, and not one of fn's own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = "" if trace is None else trace.tb_frame.f_code.co_filename
    return Path(inspect.getfile(torch)).parent in Path(file).parents


NO_DERIVATIVE = re.compile(r"derivative for '?[\w:]+'? is not implemented")  # PyTorch says so of its own functions


@contextmanager
def one_thread() -> Iterator[None]:
    """Over a few numbers, several threads do nothing but wait for each other, on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Progress:
    """One line on a terminal that says which check runs; nothing elsewhere."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.shown = sys.stderr.isatty()

    def __call__(self, check: str) -> None:
        self.done += 1
        self.write(f"verify {self.name}: {self.done}/{self.total} {check}")

    def write(self, text: str) -> None:
        if self.shown:
            with suppress(OSError):
                sys.stderr.write(f"\r\x1b[K{text}")  # from the start of the line, which is cleared
                sys.stderr.flush()
