"""`verify`: every check that PyTorch has for a gradient, and some it lacks, in one call, on any function or module.

    report = verify(fn, inputs, reference=None)
    assert report.ok, report

Each check is a row of `CHECKS`: one small function, whose docstring says what it does and which defect it finds. They
compare in three ways, and what may differ comes from the ε of the dtype:

    derivatives against central differences    float64, by `gradcheck`      step and tolerance ε^⅓: 6e-6
    one way of computing against another       as given, and in float64     ε^⅔: 4e-11 in float64, 2e-5 in float32
    a lower precision against a higher         float32, bfloat16            ε^½: 3e-4, 9e-2
    untouched, or the same twice                                            0

An error is |a − b| / (1 + |b|); b is the entry itself in the first way, the tensor's largest entry in the others.

Each module imports only from those before it:

    report         what comes back: rows, their table
    findings       what a check has to say
    cases          what is checked: a function of flat arguments, and one set of them
    runs           forward and backward there
    situations     what single checks put it in: another layout, an empty batch, `torch.func`
    comparing      two ways of computing the same: tolerances, and the entry where they differ
    rounding       what a lower precision makes of it
    derivatives    against central differences, to any order
    kinks          and how inputs are moved away from them
    samples        what a check is given: a case for each seed, as given and in float64
    judging        how a check is run, and what counts as unsupported
    checks         the table
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch

from torchann.verification.cases import as_callable, name_of
from torchann.verification.checks import CHECKS, check_names
from torchann.verification.judging import one_thread, rows_of_trouble, run_check
from torchann.verification.report import Report, Row, count
from torchann.verification.samples import Inputs, make_samples

__all__ = ["CHECKS", "Report", "Row", "check_names", "count", "verify"]


def verify(
    fn: Callable[..., Any],
    inputs: Inputs,
    reference: Callable[..., Any] | None = None,
    *,
    require: Collection[str] = (),
    checks: Collection[str] | None = None,
    seeds: Iterable[int] = range(3),
    name: str | None = None,
) -> Report:
    """Check the derivatives of a differentiable function or module, and all that can go wrong around them.

    Derivatives are checked in float64: inputs are cast up, and a module is copied and cast; its parameters count among
    the inputs. Agreement with the reference, vmap and compile are checked in the dtypes given.

    Args:
        fn: a callable, an `autograd.Function`, a registered operator or an `nn.Module`. Arguments and results may be
            nested in lists, tuples and dicts.
        inputs: its arguments, or a function of a seed that makes them. The tensors that require grad are
            differentiated; all those of floating point if none does. What lies near a kink (as of relu) is moved away.
        reference: computes the same. For a module: a module with parameters of the same shapes in the same order, or a
            function of the inputs followed by the parameters.
        require: names of checks that fn has to support; elsewhere "unsupported" is no failure.
        checks: names of the checks to run; None for all of `CHECKS`.
        seeds: what a function `inputs` is called with, one after the other, for every check but the slow ones.
        name: what the report is called.

    Returns:
        The report: `print(report)`, `report.ok`, `report.rows`, `report.to_json()`.

    Raises:
        ValueError: a check is unknown, there is no seed, nothing to differentiate, or a reference has other parameters.
        TypeError: fn or the reference is not callable, inputs is not a sequence, or checks are given as one str.

    Example:
        >>> report = verify(torch.sin, (torch.randn(3),), checks=["reverse", "third-order"])
        >>> report.ok, [row.verdict for row in report.rows]
        (True, ['pass', 'pass'])
    """
    fn = as_callable("fn", fn)
    reference = None if reference is None else as_callable("reference", reference)
    for asked in (require, checks or ()):
        check_names(asked)
    selected = [known for known in CHECKS if checks is None or known in checks or known in require]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), one_thread():
        samples = list(make_samples(fn, inputs, reference, list(seeds)))
        rows = rows_of_trouble(selected, samples) or [
            run_check(CHECKS[known], samples, known in require) for known in selected
        ]
    return Report(name or name_of(fn), rows)
