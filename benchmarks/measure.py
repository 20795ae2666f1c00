"""Measures one row: checks every competitor's gradients, then times those that are right, and measures their memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks import memory, timing
from benchmarks.competitors import Competitor, Gradients, Problem, enter, make_problem
from benchmarks.rows import Row, Target

Makers = dict[str, Callable[[Problem], Competitor]]
Measured = dict[str, Any]  # JSON values


class Settings(NamedTuple):
    rounds: int
    block_seconds: float


def makers(names: list[str], peers: Makers) -> Makers:
    return {**{name: partial(enter, name) for name in names}, **peers}


def measure(row: Row, device: str, entrants: Makers, settings: Settings) -> Measured:
    """The times and memory of the `entrants` on the row, and whether they meet its targets."""
    torch.compiler.reset()  # forget what earlier rows compiled
    with precision(row):
        problem = make_problem(row, device)
        ready, verdicts = admit(entrants, problem, device)
        seconds = timing.alternate({name: entry.call for name, entry in ready.items()}, device, *settings)
        for name in ready:
            verdicts[name].update(times_of(name, seconds))
    return {
        "name": row.name,
        "title": row.title,
        "samples": row.samples,
        "widths": list(row.widths),
        "activations": row.activations,
        "task": row.task,
        "x needs gradient": row.x_needs_gradient,
        "precision": row.precision,
        "tolerance": row.tolerance,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "competitors": verdicts,
        "targets": [judge(target, verdicts) for target in row.targets],
    }


def admit(entrants: Makers, problem: Problem, device: str) -> tuple[dict[str, Competitor], dict[str, Measured]]:
    """The entrants with right gradients; and for each entrant its memory, or the error."""
    expected = snapshot(enter("eager", problem).gradients)
    ready: dict[str, Competitor] = {}
    verdicts: dict[str, Measured] = {}
    for name, maker in entrants.items():
        try:
            competitor = maker(problem)
            check(competitor, expected, problem.row.tolerance)
            verdicts[name] = memory_of(competitor, problem, device)
        except AssertionError as error:
            verdicts[name] = {"wrong": one_line(error)}
        except Exception as error:  # a compiler or a peer may raise anything; the others still run
            verdicts[name] = {"failed": f"{type(error).__name__}: {one_line(error)}"}
        else:
            ready[name] = competitor
    return ready, verdicts


def check(competitor: Competitor, expected: Gradients, tolerance: float) -> None:
    """Raises AssertionError if a gradient is not as expected."""
    found = snapshot(competitor.gradients)
    if competitor.expected is not None:
        expected = snapshot(competitor.expected)
    if found.keys() != expected.keys():
        raise AssertionError(f"expected gradients of {sorted(expected)}, got {sorted(found)}")
    for name, gradient in expected.items():
        atol = tolerance * gradient.abs().max().item()
        explain = partial("{}: {}".format, name)
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol, msg=explain)


def snapshot(find: Callable[[], Gradients]) -> Gradients:
    """Copies of the gradients, which later calls don't overwrite."""
    return {name: gradient.detach().float().clone() for name, gradient in find().items()}


def memory_of(competitor: Competitor, problem: Problem, device: str) -> Measured:
    if problem.row.captured:  # a CUDA graph allocates its memory when it is captured
        return {"peak_bytes": None, "kept_bytes": None}
    problem.clear()
    peak = memory.peak_bytes(competitor.call, device)
    given = [problem.x, problem.error, *problem.eager.parameters()]
    return {"peak_bytes": peak, "kept_bytes": memory.kept_bytes(competitor.call, given)}


def times_of(name: str, seconds: dict[str, list[float]]) -> Measured:
    references = [reference for reference in ("eager", "compiled", "mlp", "floor") if reference in seconds]
    return {
        "seconds": timing.spread(seconds[name])._asdict(),
        "ratios": {reference: timing.ratio(seconds[name], seconds[reference])._asdict() for reference in references},
    }


def judge(target: Target, verdicts: dict[str, Measured]) -> Measured:
    """The target, the measured value and whether it meets the target; None if it was not measured."""
    value = measured_ratio(target, verdicts)
    return {**vars(target), "value": value, "met": None if value is None else value <= target.at_most}


def measured_ratio(target: Target, verdicts: dict[str, Measured]) -> float | None:
    ours, theirs = verdicts.get(target.competitor, {}), verdicts.get(target.against, {})
    if target.quantity == "peak":
        peak, reference = ours.get("peak_bytes"), theirs.get("peak_bytes")
        return peak / reference if peak and reference else None
    return ours.get("ratios", {}).get(target.against, {}).get("median")


@contextmanager
def precision(row: Row) -> Iterator[None]:
    """Allow TF32 only in the rows whose precision it is."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = row.precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def one_line(error: Exception) -> str:
    """The first lines of a message, without paths of this machine."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"(?:/[\w.+-]+){2,}", "…", "; ".join(lines[:3]))[:300]
