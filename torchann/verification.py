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
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
import textwrap
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef
from torch.autograd import Function, forward_ad, gradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

Verdict: TypeAlias = Literal["pass", "fail", "unsupported", "skipped"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "unsupported", "skipped")
Inputs: TypeAlias = Sequence[Any] | Callable[[int], Sequence[Any]]


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


# --- What comes back -------------------------------------------------------------------------------------------------


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
        return [row for row in self.rows if row.verdict == "fail"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which knows neither NaN nor infinity: they become None."""
        rows = [{key: finite(value) for key, value in asdict(row).items()} for row in self.rows]
        return {"name": self.name, "ok": self.ok, "rows": rows}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_table(name: str, rows: Sequence[Row]) -> str:
    lines = [
        f"{name}: {count(rows)}",
        f"  {'check':22}{'verdict':13}{'error':>9}{'tolerance':>11}{'seconds':>9}",
    ]
    for row, above in zip(rows, (None, *rows), strict=False):
        verdict = row.verdict.upper() if row.verdict == "fail" else row.verdict
        error, tolerance = ("" if finite(value) is None else f"{value:.1e}" for value in (row.error, row.tolerance))
        lines.append(f"  {row.check:22}{verdict:13}{error:>9}{tolerance:>11}{row.seconds:>9.2f}")
        if row.verdict == "fail":
            lines.append(f"      {row.message}")
        elif row.message and (above is None or row.message != above.message):
            lines.append("      " + textwrap.shorten(row.message, 110, placeholder=" …"))
    return "\n".join(lines)


def count(rows: Sequence[Row]) -> str:
    numbers = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    return ", ".join(f"{number} {verdict}" for verdict, number in numbers.items() if number)


# --- The checks, in the order in which they run ----------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    name: str
    run: Callable[[Sample], Iterator[Finding]]
    once: bool = False  # one seed is enough
    transforms: bool = False  # hands fn to one of PyTorch's transforms: its errors are refusals
    advisory: bool = False  # an error above the tolerance fails only where the check is required
    repeats: bool = True  # compares two runs, which tells nothing of an fn that isn't deterministic

    @property
    def summary(self) -> str:
        """The first line of what it does and finds; `inspect.getdoc(check.run)` is all of it."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


@dataclass(frozen=True)
class Finding:
    error: float = math.nan
    tolerance: float = math.nan
    message: str = ""


class Mismatch(AssertionError):
    """The check failed."""

    def __init__(self, message: str, error: float = math.nan, tolerance: float = math.nan) -> None:
        super().__init__(message)
        self.finding = Finding(error, tolerance, message)


class Unsupported(Exception):
    """fn refuses, which is honest."""


class Skipped(Exception):
    """The check does not apply."""


CHECKS: dict[str, Check] = {}
Comparisons: TypeAlias = Iterator[Finding]  # what each comparison found, or an exception
CheckFunction = TypeVar("CheckFunction", bound=Callable[..., Comparisons])


def check(name: str, **options: bool) -> Callable[[CheckFunction], CheckFunction]:
    """Put a function in the table."""

    def register(run: CheckFunction) -> CheckFunction:
        CHECKS[name] = Check(name, run, **options)
        return run

    return register


@check("determinism", repeats=False)
def check_determinism(sample: Sample) -> Comparisons:
    """Run twice, backward twice, and with another forward in between: bit for bit the same.

    Finds random numbers, sums in no fixed order, a backward that writes over what it saved, and state kept outside ctx.
    """
    case, names = sample.double, sample.double.gradient_names
    first, second = forward(case.fn, case), forward(case.fn, case)
    gradients = first.backward(retain_graph=True)
    with suppress(Exception):  # where fn does not take these, nothing comes in between
        forward(case.fn, case.moved_to([0.9 * tensor for tensor in case.tensors]))
    yield agree(second.outputs, first.outputs, names_of(first.outputs), ("one run", "another"), 0)
    yield agree(second.backward(), gradients, names, ("one run", "another, with a forward in between"), 0)
    yield agree(first.backward(), gradients, names, ("by the second backward over one graph", "by the first"), 0)


@check("inputs-untouched", repeats=False)
def check_inputs_untouched(sample: Sample) -> Comparisons:
    """Neither pass writes over inputs or parameters, nor backward over outputs.

    Finds in-place arithmetic on a tensor that is the caller's, or saved: the input changed and then saved, for one.
    """
    case = sample.double
    run = forward(case.fn, case)
    tensors = [(name, a, b) for name, a, b in zip(case.names, run.given, case.arguments, strict=True) if is_tensor(a)]
    names, given, before = zip(*tensors, strict=True)
    yield agree(given, before, names, ("after forward", "before"), 0)
    outputs = [output.detach().clone() for output in run.outputs]
    run.backward()
    words = "after backward", "before"
    yield agree(given, before, names, words, 0)
    yield agree(run.outputs, outputs, names_of(outputs), words, 0)


@check("gradient-untouched", repeats=False)
def check_gradient_untouched(sample: Sample) -> Comparisons:
    """Backward does not write over the incoming gradient, which belongs to whoever else receives it."""
    run = forward(sample.double.fn, sample.double)
    given = random_like(run.differentiable)
    before = [gradient.clone() for gradient in given]
    run.backward(given)
    yield agree(given, before, names_of(given, "incoming gradient"), ("after backward", "before"), 0)


@check("reverse")
def check_reverse(sample: Sample) -> Comparisons:
    """Backward against central differences (`gradcheck`).

    Finds a wrong formula: a gradient transposed, a sum left out, gradients in the wrong order.
    """
    yield check_derivative(sample, 1)


@check("forward")
def check_forward(sample: Sample) -> Comparisons:
    """Forward mode against central differences (`gradcheck`). Finds a missing or wrong jvp."""
    yield check_derivative(sample, 1, forward_mode=True)


@check("double-backward")
def check_double_backward(sample: Sample) -> Comparisons:
    """Backward through backward against central differences of it.

    Finds a wrong second derivative, and a backward that autograd can't see through and that doesn't say so, where
    `once_differentiable` was forgotten.
    """
    yield check_derivative(sample, 2)


@check("forward-over-reverse")
def check_forward_over_reverse(sample: Sample) -> Comparisons:
    """Forward mode through backward, as in Hessian-vector products. Finds tangents lost or wrong in backward."""
    yield check_derivative(sample, 2, forward_mode=True)


@check("third-order", once=True)
def check_third_order(sample: Sample) -> Comparisons:
    """The third derivative is right or refused. Finds a double backward that stops short in silence."""
    yield check_derivative(sample, 3)


@check("batched", transforms=True)
def check_batched(sample: Sample) -> Comparisons:
    """Several incoming gradients at once (`is_grads_batched`, as in jacobians) against one by one.

    Finds a backward that reads values (`.item()`, `if`) or counts dimensions.
    """
    case = sample.own
    run = forward(case.fn, case)
    gradients = [random_like(run.differentiable, seed) for seed in (1, 2)]
    batch = stacked(gradients)
    expected = stacked([run.backward(each, retain_graph=True) for each in gradients])
    got = run.backward(batch, is_grads_batched=True)
    yield agree(got, expected, case.gradient_names, ("batched", "one by one"))


@check("undefined-gradient")
def check_undefined_gradient(sample: Sample) -> Comparisons:
    """Outputs that nobody uses: their incoming gradient is undefined, and means zero.

    Finds a backward that fails on None, or leaves out too much because of one.
    """
    case = sample.double
    try:  # with an infinite tolerance, all that is left of gradcheck is its check of undefined gradients
        function = Derivative.of(case).call
        gradcheck(function, leaves(case.tensors), atol=math.inf, nondet_tol=math.inf, fast_mode=True)
    except GradcheckError as error:
        if "undefined" in str(error):
            raise Mismatch(first_line(error)) from error
    run = forward(case.fn, case)
    for index, gradient in enumerate(random_like(run.differentiable)):
        zeros = [torch.zeros_like(output) for output in run.differentiable]
        expected = run.backward([*zeros[:index], gradient, *zeros[index + 1 :]], retain_graph=True)
        got = run.backward([gradient], outputs=[run.differentiable[index]], retain_graph=True)
        yield agree(got, expected, case.gradient_names, (f"from output {index} alone", "with zeros for the others"))


@check("expanded-gradient")
def check_expanded_gradient(sample: Sample) -> Comparisons:
    """An incoming gradient that is one number expanded, as `sum()` gives it, or lies strided or transposed in memory.

    Finds a kernel that takes the incoming gradient for contiguous, and one that writes over it.
    """
    case = sample.double
    run = forward(case.fn, case)
    for name, layout in {"expanded": expanded, **LAYOUTS}.items():
        laid_out = [layout(gradient) for gradient in random_like(run.differentiable)]
        expected = run.backward([gradient.contiguous().clone() for gradient in laid_out], retain_graph=True)
        got = run.backward(laid_out, retain_graph=True)
        yield agree(got, expected, case.gradient_names, (f"from an incoming gradient {name}", "contiguous"))


@check("non-contiguous")
def check_non_contiguous(sample: Sample) -> Comparisons:
    """Inputs that lie strided or transposed in memory. Finds a kernel that reads memory as if they did not."""
    case = sample.double
    for name, layout in LAYOUTS.items():
        got, expected = forward(case.fn, case, layout), forward(case.fn, case)
        yield from agree_in_all(got, expected, case, (f"for inputs {name}", "contiguous"))


@check("empty-batch")
def check_empty_batch(sample: Sample) -> Comparisons:
    """The first dimension of the input has size 0: shapes are kept and gradients are those of nothing.

    Finds a division by the batch size, and memory that no sample fills.
    """
    for case in empty_cases(sample.double):
        run = forward(case.fn, case)
        if all(output.numel() == 0 for output in run.outputs):
            gradients = run.backward(retain_graph=True)
            zeros = [torch.zeros_like(gradient) for gradient in gradients]
            yield agree(gradients, zeros, case.gradient_names, ("for an empty batch", "expected"))
        elif all(output.isfinite().all() for output in run.outputs):  # unlike a mean over nothing
            yield Derivative.of(case).compare(forward_mode=False)
        if case.reference is not None:
            yield from agree_in_all(run, forward(case.reference, case), case, ("for an empty batch", "reference"))


@check("dtype")
def check_dtype(sample: Sample) -> Comparisons:
    """float64 is computed in float64, and float32 gives float32 and the same gradients.

    The precision shows in the noise: over steps of one float32 ulp, a float64 result runs straight. Finds a float32
    step inside a float64 computation, in either pass, and a constant that promotes.
    """
    double = sample.double
    yield from roundoff(double)
    single = double.to(torch.float32)
    try:
        run = forward(single.fn, single)
        gradients = run.backward()
    except RuntimeError as error:
        raise Unsupported(f"in float32: {first_line(error)}") from error
    check_dtypes(run.outputs, torch.float32)
    words = ("in float32", "in float64")  # whose tolerance is another: it is held to, but not reported
    agree(gradients, forward(double.fn, double).backward(), double.gradient_names, words, precision(torch.float32))


@check("reference-value")
def check_reference_value(sample: Sample) -> Comparisons:
    """The outputs are those of the reference, as given and in float64."""
    for case in sample.precisions:
        got, expected = forward(case.fn, case).outputs, forward(needed_reference(case), case).outputs
        yield agree(got, expected, names_of(got), ("got", "reference"))
        same_dtypes(got, expected)


@check("reference-gradient")
def check_reference_gradient(sample: Sample) -> Comparisons:
    """The gradients are those of the reference, as given and in float64."""
    for case in sample.precisions:
        got, expected = forward(case.fn, case), forward(needed_reference(case), case)
        check_count(got.differentiable, expected.differentiable)
        yield agree(got.backward(), expected.backward(), case.gradient_names, ("got", "reference"))


@check("vmap", transforms=True)
def check_vmap(sample: Sample) -> Comparisons:
    """`vmap(fn)` and per-sample gradients, `vmap(grad(fn))`, against a loop: all inputs batched, and each alone.

    Finds a missing vmap rule, and one that mixes up dimensions.
    """
    case, words = sample.own, ("by vmap", "by a loop")
    for batched in batchings(len(case.wrt)):
        first = case.tensors
        second = [0.9 * tensor if b else tensor for tensor, b in zip(first, batched, strict=True)]
        runs = [forward(case.fn, case.moved_to(tensors)) for tensors in (first, second)]
        at = [torch.stack(pair) if b else pair[0] for *pair, b in zip(first, second, batched, strict=True)]
        in_dims = tuple(0 if b else None for b in batched)
        outputs = stacked([run.outputs for run in runs])
        yield agree(torch.func.vmap(case.function, in_dims)(*at), outputs, names_of(outputs), words)
        gradients = stacked([run.backward() for run in runs])
        gradient = functional_gradient(case, runs[0])
        yield agree(torch.func.vmap(gradient, in_dims)(*at), gradients, case.gradient_names, words)


@check("autocast")
def check_autocast(sample: Sample) -> Comparisons:
    """Under bfloat16 autocast: the reference's output dtypes, and gradients near those in float32.

    Finds a backward that meets two dtypes, since it runs outside the autocast region.
    """
    case = sample.double.to(torch.float32)
    with torch.autocast(case.device.type, torch.bfloat16):
        run = forward(case.fn, case)
        if case.reference is not None:
            same_dtypes(run.outputs, forward(case.reference, case).outputs)
    words = ("under autocast", "in float32")
    tolerance = precision(torch.bfloat16) + sensitivity(case, torch.finfo(torch.bfloat16).eps)
    yield from agree_in_all(run, forward(case.fn, case), case, words, tolerance)


@check("compile", once=True, transforms=True)
def check_compile(sample: Sample) -> Comparisons:
    """`torch.compile(fn, fullgraph=True)`, by Dynamo and AOTAutograd, against eager: values and gradients."""
    case = sample.own
    torch._dynamo.reset()  # it counts how often a piece of code, the lambda here, is compiled
    compiled = torch.compile(lambda *flat: case.fn(*flat), fullgraph=True, backend="aot_eager", dynamic=False)
    yield from agree_in_all(forward(compiled, case), forward(case.fn, case), case, ("compiled", "eager"))


@check("opcheck", once=True, repeats=False)
def check_opcheck(sample: Sample) -> Comparisons:
    """`torch.library.opcheck` of a registered operator: its schema, its fake kernel and its autograd registration."""
    case = sample.own
    op: Any = case.fn.fn
    if not isinstance(op, OPERATORS):
        raise Skipped("not a registered operator")
    from torch.testing._internal.optests import OpCheckError  # heavy, and loaded by opcheck itself

    try:
        torch.library.opcheck(op, case.fn.unflatten(case.at(leaves(case.tensors))))
    except OpCheckError as error:
        raise Mismatch(first_line(error)) from error
    yield Finding()


@check("saved-bytes", once=True, advisory=True, repeats=False)
def check_saved_bytes(sample: Sample) -> Comparisons:
    """Bytes kept for backward beside the inputs and parameters, against the reference.

    A pass in any case, unless required: then a failure where fn keeps more. Tensors that hide in attributes of ctx
    are not seen.
    """
    case = sample.own
    ours = saved_bytes(case.fn, case)
    if case.reference is None:
        yield Finding(ours, message=f"{ours} bytes")
    else:
        of_reference = saved_bytes(case.reference, case)
        yield Finding(ours, of_reference, f"{ours} bytes, reference {of_reference}")


# --- Running a check -------------------------------------------------------------------------------------------------

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


def merged(findings: Iterable[Finding]) -> Finding:
    """The finding of the largest error, and the first message."""
    findings = list(findings) or [Finding()]
    worst = max(findings, key=lambda finding: -1 if math.isnan(finding.error) else finding.error)
    return replace(worst, message=next((finding.message for finding in findings if finding.message), ""))


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


@contextmanager
def quiet(in_a_transform: bool = False) -> Iterator[None]:
    """Without the warnings that the checks themselves bring about: all of them, where PyTorch transforms fn."""
    with warnings.catch_warnings():
        if in_a_transform:
            warnings.simplefilter("ignore")
        for message in (
            "Backwards compatibility: New undefined gradient support",  # gradcheck, before it raises
            "`torch.jit.script` is deprecated",  # forward mode loads decompositions that are written with it
        ):
            warnings.filterwarnings("ignore", message)
        yield


def first_line(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, (AssertionError, Unsupported)) else f"{type(error).__name__}: {text}"


# --- What is checked: a function of flat arguments, at one set of them -----------------------------------------------


@dataclass(frozen=True)
class Target:
    """A callable or a module as a function of its flat arguments, the parameters last, that returns a flat tuple."""

    fn: Callable[..., Any]
    spec: pytree.TreeSpec  # how the flat arguments make up the inputs

    def __call__(self, *flat: Any) -> tuple[Tensor, ...]:
        inputs, parameters = self.unflatten(flat), flat[self.spec.num_leaves :]
        if isinstance(self.fn, nn.Module):
            named = dict(zip(trained(self.fn), parameters, strict=True))
            output = functional_call(self.fn, named, inputs)
        else:
            output = self.fn(*inputs, *parameters)
        return tuple(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))

    def unflatten(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        return pytree.tree_unflatten(flat[: self.spec.num_leaves], self.spec)

    def to(self, dtype: torch.dtype) -> Target:
        return replace(self, fn=copy.deepcopy(self.fn).to(dtype)) if isinstance(self.fn, nn.Module) else self


@dataclass(frozen=True)
class Case:
    """fn and its reference at one set of arguments."""

    fn: Target
    reference: Target | None
    arguments: tuple[Any, ...]  # flat
    names: tuple[str, ...]  # of the arguments
    wrt: tuple[int, ...]  # the arguments that are differentiated

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.arguments[index] for index in self.wrt)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self.names[index] for index in self.wrt)

    @property
    def gradient_names(self) -> list[str]:
        return [f"gradient of {name}" for name in self.tensor_names]

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    def at(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments, with these tensors in place of those that are differentiated."""
        replaced = dict(zip(self.wrt, tensors, strict=True))
        return tuple(replaced.get(index, argument) for index, argument in enumerate(self.arguments))

    def moved_to(self, tensors: Sequence[Tensor]) -> Case:
        return replace(self, arguments=self.at(tensors))

    def function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """fn as a function of what is differentiated. It is given copies, in case it writes over them."""
        return self.fn(*self.at([tensor.clone() for tensor in tensors]))

    def to(self, dtype: torch.dtype) -> Case:
        """All in another dtype, modules included."""
        arguments = tuple(a.to(dtype) if is_floating(a) else a for a in self.arguments)
        reference = None if self.reference is None else self.reference.to(dtype)
        return replace(self, fn=self.fn.to(dtype), reference=reference, arguments=arguments)


@dataclass
class Sample:
    """A case in the dtypes given and in float64, away from kinks."""

    own: Case
    double: Case
    seed: int | None = None
    note: str = ""  # on kinks
    derivatives: dict[int, Derivative] = field(default_factory=dict)

    @property
    def precisions(self) -> list[Case]:
        in_double = all(tensor.dtype == torch.float64 for tensor in self.own.tensors)
        return [self.double] if in_double else [self.own, self.double]

    def derivative(self, order: int) -> Derivative:
        """The function whose first derivative is fn's derivative of this order."""
        if order not in self.derivatives:
            self.derivatives[order] = self.derivative(order - 1).gradient() if order > 1 else Derivative.of(self.double)
        return self.derivatives[order]

    @cached_property
    def trouble(self) -> str:
        """Why fn can't be run forward and backward at all."""
        try:
            with quiet():
                forward(self.double.fn, self.double).backward()
        except Exception as error:
            return f"in float64, in which gradients are checked: {first_line(error)}"
        return ""

    @cached_property
    def is_deterministic(self) -> bool:
        first, second = (forward(self.double.fn, self.double) for _ in range(2))
        try:
            list(agree_in_all(second, first, self.double, ("", ""), tolerance=0))
        except Mismatch:
            return False
        return True


def make_samples(
    fn: Callable[..., Any], inputs: Inputs, reference: Callable[..., Any] | None, seeds: Sequence[int]
) -> Iterator[Sample]:
    if not callable(inputs):
        yield make_sample(make_case(fn, inputs, reference), None)
        return
    if not seeds:
        raise ValueError("seeds: expected at least one, got none")
    for seed in seeds:
        torch.manual_seed(seed)  # for inputs that forget to
        yield make_sample(make_case(fn, inputs(seed), reference), seed)


def make_case(fn: Callable[..., Any], inputs: Any, reference: Callable[..., Any] | None) -> Case:
    """Tensors are copied, and so is a module: whatever fn does to them stays here."""
    if isinstance(inputs, (Tensor, str)) or not isinstance(inputs, Sequence):
        raise TypeError(f"inputs: expected a tuple of arguments, got {type(inputs).__name__}")
    check_parameters(fn, reference)
    flat, spec = pytree.tree_flatten(tuple(inputs))
    if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in flat):
        raise ValueError("inputs: complex tensors are not supported")
    floating = [index for index, leaf in enumerate(flat) if is_floating(leaf)]
    wrt = [index for index in floating if flat[index].requires_grad] or floating
    names = input_names(fn, inputs)
    if isinstance(fn, nn.Module):
        fn = copy.deepcopy(fn)
        parameters = trained(fn)
        wrt += range(len(flat), len(flat) + len(parameters))
        flat += parameters.values()
        names += [f"parameter {name}" for name in parameters]
    if not wrt:
        raise ValueError("inputs: expected a tensor of floating point to differentiate by, got none")
    arguments = tuple(leaf.detach().contiguous().clone() if isinstance(leaf, Tensor) else leaf for leaf in flat)
    of_reference = None if reference is None else Target(reference, spec)
    return Case(Target(fn, spec), of_reference, arguments, tuple(names), tuple(wrt))


def make_sample(own: Case, seed: int | None) -> Sample:
    with quiet():
        double, note = away_from_kinks(own.to(torch.float64))
    moved = tuple(a.to(b) if is_floating(b) else b for a, b in zip(double.arguments, own.arguments, strict=True))
    return Sample(replace(own, arguments=moved), double, seed, note)


def input_names(fn: Callable[..., Any], inputs: Sequence[Any]) -> list[str]:
    """`input 1 (weight)`; `input 1 (weights)[0]` where it holds several tensors."""
    names, called = [], parameter_names(fn)
    for index, argument in enumerate(inputs):
        name = f"input {index}" + (f" ({called[index]})" if index < len(called) else "")
        count = len(pytree.tree_leaves(argument))
        names += [name] if count == 1 else [f"{name}[{leaf}]" for leaf in range(count)]
    return names


def parameter_names(fn: Callable[..., Any]) -> list[str]:
    """Of those that arguments can be given to by position, as far as they have names of their own."""
    function: Any = getattr(fn, "__self__", None)  # where fn is Function.apply
    is_function = isinstance(function, type) and issubclass(function, Function)
    try:
        signature = inspect.signature(function.forward if is_function else getattr(fn, "forward", fn))
    except (TypeError, ValueError):  # a builtin has none
        return []
    takes_ctx = is_function and function.setup_context is Function.setup_context
    parameters = list(signature.parameters.values())[takes_ctx:]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in by_position]


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def as_callable(role: str, fn: Any) -> Callable[..., Any]:
    if isinstance(fn, type) and issubclass(fn, Function):
        return fn.apply
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{role}: expected a callable, a module or an autograd.Function, got {fn!r}")
    return fn


def check_names(names: Collection[str]) -> None:
    if isinstance(names, str):
        raise TypeError(f"expected a collection of names of checks, got the str {names!r}")
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"unknown check {name!r}; known: {', '.join(CHECKS)}")


def check_parameters(fn: Callable[..., Any], reference: Callable[..., Any] | None) -> None:
    if isinstance(reference, nn.Module):
        shapes, expected = (
            [list(parameter.shape) for parameter in trained(module).values()] if isinstance(module, nn.Module) else []
            for module in (reference, fn)
        )
        if shapes != expected:
            raise ValueError(f"reference: expected parameters of the shapes of fn's, {expected}, got {shapes}")


def name_of(fn: Callable[..., Any]) -> str:
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type):  # Function.apply
        return owner.__name__
    return getattr(fn, "__name__", type(fn).__name__)


OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, CustomOpDef)


def is_tensor(argument: Any) -> bool:
    return isinstance(argument, Tensor)


def is_floating(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point()


def needed_reference(case: Case) -> Target:
    if case.reference is None:
        raise Skipped("no reference")
    return case.reference


# --- Runs: forward, then backward, in plain autograd -----------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    leaves: tuple[Tensor, ...]
    given: tuple[Any, ...]  # the very arguments that fn was called with
    outputs: tuple[Tensor, ...]

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        outputs = tuple(output for output in self.outputs if output.requires_grad)
        if not outputs:
            raise Mismatch("no output requires grad: fn is cut from the graph")
        return outputs

    def backward(
        self, incoming: Sequence[Tensor] | None = None, outputs: Sequence[Tensor] | None = None, **options: bool
    ) -> list[Tensor]:
        """The gradient of each leaf. Unless given, the incoming gradients are random, and always the same."""
        outputs = self.differentiable if outputs is None else outputs
        incoming = random_like(outputs) if incoming is None else incoming
        gradients = torch.autograd.grad(outputs, self.leaves, incoming, allow_unused=True, **options)
        batch = incoming[0].shape[:1] if options.get("is_grads_batched") else ()
        return [
            leaf.new_zeros((*batch, *leaf.shape)) if gradient is None else gradient
            for leaf, gradient in zip(self.leaves, gradients, strict=True)
        ]


def forward(fn: Callable[..., Any], case: Case, layout: Callable[[Tensor], Tensor] = torch.clone) -> Run:
    """fn, or another function of the same arguments, at copies of them, laid out in memory as asked."""
    at = leaves(case.tensors)
    given = tuple(layout(argument) if isinstance(argument, Tensor) else argument for argument in case.at(at))
    return Run(at, given, fn(*given))


def leaves(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def random_like(tensors: Iterable[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) for tensor in tensors)


def stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*rows, strict=True)]


def strided(tensor: Tensor) -> Tensor:
    gaps = torch.full_like(tensor, math.nan) if tensor.is_floating_point() else torch.zeros_like(tensor)
    return torch.stack((tensor, gaps), -1)[..., 0]


def transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.clone()


def expanded(tensor: Tensor) -> Tensor:
    return tensor.new_full((), 0.7).expand(tensor.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"strided": strided, "transposed": transposed}


def batchings(count: int) -> list[list[bool]]:
    """Which of the inputs are batched: all, and each alone."""
    alone = [[index == each for index in range(count)] for each in range(count)]
    return [[True] * count, *alone] if count > 1 else alone


def functional_gradient(case: Case, run: Run) -> Callable[..., tuple[Tensor, ...]]:
    """What `run.backward()` computes, as `torch.func` has it."""
    incoming = random_like(run.differentiable)
    kept = [output.requires_grad for output in run.outputs]

    def weighted(*tensors: Tensor) -> Any:
        outputs = [output for output, keep in zip(case.function(*tensors), kept, strict=True) if keep]
        return sum((output * weight).sum() for output, weight in zip(outputs, incoming, strict=True))

    return torch.func.grad(weighted, tuple(range(len(case.wrt))))


def empty_cases(case: Case) -> list[Case]:
    """Empty batches that fn takes: all inputs that are as long as the first are cut, or the first alone."""
    inputs = case.arguments[: case.fn.spec.num_leaves]
    long = [index for index, argument in enumerate(inputs) if is_tensor(argument) and argument.dim() > 0]
    if not long:
        raise Skipped("no input has a dimension")
    size = inputs[long[0]].shape[0]
    cuts = [[index for index in long if inputs[index].shape[0] == size], long[:1]]
    if cuts[0] == cuts[1]:
        del cuts[0]
    cases = [
        replace(case, arguments=tuple(a[:0] if index in cut else a for index, a in enumerate(case.arguments)))
        for cut in cuts
    ]
    refusal = tried(case.fn, cases[0])
    taken = [empty for empty in cases if tried(case.fn, empty) is None]
    if not taken and refusal is not None:
        if case.reference is not None and tried(case.reference, cases[0]) is None:
            raise Mismatch(f"{first_line(refusal)} (the reference takes an empty batch)")
        raise Unsupported(first_line(refusal))
    return taken


def tried(fn: Callable[..., Any], case: Case) -> Exception | None:
    """What fn raises there. It was not asked for, so that its warnings are its own business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            forward(fn, case)
        except Exception as error:
            return error
    return None


def saved_bytes(fn: Callable[..., Any], case: Case) -> int:
    arguments = case.at([leaf.clone() for leaf in leaves(case.tensors)])
    held = {argument.untyped_storage().data_ptr() for argument in arguments if isinstance(argument, Tensor)}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fn(*arguments)
    return sum(storage.nbytes() for storage in saved.values())


def sensitivity(case: Case, size: float) -> float:
    """How much of an error inputs make that are off by this size, relative to them: large beside a kink."""
    run = forward(case.fn, case)
    expected, worst = [*run.outputs, *run.backward()], 0.0
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)
        run = forward(
            case.fn, case.moved_to([x + size * (1 + x.abs()) * random_sign(x, generator) for x in case.tensors])
        )
        for a, b in zip([*run.outputs, *run.backward()], expected, strict=True):
            worst = max(worst, largest(error_in_all(a.detach().double(), b.detach().double())))
    return worst


def roundoff(case: Case) -> Comparisons:
    """The noise of outputs and gradients in float64: how far three points on a tiny straight line are off a line.

    Of a smooth function that is its curvature, which is 64 times as much over steps 8 times as long. A float32 inside
    makes it a staircase, which is as rough over any.
    """
    step = torch.finfo(torch.float32).eps
    for seed in (1, 2):
        names, near = bends(case, step, seed)
        _, far = bends(case, 8 * step, seed)
        for name, here, there in zip(names, near, far, strict=True):
            yield straight(name, here, largest(there))


def bends(case: Case, step: float, seed: int) -> tuple[list[str], list[Tensor]]:
    """Second differences of outputs and gradients in a random direction, over the largest entry of each."""
    line = []
    for side in (-step, 0, step):
        directions = zip(case.tensors, random_like(case.tensors, seed), strict=True)
        run = forward(case.fn, case.moved_to([x + side * x.abs().clamp(min=1) * d for x, d in directions]))
        check_dtypes(run.outputs, torch.float64)
        line.append([tensor.detach().double() for tensor in (*run.outputs, *run.backward())])
    bent = [(before - 2 * here + after).abs() / (largest(here) or 1) for before, here, after in zip(*line, strict=True)]
    return [*names_of(run.outputs), *case.gradient_names], bent


def straight(name: str, bend: Tensor, bend_of_longer_steps: float) -> Finding:
    noise, tolerance = largest(bend), ordering(torch.float64)
    if noise > tolerance and noise > bend_of_longer_steps / 8:
        at = place(bend.argmax(), bend.shape)
        raise Mismatch(f"{name}{at}: noise of {noise:.1g} in float64: a lower precision inside", noise, tolerance)
    return Finding(min(noise, tolerance), tolerance)


# --- Comparing two ways of computing the same ------------------------------------------------------------------------


def ordering(dtype: torch.dtype) -> float:
    """What another order of operations may change: ε^⅔."""
    return torch.finfo(dtype).eps ** (2 / 3)


def precision(dtype: torch.dtype) -> float:
    """How far a dtype may be off from a higher precision: ε^½."""
    return torch.finfo(dtype).eps ** (1 / 2)


def agree_in_all(
    got: Run, expected: Run, case: Case, words: tuple[str, str], tolerance: float | None = None
) -> Comparisons:
    """Hold a run's outputs and gradients against another's."""
    yield agree(got.outputs, expected.outputs, names_of(got.outputs), words, tolerance)
    check_count(got.differentiable, expected.differentiable)
    yield agree(got.backward(), expected.backward(), case.gradient_names, words, tolerance)


def agree(
    got: Sequence[Tensor],
    expected: Sequence[Tensor],
    names: Sequence[str],
    words: tuple[str, str],
    tolerance: float | None = None,
) -> Finding:
    """Hold tensors against others by `assert_close`; without a tolerance, by that of their dtype.

    Raises:
        Mismatch: names the tensor, the entry and both values.
    """
    check_count(got, expected)
    found = []
    for name, a, b in zip(names, got, expected, strict=True):
        if a.shape != b.shape:
            raise Mismatch(f"{name}: shape {list(a.shape)} {words[0]}, {list(b.shape)} {words[1]}")
        allowed = coarser(a.dtype, b.dtype) if tolerance is None else tolerance
        a, b = a.detach().double(), b.detach().double()
        errors = error_in_all(a, b)
        error = largest(errors)
        try:
            torch.testing.assert_close(a, b, rtol=0, atol=allowed * (1 + largest(b)), equal_nan=True)
        except AssertionError:
            at = errors.argmax()
            values = both(words, a.flatten()[at].item(), b.flatten()[at].item())
            raise Mismatch(f"{name}{place(at, errors.shape)}: {values}", error, allowed) from None
        found.append(Finding(error, allowed))
    return merged(found)


def error_in_all(a: Tensor, b: Tensor) -> Tensor:
    """|a − b| beside the largest entry of b; NaN agrees with NaN."""
    errors = (a - b).abs() / (1 + largest(b))
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0, errors).nan_to_num(nan=math.inf)


def coarser(*dtypes: torch.dtype) -> float:
    return max((ordering(dtype) for dtype in dtypes if dtype.is_floating_point), default=0.0)


def check_count(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    if len(outputs) != len(expected):
        raise Mismatch(f"{len(outputs)} outputs, expected {len(expected)}")


def check_dtypes(outputs: Sequence[Tensor], dtype: torch.dtype) -> None:
    for name, output in zip(names_of(outputs), outputs, strict=True):
        if output.is_floating_point() and output.dtype != dtype:
            raise Mismatch(f"{name}: {output.dtype} from inputs of {dtype}")


def same_dtypes(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for name, output, of_reference in zip(names_of(outputs), outputs, expected, strict=True):
        if output.dtype != of_reference.dtype:
            raise Mismatch(f"{name}: got {output.dtype}, reference {of_reference.dtype}")


def names_of(tensors: Sequence[Tensor], what: str = "output") -> list[str]:
    return [f"{what} {index}" for index in range(len(tensors))]


def place(flat: Tensor, shape: Sequence[int]) -> str:
    """An entry by its index in the flattened tensor."""
    return f", entry {[int(index) for index in torch.unravel_index(flat, tuple(shape))]}" if len(shape) else ""


def both(words: tuple[str, str], a: float, b: float) -> str:
    """Two values, with as many digits as it takes to tell them apart."""
    digits = ".6g" if f"{a:.6g}" != f"{b:.6g}" else ".17g"
    return f"{words[0]} {a:{digits}}, {words[1]} {b:{digits}}"


def largest(tensor: Tensor) -> float:
    """The largest magnitude, of what is not NaN."""
    sizes = tensor.detach().abs()
    return max(sizes[~sizes.isnan()].flatten().tolist(), default=0.0)


# --- Derivatives against central differences -------------------------------------------------------------------------

# The step of a central difference for which truncation, step², and roundoff, ε / step, are alike: some 4e-11 at the
# scale of the function. The tolerance leaves room for functions of a far larger third derivative.
STEP = TOLERANCE = torch.finfo(torch.float64).eps ** (1 / 3)


def check_derivative(sample: Sample, order: int, forward_mode: bool = False) -> Finding:
    """The derivative of this order against central differences of the one below."""
    check_dtypes(sample.derivative(1).outputs(), torch.float64)
    if forward_mode:
        sample.derivative(1).hear_tangents()
    derivative = sample.derivative(order)
    if order > 1:
        derivative.hear_refusal()
    try:
        return replace(derivative.compare(forward_mode), message=sample.note)
    except Mismatch as mismatch:
        message = (
            ("silently wrong: " if order > 1 else "") + str(mismatch) + (f" ({sample.note})" if sample.note else "")
        )
        raise Mismatch(message, mismatch.finding.error, mismatch.finding.tolerance) from None


@dataclass(frozen=True)
class Derivative:
    """A function of tensors, each of whose outputs is connected to them, to be differentiated at one place."""

    call: Callable[..., tuple[Tensor, ...]]
    at: tuple[Tensor, ...]
    names: tuple[str, ...]  # of its arguments
    output_names: tuple[str, ...]

    def outputs(self) -> tuple[Tensor, ...]:
        return self.call(*leaves(self.at))

    @classmethod
    def of(cls, case: Case) -> Derivative:
        """fn itself: its outputs that require grad, the others being constants by its own word."""
        kept = [output.requires_grad for output in case.function(*leaves(case.tensors))]

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(output for output, keep in zip(case.function(*tensors), kept, strict=True) if keep)

        names = tuple(f"output {index}" for index, keep in enumerate(kept) if keep)
        return cls(call, case.tensors, case.tensor_names, names)

    def gradient(self) -> Derivative:
        """Its gradients, as a function of its arguments and of the incoming gradients.

        This is what `gradgradcheck` differentiates, but for one thing: that leaves out gradients that don't require
        grad, and so a backward that is cut from the graph for some of its inputs. Here they stay.
        """
        count = len(self.at)

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            for tensor in tensors:
                if not tensor.requires_grad:  # a dual number, in forward mode
                    tensor.requires_grad_()
            given, incoming = tensors[:count], [tensor.clone() for tensor in tensors[count:]]
            found = torch.autograd.grad(self.call(*given), given, incoming, create_graph=True, allow_unused=True)
            nothing = sum(tensor.flatten()[:0].sum() for tensor in tensors)  # zero, as a function of them all
            gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(given, found, strict=True)]
            return tuple(gradient if gradient.requires_grad else gradient + nothing for gradient in gradients)

        return Derivative(
            call,
            (*self.at, *random_like(self.outputs())),
            (*self.names, *(f"the incoming gradient of {name}" for name in self.output_names)),
            tuple(f"the gradient of {name}" for name in self.names),
        )

    def hear_refusal(self) -> None:
        """Let what can't be differentiated further say so.

        `once_differentiable` raises in a node that only `backward()` runs: `grad(inputs=…)`, and so gradcheck, finds
        no way through it to the inputs and takes the derivative for zero.
        """
        outputs = self.outputs()
        torch.autograd.backward(outputs, random_like(outputs))

    def hear_tangents(self) -> None:
        """Forward mode that stops at an operator of `torch.library` does so in silence, at the primal values."""
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x.clone(), torch.ones_like(x)) for x in self.at]
            tangents = [forward_ad.unpack_dual(output).tangent for output in self.call(*duals)]
        if all(tangent is None for tangent in tangents):
            raise Unsupported("no tangent comes out, nor an error from PyTorch")

    def compare(self, forward_mode: bool) -> Finding:
        """gradcheck, and the largest error.

        Raises:
            Mismatch: names the argument, the output, their entries and both values.
        """
        overheard = Overheard()
        try:
            with overheard:
                gradcheck(
                    self.call,
                    leaves(self.at),
                    eps=STEP,
                    atol=TOLERANCE,
                    rtol=TOLERANCE,
                    nondet_tol=TOLERANCE,
                    check_undefined_grad=False,
                    check_forward_ad=forward_mode,
                    check_backward_ad=not forward_mode,
                )
        except GradcheckError as failure:
            if overheard.jacobians and str(failure).startswith("Jacobian"):
                raise self.mismatch(overheard.jacobians) from None
            raise Mismatch(first_line(failure)) from None
        return Finding(max((largest(error_of(*pair)) for pair in overheard.jacobians), default=math.nan), TOLERANCE)

    def mismatch(self, jacobians: Sequence[tuple[Tensor, Tensor]]) -> Mismatch:
        """What was wrong in the last pair; Jacobians are [entries of the argument, entries of the output]."""
        output, argument = divmod(len(jacobians) - 1, len(self.at))  # gradcheck's order
        analytical, numerical = jacobians[-1]
        errors = error_of(analytical, numerical)
        row, column = torch.unravel_index(errors.argmax(), errors.shape)
        shape = self.outputs()[output].shape
        return Mismatch(
            f"{self.names[argument]}{place(row, self.at[argument].shape)}, "
            f"to {self.output_names[output]}{place(column, shape)}: "
            + both(("analytical", "numerical"), analytical[row, column].item(), numerical[row, column].item()),
            errors.max().item(),
            TOLERANCE,
        )


class Overheard(TorchFunctionMode):
    """The Jacobians that gradcheck compares, analytical and numerical, which it reports in prose alone."""

    def __init__(self) -> None:
        super().__init__()
        self.jacobians: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.allclose:
            self.jacobians.append(args[:2])
        return func(*args, **(kwargs or {}))


def error_of(analytical: Tensor, numerical: Tensor) -> Tensor:
    return ((analytical - numerical).abs() / (1 + numerical.abs())).nan_to_num(nan=math.inf)


# --- Kinks -----------------------------------------------------------------------------------------------------------


def away_from_kinks(double: Case, tries: int = 5) -> tuple[Case, str]:
    """The case, moved a little at random where a derivative of fn jumps within reach of the central differences."""
    if not has_kink(double):
        return double, ""
    generator = torch.Generator().manual_seed(0)
    for _ in range(tries):
        moved = double.moved_to([x + nudge(x, generator) for x in double.tensors])
        with suppress(Exception):  # out of fn's domain
            outputs = moved.function(*moved.tensors)
            if all(output.isfinite().all() for output in outputs) and not has_kink(moved):
                return moved, "the inputs were moved away from a kink"
    return double, "the inputs lie near a kink, where no derivative is right"


def has_kink(case: Case, orders: int = 3) -> bool:
    """Whether a derivative up to this order jumps nearby, as far as fn has them."""
    with suppress(Exception):  # what fn does not have is for the checks to report
        derivative = Derivative.of(case)
        for _ in range(orders):
            if jumps(derivative):
                return True
            derivative = derivative.gradient()
    return False


def jumps(derivative: Derivative) -> bool:
    """Whether the gradients on two sides differ, and by as much when the sides come ten times closer."""
    outputs = derivative.outputs()
    generator = torch.Generator().manual_seed(0)

    def gradients(directions: Sequence[Tensor], step: float) -> Tensor:
        at = leaves(x + step * direction for x, direction in zip(derivative.at, directions, strict=True))
        found = torch.autograd.grad(derivative.call(*at), at, random_like(outputs), allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in found if gradient is not None])

    for _ in range(4):  # kinks behind sums of inputs may lie along one direction, hardly along four
        directions = [random_sign(x, generator) for x in derivative.at]
        far, near = (gradients(directions, step) - gradients(directions, -step) for step in (20 * STEP, 2 * STEP))
        floor = TOLERANCE * (1 + gradients(directions, 0).abs())
        if ((near.abs() > floor) & (near.abs() > far.abs() / 2)).any():
            return True
    return False


def nudge(like: Tensor, generator: torch.Generator) -> Tensor:
    """0.01 to 0.1, either way."""
    size = torch.rand(like.shape, generator=generator, dtype=torch.float64) * 0.09 + 0.01
    return size.to(like) * random_sign(like, generator)


def random_sign(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(2, like.shape, generator=generator) - 1).to(like)
