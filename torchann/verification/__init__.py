"""`verify`: every check that PyTorch has for a gradient, and some it lacks, in one call, on any function or module.

    report = verify(fn, inputs, reference=None)
    assert report.ok, report

Each check is a row of `CHECKS`: one small function, whose docstring says what it does and which defect it finds. They
compare in three ways, and what may differ comes from the ε of the dtype:

    derivatives against central differences    float64                      step and tolerance ε^⅓: 6e-6
    one way of computing against another       as given, and in float64     ε^⅔: 4e-11 in float64, 2e-5 in float32
    a lower precision against a higher         float32, bfloat16            ε^½: 3e-4, 9e-2
    untouched, or the same twice                                            0

An error is |a − b| / (1 + |b|); b is the entry itself in the first way, the tensor's largest entry in the others. A
function that refuses float64 is checked in the dtype given, with the tolerances of that.

Each module imports only from those before it:

    report         what comes back: findings, rows, their table
    cases          what is checked: a function of flat arguments, one set of them, and its runs
    comparing      two ways of computing the same: tolerances, and the entry where they differ
    derivatives    against central differences, to any order; kinks
    situations     what single checks put fn in: another layout, an empty batch, a child process
    judging        the samples that a check is given, how it is run, and what counts as unsupported
    checks         the table
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torchann.verification.cases import as_callable, name_of, random_state_kept
from torchann.verification.checks import CHECKS, check_names
from torchann.verification.derivatives import Numerics
from torchann.verification.judging import Inputs, Progress, make_samples, one_thread, rows_of_trouble, run_check
from torchann.verification.report import Report, Row, count, junit

__all__ = ["CHECKS", "Report", "Row", "check_names", "count", "junit", "verify"]


def verify(
    fn: Callable[..., Any],
    inputs: Inputs,
    reference: Callable[..., Any] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    domain: Callable[..., Any] | None = None,
    gradient: Callable[..., Any] | None = None,
    require: Collection[str] = (),
    checks: Collection[str] | None = None,
    skip: Collection[str] = (),
    seeds: Iterable[int] = range(3),
    eps: float | None = None,
    atol: float | None = None,
    budget: float | None = 120.0,
    name: str | None = None,
) -> Report:
    """Check the derivatives of a differentiable function or module, and all that can go wrong around them.

    Derivatives are checked in float64: inputs are cast up, and a module is copied and cast; its parameters count among
    the inputs. Agreement with the reference, vmap and compile are checked in the dtypes given. Every run starts from
    the same random numbers. Functions of more than 256 entries are checked along random directions.

    Args:
        fn: a callable, an `autograd.Function`, a registered operator or an `nn.Module`. Arguments and results may be
            nested in lists, tuples and dicts, results in dataclasses, too, and may be complex.
        inputs: its arguments, or a function of a seed that makes them. The tensors that require grad are
            differentiated; all those of floating point if none does. What lies near a kink (as of relu) or a jump (as
            of floor) is moved away.
        reference: computes the same. For a module: a module with parameters of the same shapes in the same order, or a
            function of the inputs followed by the parameters.
        kwargs: arguments by name, for fn and the reference.
        domain: maps the inputs to fn's arguments, where these have a constraint. For a positive definite matrix:
            `domain=lambda L: L @ L.mT + torch.eye(3).to(L)`, and a matrix L as the input.
        gradient: a function of the same arguments whose gradient fn is meant to have instead of its own, as of a
            straight-through estimator: `verify(Round, inputs, gradient=lambda x: x)`.
        require: names of checks that fn has to support; elsewhere "unsupported" is no failure.
        checks: names of the checks to run; None for all of `CHECKS`.
        skip: names of checks not to run.
        seeds: what a function `inputs` is called with, one after the other, for every check but the slow ones.
        eps: the step of the central differences; None: ε^⅓ of the dtype, 6e-6 in float64.
        atol: what |a − b| / (1 + |b|) may be between a derivative and its central difference; None: ε^⅓, too.
        budget: seconds after which no check is begun and what is not done is "skipped"; None for no limit.
        name: what the report is called.

    Returns:
        The report: `print(report)`, `report.ok`, `report.rows`, `report.to_json()`.

    Raises:
        ValueError: a check is unknown, there is no seed, nothing to differentiate, a tensor is sparse, nested or not
            initialised, or a reference has other parameters.
        TypeError: fn or the reference is not callable, inputs is not a sequence, or checks are given as one str.

    Example:
        >>> import torch
        >>> report = verify(torch.sin, (torch.randn(3),), checks=["reverse", "third-order"])
        >>> report.ok, [row.verdict for row in report.rows]
        (True, ['pass', 'pass'])
    """
    fn = as_callable("fn", fn)
    reference = None if reference is None else as_callable("reference", reference)
    gradient = None if gradient is None else as_callable("gradient", gradient)
    for asked in (require, checks or (), skip):
        check_names(asked)
    for option, value in (("eps", eps), ("atol", atol), ("budget", budget)):
        if value is not None and not value > 0:
            raise ValueError(f"{option}: expected a number above 0, or None, got {value!r}")
    selected = [
        known for known in CHECKS if (checks is None or known in checks or known in require) and known not in skip
    ]
    numerics = Numerics(eps, atol, math.inf if budget is None else time.perf_counter() + budget)
    name = name or name_of(fn)
    progress = Progress(name, len(selected))
    with random_state_kept(), one_thread():
        progress.write(f"verify {name}: looking for kinks")
        options = {"kwargs": kwargs, "gradient": gradient, "domain": domain}
        samples = list(make_samples(fn, inputs, list(seeds), numerics, reference, **options))
        rows = rows_of_trouble(selected, samples)
        for known in [] if rows else selected:
            progress(known)
            rows.append(run_check(CHECKS[known], samples, known in require))
        progress.write("")
    return Report(name, rows)
