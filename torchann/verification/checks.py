"""The checks, in the order in which they run: one small function each, whose docstring says what it does and finds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from torchann.transforms import is_operator, opcheck_error
from torchann.verification.comparing import agree, agree_in_all, agree_in_gradients, check_dtypes, names_of, same_dtypes
from torchann.verification.derivatives import Derivative
from torchann.verification.findings import Comparisons, Finding, Mismatch, Skipped, Unsupported, first_line
from torchann.verification.judging import Check, CheckFunction
from torchann.verification.rounding import precision, roundoff, sensitivity
from torchann.verification.runs import forward, leaves, random_like, stacked
from torchann.verification.samples import Sample
from torchann.verification.situations import LAYOUTS, batchings, empty_cases, expanded, functional_gradient, saved_bytes

CHECKS: dict[str, Check] = {}


def check(name: str, **options: bool) -> Callable[[CheckFunction], CheckFunction]:
    """Put a function in the table."""

    def register(run: CheckFunction) -> CheckFunction:
        CHECKS[name] = Check(name, run, **options)
        return run

    return register


def check_names(names: Collection[str]) -> None:
    if isinstance(names, str):
        raise TypeError(f"expected a collection of names of checks, got the str {names!r}")
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"unknown check {name!r}; known: {', '.join(CHECKS)}")


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
    arguments = zip(case.names, run.given, case.arguments, strict=True)
    names, given, before = zip(*(each for each in arguments if isinstance(each[1], Tensor)), strict=True)
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
    yield sample.check_derivative(1)


@check("forward")
def check_forward(sample: Sample) -> Comparisons:
    """Forward mode against central differences (`gradcheck`). Finds a missing or wrong jvp."""
    yield sample.check_derivative(1, forward_mode=True)


@check("double-backward")
def check_double_backward(sample: Sample) -> Comparisons:
    """Backward through backward against central differences of it.

    Finds a wrong second derivative, and a backward that autograd can't see through and that doesn't say so, where
    `once_differentiable` was forgotten.
    """
    yield sample.check_derivative(2)


@check("forward-over-reverse")
def check_forward_over_reverse(sample: Sample) -> Comparisons:
    """Forward mode through backward, as in Hessian-vector products. Finds tangents lost or wrong in backward."""
    yield sample.check_derivative(2, forward_mode=True)


@check("third-order", once=True)
def check_third_order(sample: Sample) -> Comparisons:
    """The third derivative is right or refused. Finds a double backward that stops short in silence."""
    yield sample.check_derivative(3)


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
    Derivative.of(case).take_undefined_gradients()
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
        got, expected = forward(case.fn, case).outputs, forward(case.needed_reference, case).outputs
        yield agree(got, expected, names_of(got), ("got", "reference"))
        same_dtypes(got, expected)


@check("reference-gradient")
def check_reference_gradient(sample: Sample) -> Comparisons:
    """The gradients are those of the reference, as given and in float64."""
    for case in sample.precisions:
        got, expected = forward(case.fn, case), forward(case.needed_reference, case)
        yield agree_in_gradients(got, expected, case, ("got", "reference"))


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
    torch.compiler.reset()  # it counts how often a piece of code, the lambda here, is compiled
    compiled = torch.compile(lambda *flat: case.fn(*flat), fullgraph=True, backend="aot_eager", dynamic=False)
    yield from agree_in_all(forward(compiled, case), forward(case.fn, case), case, ("compiled", "eager"))


@check("opcheck", once=True, repeats=False)
def check_opcheck(sample: Sample) -> Comparisons:
    """`torch.library.opcheck` of a registered operator: its schema, its fake kernel and its autograd registration."""
    case = sample.own
    op: Any = case.fn.fn
    if not is_operator(op):
        raise Skipped("not a registered operator")
    try:
        torch.library.opcheck(op, case.fn.unflatten(case.at(leaves(case.tensors))))
    except opcheck_error() as error:
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
