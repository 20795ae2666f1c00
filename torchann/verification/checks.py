"""The checks, in the order in which they run: one small function each, whose docstring says what it does and finds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from torchann.transforms import is_operator, opcheck_error
from torchann.verification.cases import (
    Case,
    Run,
    eps,
    forward,
    leaves,
    random_like,
    seed_all,
    stacked,
    tensors_in,
)
from torchann.verification.comparing import (
    agree,
    agree_in_all,
    agree_in_gradients,
    check_dtypes,
    names_of,
    ordering,
    precision,
    roundoff,
    same_dtypes,
    sensitivity,
)
from torchann.verification.derivatives import Derivative, exact
from torchann.verification.judging import Check, CheckFunction, Sample, reason_against
from torchann.verification.report import Advice, Comparisons, Finding, Mismatch, Skipped, Unsupported, first_line
from torchann.verification.situations import (
    LAYOUTS,
    batchings,
    changes_its_buffers,
    crash_of,
    empty_cases,
    expanded,
    functional_gradient,
    gradients_of_some,
    kept_in_attributes,
    left_behind,
    saved_bytes,
    some_that_require_grad,
)

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

    Finds sums in no fixed order, a backward that writes over what it saved, and state kept outside ctx. Every run
    starts from the same random numbers; that others give other results is said as advice.
    """
    case, names = sample.double, sample.double.gradient_names
    first, second = forward(case.fn, case), forward(case.fn, case)
    gradients = first.backward(retain_graph=True)
    with suppress(Exception):  # where fn does not take these, nothing comes in between
        forward(case.fn, case.moved_to([0.9 * tensor for tensor in case.tensors]))
    yield agree(second.outputs, first.outputs, names_of(first.outputs), ("one run", "another"), 0)
    yield agree(second.backward(), gradients, names, ("one run", "another, with a forward in between"), 0)
    yield agree(first.backward(), gradients, names, ("by the second backward over one graph", "by the first"), 0)
    if sample.is_random:
        raise Advice(f"random: another seed gives other outputs. Every run here has the same seed{eval_helps(case)}")


def eval_helps(case: Case) -> str:
    module = case.fn.fn
    return "; module.eval() turns dropout off" if isinstance(module, nn.Module) and module.training else ""


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
    """Backward against central differences.

    Finds a wrong formula: a gradient transposed, a sum left out, gradients in the wrong order.
    """
    yield sample.check_derivative(1)


@check("linearity")
def check_linearity(sample: Sample) -> Comparisons:
    """Backward is linear: from the incoming gradient a g + b h it gives a times that from g plus b times that from h.

    Finds a backward that clips the gradient, or asks for its sign, which unit vectors don't show.
    """
    case = sample.double
    run = forward(case.fn, case)
    g, h = (random_like(run.differentiable, seed) for seed in (1, 2))
    of_g, of_h = (run.backward([each.clone() for each in given], retain_graph=True) for given in (g, h))
    for a, b in ((-1.0, 0.0), (1000.0, 0.0), (0.001, 0.0), (2.0, -300.0)):
        got = run.backward([a * x + b * y for x, y in zip(g, h, strict=True)], retain_graph=True)
        expected = [a * x + b * y for x, y in zip(of_g, of_h, strict=True)]
        size = max(abs(a), abs(b))  # so that the tolerance is relative to it
        words = (f"from {a:g} g {b:+g} h", "by those from g and h") if b else (f"from {a:g} g", f"{a:g} × that from g")
        tolerance = ordering(*got, *run.differentiable)
        yield agree([x / size for x in got], [x / size for x in expected], case.gradient_names, words, tolerance)


@check("needs-input-grad")
def check_needs_input_grad(sample: Sample) -> Comparisons:
    """Only some inputs require grad, each alone and each left out: their gradients stay the same.

    Finds a branch on `needs_input_grad` that leaves out too much, or mixes up the order.
    """
    case = sample.double
    if len(case.wrt) == 1:
        raise Skipped("one input alone is differentiated")
    expected = forward(case.fn, case).backward()
    for wanted in some_that_require_grad(len(case.wrt)):
        only = ", ".join(case.tensor_names[index] for index in wanted) if len(wanted) < 3 else "all but one"
        try:
            found = gradients_of_some(case, wanted)
        except Exception as error:
            raise Unsupported(f"where only {only} requires grad: {first_line(error)}") from error
        of_wanted = [expected[index] for index in wanted]
        pairs = zip(found or [None] * len(wanted), of_wanted, strict=True)
        got = [torch.zeros_like(e) if g is None else g for g, e in pairs]
        names = [case.gradient_names[index] for index in wanted]
        yield agree(got, of_wanted, names, (f"where only {only} requires grad", "where all do"))


@check("no-grad")
def check_no_grad(sample: Sample) -> Comparisons:
    """Without gradients, under `no_grad` and in inference mode, the outputs are the same.

    Finds a fast path for inference that computes something else.
    """
    case = sample.double
    expected = forward(case.fn, case).outputs
    for name, mode in (("under no_grad", torch.no_grad), ("in inference mode", torch.inference_mode)):
        with mode():
            got = [output.clone() for output in case.function(*case.tensors)]
        yield agree(got, expected, names_of(expected), (name, "with gradients"))


@check("forward")
def check_forward(sample: Sample) -> Comparisons:
    """Forward mode against central differences. Finds a missing or wrong jvp."""
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
    sample.skip_if_random()
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
    sample.skip_if_random()
    case = sample.double
    for name, layout in LAYOUTS.items():
        got, expected = forward(case.fn, case, layout), forward(case.fn, case)
        yield from agree_in_all(got, expected, case, (f"for inputs {name}", "contiguous"))


@check("empty-batch")
def check_empty_batch(sample: Sample) -> Comparisons:
    """The first dimension of the input has size 0: shapes are kept and gradients are those of nothing.

    Finds a division by the batch size, and memory that no sample fills.
    """

    def run_all() -> None:
        for case in empty_cases(sample.double):
            forward(case.fn, case).backward()

    if sample.is_first and (signal := crash_of(run_all)):
        raise Mismatch(f"kills the process: {signal} (tried in a child process)")
    for case in empty_cases(sample.double):
        run = forward(case.fn, case)
        if all(output.numel() == 0 for output in run.outputs):
            gradients = run.backward(retain_graph=True)
            zeros = [torch.zeros_like(gradient) for gradient in gradients]
            yield agree(gradients, zeros, case.gradient_names, ("for an empty batch", "expected"))
        elif all(output.isfinite().all() for output in run.outputs):  # unlike a mean over nothing
            yield Derivative.of(case, sample.numerics).compare()
        if case.reference is not None:
            yield from agree_in_all(run, forward(case.reference, case), case, ("for an empty batch", "reference"))


@check("dtype")
def check_dtype(sample: Sample) -> Comparisons:
    """float64 is computed in float64, and float32 gives float32 and the same gradients.

    A lower precision shows as noise, since over steps of one float32 ulp a float64 result runs straight, and in
    gradients that are off by a factor of 1e-8. Finds a float32 step or constant inside a float64 computation, in either
    pass, and a constant that promotes.
    """
    if sample.refusal:
        raise Unsupported(sample.refusal)
    double = sample.double
    yield from roundoff(double)
    if not changes_its_buffers(double):  # the power iteration of a spectral norm is not converged to ten digits
        yield from exact(double)
    single = double.to(torch.float32)
    try:
        run = forward(single.fn, single)
        gradients = run.backward()
    except Exception as error:
        raise Unsupported(f"in float32: {first_line(error)}") from error
    check_dtypes(run.outputs, torch.float32)
    if sample.is_random:
        return
    expected, names, words = forward(double.fn, double).backward(), double.gradient_names, ("in float32", "in float64")
    tolerance = precision(torch.float32)  # another than that of float64: it is held to, but not reported
    try:
        agree(gradients, expected, names, words, tolerance)
    except Mismatch:
        agree(gradients, expected, names, words, tolerance + sensitivity(double, eps(*single.tensors)))


@check("reference-value")
def check_reference_value(sample: Sample) -> Comparisons:
    """The outputs are those of the reference, as given and in float64."""
    for case in sample.precisions:
        reference = case.needed_reference
        got, expected = forward(case.fn, case).outputs, forward(reference, case).outputs
        yield agree(got, expected, names_of(got), ("got", "reference"))
        same_dtypes(got, expected)


@check("reference-gradient")
def check_reference_gradient(sample: Sample) -> Comparisons:
    """The gradients are those of the reference, or of the function `gradient`, as given and in float64."""
    for case in sample.precisions:
        reference = case.surrogate or case.needed_reference
        got, expected = forward(case.fn, case), forward(reference, case)
        yield agree_in_gradients(got, expected, case, ("got", "reference"))


@check("vmap", transforms=True)
def check_vmap(sample: Sample) -> Comparisons:
    """`vmap(fn)` and per-sample gradients, `vmap(grad(fn))`, against a loop: all inputs batched, and each alone.

    Finds a missing vmap rule, and one that mixes up dimensions.
    """
    sample.skip_if_random()
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

    Finds wrong values and dtypes. An error, as of a backward that meets two dtypes, is a refusal.
    """
    sample.skip_if_random()
    case = sample.double.to(torch.float32)
    if refusal := reason_against(case):
        raise Skipped(f"not in float32: {refusal}")
    tolerance = precision(torch.bfloat16) + sensitivity(case, torch.finfo(torch.bfloat16).eps)
    expected = forward(case.fn, case)
    try:
        with torch.autocast(case.device.type, torch.bfloat16):
            run = forward(case.fn, case)
        run.backward(retain_graph=True)
    except Exception as error:
        raise Unsupported(
            f"{first_line(error)}. Decorate forward and backward with torch.amp.custom_fwd and torch.amp.custom_bwd"
        ) from error
    if case.reference is not None:
        with torch.autocast(case.device.type, torch.bfloat16):
            same_dtypes(run.outputs, forward(case.reference, case).outputs)
    yield from agree_in_all(run, expected, case, ("under autocast", "in float32"), tolerance)


@check("compile", once=True, transforms=True)
def check_compile(sample: Sample) -> Comparisons:
    """`torch.compile(fn, fullgraph=True)`, by Dynamo and AOTAutograd, against eager: values and gradients."""
    case = sample.own
    torch.compiler.reset()  # it counts how often a piece of code, the lambda here, is compiled
    at = leaves(case.tensors)
    given = case.at(at)
    fn, (args, kwargs) = case.fn.callee(given), case.fn.call_arguments(given)
    compiled = torch.compile(lambda *a, **k: fn(*a, **k), fullgraph=True, backend="aot_eager", dynamic=False)
    seed_all(case.fn.seed)
    got = Run(at, given, tensors_in(compiled(*args, **kwargs)))
    sample.skip_if_random()
    yield from agree_in_all(got, forward(case.fn, case), case, ("compiled", "eager"))


@check("opcheck", once=True, repeats=False)
def check_opcheck(sample: Sample) -> Comparisons:
    """`torch.library.opcheck` of a registered operator: its schema, its fake kernel and its autograd registration."""
    case = sample.own
    op: Any = case.fn.fn
    if not is_operator(op):
        raise Skipped("not a registered operator")
    args, kwargs = case.fn.call_arguments(case.at(leaves(case.tensors)))
    try:
        torch.library.opcheck(op, args, kwargs)
    except opcheck_error() as error:
        raise Mismatch(first_line(error)) from error
    yield Finding()


@check("leaks", once=True)
def check_leaks(sample: Sample) -> Comparisons:
    """Nothing of a run outlives it, once its outputs are gone.

    Finds a list outside that grows, and a graph that only the garbage collector frees, as a result that ctx holds as an
    attribute, which holds ctx: on a GPU, memory grows until it runs.
    """
    waiting, staying = left_behind(sample.double)
    if staying:
        raise Mismatch(f"{staying} tensors of each run stay for good: memory grows", staying, 0)
    if waiting:
        raise Mismatch(
            f"{waiting} tensors of a run wait for the garbage collector: its graph is part of a cycle, for example "
            "through an output that is an attribute of ctx. Use ctx.save_for_backward",
            waiting,
            0,
        )
    yield Finding(0, 0)


@check("saved-tensors", once=True, repeats=False)
def check_saved_tensors(sample: Sample) -> Comparisons:
    """Tensors are saved by `ctx.save_for_backward`. Advice where an attribute of ctx holds one.

    There nobody notices a change in place before backward, hooks for saved tensors (checkpointing, offloading) don't
    see it, and an output held so is a leak.
    """
    found = kept_in_attributes(forward(sample.double.fn, sample.double).outputs)
    if found:
        raise Advice(f"a tensor is kept as an attribute: {', '.join(found)}. Use ctx.save_for_backward", len(found), 0)
    yield Finding(0, 0)


@check("saved-bytes", once=True, repeats=False)
def check_saved_bytes(sample: Sample) -> Comparisons:
    """Bytes kept for backward beside the inputs and parameters, against the reference.

    Advice where fn keeps more, and a failure if the check is required. Tensors that hide in attributes of ctx are not
    seen.
    """
    case = sample.own
    ours = saved_bytes(case.fn, case)
    if case.reference is None:
        yield Finding(ours, message=f"{ours} bytes")
        return
    of_reference = saved_bytes(case.reference, case)
    message = f"{ours} bytes, reference {of_reference}"
    if ours > of_reference:
        raise Advice(message, ours, of_reference)
    yield Finding(ours, of_reference, message)
