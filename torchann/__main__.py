"""The command `torchann`, or `python -m torchann`.

    torchann verify                        every operation of torchann, on this machine
    torchann verify package.module:name    a function, an autograd.Function or an nn.Module of your own

The module must also define `name_inputs`: a function that returns the arguments for `name` as a tuple, and may take a
seed. It may define `name_reference`, a function that computes the same, to compare with; and `name_gradient` and
`name_domain`, the arguments `gradient` and `domain` of `torchann.verify`.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import functional
from torchann.activations import TABLE, Activation, ActivationLike, get
from torchann.console import speak_utf8
from torchann.functions import Reduction
from torchann.modules import MLP, Dense, HalfSquaredErrorLoss
from torchann.transforms import pytree
from torchann.verification import CHECKS, Report, check_names, count, junit, verify


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 1 if a gradient is wrong or not proven, 2 for invalid arguments."""
    speak_utf8()
    arguments = parse(argv)
    start = time.perf_counter()
    try:
        for asked in (arguments.checks, arguments.require, arguments.skip):
            check_known(asked)
        dtype = as_dtype(arguments.dtype)
        places = [Place(as_device(name), dtype) for name in arguments.device or devices_here()]
        run = verify_yours if arguments.target else verify_ours
        reports = {place: run(arguments, place) for place in places}
        if arguments.json:
            write(arguments.json, as_json(reports))
        if arguments.junit:
            write(arguments.junit, junit(report for each in reports.values() for report in each))
    except BadArguments as error:
        print(f"torchann verify: {error}", file=sys.stderr)
        return 2
    rows = [row for each in reports.values() for report in each for row in report.rows]
    where = ", ".join(str(place.device) for place in places)
    seconds = time.perf_counter() - start
    print(f"\n{len(rows)} rows: {count(rows)} · {where}, torch {torch.__version__}, {seconds:.0f} s")
    return 0 if all_ok(reports) else 1


def all_ok(reports: Mapping[Place, Sequence[Report]]) -> bool:
    return all(report.ok for each in reports.values() for report in each)


def devices_here() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


class BadArguments(Exception):
    pass


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("torchann", description="Backpropagation that a person can read, check and run.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "verify",
        help="check gradients: torchann's own, or those of a function of yours",
        description=__doc__,
        epilog="checks:\n" + "\n".join(f"  {name:22}{check.summary}" for name, check in CHECKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", nargs="?", metavar="package.module:name", help="default: all of torchann's own")
    command.add_argument(
        "--device", type=names, metavar="NAME,…", help="where to check (default: the CPU, and CUDA where there is one)"
    )
    command.add_argument(
        "--dtype",
        help="of the inputs in the checks reference, batched, vmap and compile (default: that of your inputs, float32 "
        "for torchann's own); derivatives are always checked in float64",
    )
    command.add_argument("--checks", type=names, metavar="NAME,…", help="run only these (default: all)")
    command.add_argument(
        "--require",
        type=names,
        metavar="NAME,…",
        help="fail where these are unsupported (default: for torchann's own operations all checks, for yours none)",
    )
    command.add_argument("--skip", type=names, default=(), metavar="NAME,…", help="do not run these")
    command.add_argument("--junit", metavar="FILE", help="write the rows there as JUnit XML, which CI services display")
    command.add_argument("--json", metavar="FILE", help="also write the results to this file")
    return parser.parse_args(argv)


def names(text: str) -> list[str]:
    return text.split(",")


def check_known(asked: Sequence[str] | None) -> None:
    try:
        check_names(asked or ())
    except ValueError as error:
        raise BadArguments(error) from None


def as_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadArguments(f"device {name!r} is not available: {str(error).splitlines()[0]}") from None
    return device


def as_dtype(name: str | None) -> torch.dtype | None:
    dtype = None if name is None else getattr(torch, name, None)
    if name is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise BadArguments(f"dtype: expected one of floating point, as float32 or bfloat16, got {name!r}")
    return dtype


def as_json(reports: Mapping[Place, Sequence[Report]]) -> str:
    document = {
        "torch": str(torch.__version__),
        "ok": all_ok(reports),
        "reports": [
            {"device": str(place.device), **report.as_dict()} for place, each in reports.items() for report in each
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadArguments(f"can't write {file!r}: {error.strerror}") from None


# --- What is verified, and where -------------------------------------------------------------------------------------


class Subject(NamedTuple):
    name: str
    fn: Callable[..., Any]
    inputs: Callable[[int], Sequence[Any]] | Sequence[Any]
    reference: Callable[..., Any] | None = None
    gradient: Callable[..., Any] | None = None
    domain: Callable[..., Any] | None = None


class Place(NamedTuple):
    device: torch.device
    dtype: torch.dtype | None  # None: that of the inputs

    def verify(self, subject: Subject, **options: Any) -> Report:
        name, fn, inputs, *others = subject
        at_place = (lambda seed: self.put(inputs(seed))) if callable(inputs) else self.put(inputs)
        reference, gradient, domain = map(self.put, others)
        return verify(self.put(fn), at_place, reference, gradient=gradient, domain=domain, name=name, **options)

    def put(self, value: Any) -> Any:
        """The tensors and modules in `value`, moved to this device and dtype; modules are copied first."""
        return pytree.tree_map(self.put_leaf, value)

    def put_leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, nn.Module):
            return copy.deepcopy(leaf).to(self.device, self.dtype)
        if not isinstance(leaf, Tensor):
            return leaf
        dtype = self.dtype if leaf.is_floating_point() else None
        return leaf.detach().to(self.device, dtype).requires_grad_(leaf.requires_grad)


# --- A function of the user's ----------------------------------------------------------------------------------------


def verify_yours(arguments: argparse.Namespace, place: Place) -> list[Report]:
    subject = load(arguments.target)
    try:
        require = arguments.require or ()
        report = place.verify(subject, checks=arguments.checks, require=require, skip=arguments.skip)
    except (TypeError, ValueError) as error:  # raised by `verify` for inputs or a reference that it can't use
        raise BadArguments(f"{subject.name}: {error}") from error
    print(report)
    return [report]


def load(target: str) -> Subject:
    """Import `name` and what is defined for it; the current folder is searched for the module, too."""
    path, colon, name = target.partition(":")
    if not (path and colon and name):
        raise BadArguments(f"expected package.module:name, got {target!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(path)
    except Exception as error:  # the user's module may raise anything
        raise BadArguments(f"can't import {path!r}: {type(error).__name__}: {error}") from error
    for needed in (name, f"{name}_inputs"):
        if not hasattr(module, needed):
            raise BadArguments(f"{path} has no {needed}")
    inputs = getattr(module, f"{name}_inputs")
    if callable(inputs) and not inspect.signature(inputs).parameters:
        inputs = inputs()
    others = (getattr(module, f"{name}_{role}", None) for role in ("reference", "gradient", "domain"))
    return Subject(target, getattr(module, name), inputs, *others)


# --- torchann's own operations ---------------------------------------------------------------------------------------


def verify_ours(arguments: argparse.Namespace, place: Place) -> list[Report]:
    """Run every check on every operation: print a table line by line, then the failures."""
    checks = [
        name for name in CHECKS if (arguments.checks is None or name in arguments.checks) and name not in arguments.skip
    ]
    require = [name for name in checks if name not in OPTIONAL] if arguments.require is None else arguments.require
    print(f"on {place.device}\n{heading([name for name in CHECKS if name in checks or name in require])}")
    reports = []
    for subject in own_subjects():
        reports.append(place.verify(subject, checks=checks, require=require))
        print(line(reports[-1]), flush=True)
    for report in reports:
        if report.failures:
            print(f"\n{Report(report.name, report.failures)}")
    return reports


# torchann registers no operator for opcheck; an identity layer saves its output, which F.linear does not.
OPTIONAL = (
    "opcheck",  # we have no operator
    "saved-tensors",  # `FirstOrder` keeps a weight and the biases for their places in the graph, and reads no values
    "saved-bytes",  # an identity layer keeps the output that F.linear does not
)


def own_subjects() -> Iterator[Subject]:
    """Each operation with its reference in plain PyTorch; every row of the activations' table is included."""
    sine = Activation("own sine", torch.sin, torch.cos, lambda z: -torch.sin(z))
    for activation in (*TABLE.values(), sine, get(torch.atan)):
        yield dense_subject(activation, bias=True)
    yield dense_subject(TABLE["sigmoid"], bias=False)  # whose f′ reads o
    yield dense_subject(TABLE["silu"], bias=False)  # whose f′ reads z
    yield mlp_subject("mlp, mixed", [3, 4, 3, 2], ["tanh", "relu", sine])
    yield mlp_subject("mlp, a callable inside", [3, 4, 2], [torch.atan, "sigmoid"])
    yield laplacian_subject([2, 3, 1], ["tanh", sine])
    yield jet_subject([2, 3, 1], ["sigmoid", "identity"])
    losses = {reduction: half_squared_error_subject(reduction) for reduction in ("mean", "sum", "none")}
    yield from losses.values()
    torch.manual_seed(0)  # for the modules' parameters
    yield Subject("Dense", Dense(3, 4, "tanh"), randoms((5, 3)), nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Identity())
    yield Subject("MLP", MLP([3, 4, 2], "sigmoid", "identity"), randoms((5, 3)), net)
    yield losses["mean"]._replace(name="HalfSquaredErrorLoss", fn=HalfSquaredErrorLoss())


def dense_subject(activation: Activation, bias: bool) -> Subject:
    def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.dense(x, weight, bias, activation)

    f = hardsigmoid if activation.name == "hardsigmoid" else activation.f

    def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return f(F.linear(x, weight, bias))

    shapes = ((5, 3), (2, 3), (2,))
    name = f"dense, {activation.name}" + ("" if bias else ", no bias")
    return Subject(name, dense, randoms(*(shapes if bias else shapes[:2])), reference)


def hardsigmoid(z: Tensor) -> Tensor:
    """`F.hardsigmoid`, whose backward in PyTorch multiplies by a ⅙ of float32, also in float64."""
    return (z + 3).clamp(0, 6) / 6


def mlp_subject(name: str, sizes: Sequence[int], activations: Sequence[ActivationLike]) -> Subject:
    def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return functional.mlp(x, weights, biases, activations)

    def reference(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return plain(x, weights, biases, activations)

    return Subject(name, mlp, network_inputs(sizes), reference)


def plain(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activations: Sequence[ActivationLike]
) -> Tensor:
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        x = get(activation).f(F.linear(x, weight, bias))
    return x


def network_inputs(sizes: Sequence[int]) -> Callable[[int], Sequence[Any]]:
    def inputs(seed: int) -> Sequence[Any]:
        weights = [torch.randn(fan_out, fan_in) for fan_in, fan_out in pairwise(sizes)]
        return torch.randn(5, sizes[0]), weights, [torch.randn(fan_out) for fan_out in sizes[1:]]

    return inputs


def laplacian_subject(sizes: Sequence[int], activations: Sequence[ActivationLike]) -> Subject:
    def laplacian(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Any:
        return functional.laplacian(x, weights, biases, activations)

    def reference(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Any:
        units = torch.eye(sizes[0]).to(x).unsqueeze(1)
        along = lambda t: plain(x + t * units, weights, biases, activations)  # noqa: E731
        value, first, second = nested(along, x.new_zeros(len(units), len(x), 1), 2)
        return value[0], first, second.sum(0)

    return Subject("laplacian", laplacian, network_inputs(sizes), reference)


def jet_subject(sizes: Sequence[int], activations: Sequence[ActivationLike]) -> Subject:
    """Along (1, …, 1), up to the third derivative."""

    def jet(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Any:
        value, terms = functional.jet(x, [torch.ones_like(x)[None], None, None], weights, biases, activations)
        return value, *(term[0] for term in terms)

    def reference(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Any:
        return tuple(nested(lambda t: plain(x + t, weights, biases, activations), x.new_zeros(len(x), 1), 3))

    return Subject("jet", jet, network_inputs(sizes), reference)


def nested(curve: Callable[[Tensor], Tensor], t: Tensor, order: int) -> list[Tensor]:
    """u(t) for a single output and its derivatives, each the gradient of the last, in u's dtype. [*, 1]"""
    with torch.enable_grad():
        t.requires_grad_()
        found = [curve(t)]
        for _ in range(order):
            found += torch.autograd.grad(found[-1].sum(), t, create_graph=True)
        return [each.to(found[0].dtype) for each in found]


def half_squared_error_subject(reduction: Reduction) -> Subject:
    def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
        return functional.half_squared_error(output, target, reduction)

    def reference(output: Tensor, target: Tensor) -> Tensor:
        errors = F.mse_loss(output, target, reduction="none").sum(-1) / 2
        return errors if reduction == "none" else errors.mean() if reduction == "mean" else errors.sum()

    return Subject(f"half_squared_error, {reduction}", half_squared_error, randoms((5, 3), (5, 3)), reference)


def randoms(*shapes: Sequence[int]) -> Callable[[int], Sequence[Tensor]]:
    return lambda seed: tuple(torch.randn(tuple(shape)) for shape in shapes)


WIDTH = 30  # of the column with the names
MARKS = {"pass": "✓", "fail": "✗", "advice": "!", "unsupported": "–", "skipped": "·"}


def heading(checks: Sequence[str]) -> str:
    """The names of the checks, written vertically above their columns."""
    height = max(map(len, checks))
    rows = zip(*(name.rjust(height) for name in checks), strict=True)
    return "\n".join((" " * WIDTH + " ".join(row)).rstrip() for row in rows)


def line(report: Report) -> str:
    seconds = sum(row.seconds for row in report.rows)
    return f"{report.name:{WIDTH}}" + " ".join(MARKS[row.verdict] for row in report.rows) + f"{seconds:6.1f} s"


if __name__ == "__main__":
    sys.exit(main())
