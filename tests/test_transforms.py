"""Every operation under every transform of PyTorch, compared with the plain composition under the same transform.

`pytest tests -n 0 --table docs/transforms.md` writes the results as a table.
"""

import functools
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from cases import ACTIVATIONS, EXACT, NETWORKS, ROWS, STRAIGHT_THROUGH, derivatives, parameters, plain
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from torchann import MLP, Dense, HalfSquaredErrorLoss, formulas
from torchann.functional import dense, half_squared_error, jet, laplacian, mlp


class Operation(NamedTuple):
    """Ours and the plain composition, as functions of x and further tensors; `inputs` makes sample arguments."""

    ours: Callable
    plain: Callable
    inputs: Callable[[], tuple[torch.Tensor, ...]]


def dense_operation(spec):
    return Operation(
        lambda x, weight, bias: dense(x, weight, bias, spec),
        lambda x, weight, bias: plain(x, [weight], [bias], [spec]),
        lambda: network_inputs([3, 2]),
    )


def mlp_operation(specs):
    depth = len(specs)
    return Operation(
        lambda x, *tensors: mlp(x, tensors[:depth], tensors[depth:], specs),
        lambda x, *tensors: plain(x, tensors[:depth], tensors[depth:], specs),
        lambda: network_inputs([3, 2, 4, 2, 3, 2, 2][: depth + 1]),
    )


def of_one_hidden_layer(ours, hidden):
    """A series of tanh and the identity; `hidden` derives what it is of the hidden layer, from o = tanh(z) and W₁.

    The plain composition has no derivative in it: tanh′ = 1 − o², tanh″ = −2 o (1 − o²).
    """

    def by_hand(x, w1, w2, b1, b2):
        value, *further = hidden(F.linear(x, w1, b1).tanh(), w1)
        return torch.cat([F.linear(value, w2, b2), *(F.linear(each, w2) for each in further)], -1)

    def joined(x, w1, w2, b1, b2):
        value, *further = ours(x, [w1, w2], [b1, b2], ["tanh", "identity"])
        terms = [each for one in further for each in (one.unbind() if one.dim() > value.dim() else [one])]
        return torch.cat([value, *terms], -1)

    return Operation(joined, by_hand, lambda: network_inputs([3, 4, 2]))


def laplacian_by_hand(o, w1):
    slope = 1 - o * o
    return o, *(slope * column for column in w1.unbind(1)), -2 * o * slope * w1.square().sum(1)


def jet_by_hand(o, w1):
    """Along (1, 1, 1), up to the second order."""
    slope, v = 1 - o * o, w1.sum(1)
    return o, slope * v, -2 * o * slope * v**2


def jet_along_ones(x, *network):
    value, terms = jet(x, [torch.ones_like(x)[None], None], *network)
    return value, *terms


def loss_operation(reduction):
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda errors: errors}[reduction]
    return Operation(
        lambda output, target: half_squared_error(output, target, reduction),
        lambda output, target: reduce((output - target).square().sum(-1) / 2),
        lambda: tuple(torch.randn(2, 5, 3, dtype=torch.float64).unbind()),
    )


def module_operation(module, plain_call):
    names = [name for name, _ in module.named_parameters()]
    return Operation(
        lambda x, *tensors: functional_call(module, dict(zip(names, tensors, strict=True)), x),
        plain_call,
        lambda: (torch.randn(5, 3, dtype=torch.float64), *(p.detach().clone() for p in module.parameters())),
    )


def network_inputs(sizes):
    weights, biases = parameters(sizes, requires_grad=False)
    return torch.randn(5, 3, dtype=torch.float64), *weights, *biases


OPERATIONS = {
    **{f"dense, {name}": dense_operation(spec) for name, spec in ACTIVATIONS.items()},
    "dense, straight through": dense_operation(STRAIGHT_THROUGH),  # whose df is not the derivative of its f
    **{f"mlp, {name}": mlp_operation(specs) for name, specs in NETWORKS.items()},
    "mlp, straight through": mlp_operation(["sigmoid", STRAIGHT_THROUGH, "identity"]),
    "laplacian of mlp": of_one_hidden_layer(laplacian, laplacian_by_hand),
    "jet of mlp": of_one_hidden_layer(jet_along_ones, jet_by_hand),
    **{f"half_squared_error, {reduction}": loss_operation(reduction) for reduction in ("mean", "sum", "none")},
    "Dense": module_operation(Dense(3, 2, dtype=torch.float64), lambda x, w, b: plain(x, [w], [b], ["sigmoid"])),
    "MLP": module_operation(
        MLP([3, 4, 2], "tanh", "identity", dtype=torch.float64),
        lambda x, w1, b1, w2, b2: plain(x, [w1, w2], [b1, b2], ["tanh", "identity"]),
    ),
    "HalfSquaredErrorLoss": Operation(
        lambda output, target: HalfSquaredErrorLoss()(output, target), *loss_operation("mean")[1:]
    ),
}

TRANSFORMS = {}
REFUSED = "refused"  # what a check returns where torchann raises an error that says why this can't be done


def transform(check):
    """Registers `check(ours, plain, inputs)`, which raises if the two functions of an operation differ."""
    TRANSFORMS[check.__name__.strip("_").replace("_", " ")] = check
    return check


def both(compute):
    """Registers `compute(f, *inputs)` as a check that compares its results for ours and the plain composition."""

    @transform
    @functools.wraps(compute)
    def check(ours, plain, inputs):
        torch.testing.assert_close(compute(ours, *inputs), compute(plain, *inputs), rtol=1e-9, atol=1e-9)

    return check


def scalar(f):
    """A scalar that weighs each entry of f's output differently."""
    return lambda *inputs: torch.sin(f(*inputs) + 0.3).sum()


def leaves(inputs):
    return [tensor.detach().clone().requires_grad_() for tensor in inputs]


def gradients(f, inputs, **options):
    inputs = leaves(inputs)
    return torch.autograd.grad(scalar(f)(*inputs), inputs, **options)


def every(inputs):
    return tuple(range(len(inputs)))


# --- autograd ---------------------------------------------------------------------------------------------------------


@both
def reverse_to_third_order(f, *inputs):
    inputs = leaves(inputs)
    return derivatives(f(*inputs), inputs, order=3)


@both
def forward(f, *inputs):
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor, torch.cos(tensor)) for tensor in inputs]
        return forward_ad.unpack_dual(f(*duals)).tangent


@both
def forward_over_reverse(f, *inputs):
    inputs = leaves(inputs)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor, torch.cos(tensor.detach())) for tensor in inputs]
        found = torch.autograd.grad(scalar(f)(*duals), duals)
        return [forward_ad.unpack_dual(tensor).tangent for tensor in found]


@both
def reverse_over_forward(f, *inputs):
    inputs = leaves(inputs)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor, torch.cos(tensor.detach())) for tensor in inputs]
        tangent = forward_ad.unpack_dual(f(*duals)).tangent
        return torch.autograd.grad(torch.sin(tangent).sum(), inputs, materialize_grads=True)


@both
def forward_over_forward(f, *inputs):
    directions = tuple(torch.cos(tensor) for tensor in inputs)
    slope = lambda *inputs: jvp(f, inputs, directions)[1]  # noqa: E731
    return jvp(slope, inputs, directions)


@both
def retain_graph(f, *inputs):
    inputs = leaves(inputs)
    error = scalar(f)(*inputs)
    error.backward(retain_graph=True)
    error.backward()
    return [tensor.grad for tensor in inputs]


@transform
def backward_inputs(ours, plain, inputs):
    for index in every(inputs):
        found = []
        for f in (ours, plain):
            tensors = leaves(inputs)
            scalar(f)(*tensors).backward(inputs=[tensors[index]])
            assert [tensor.grad is not None for tensor in tensors] == [i == index for i in every(inputs)]
            found.append(tensors[index].grad)
        torch.testing.assert_close(*found, **EXACT)


@transform
def grad_of_some_inputs(ours, plain, inputs):
    for create_graph in (False, True):
        for index in every(inputs):
            found = []
            for f in (ours, plain):
                tensors = leaves(inputs)
                found.append(torch.autograd.grad(scalar(f)(*tensors), tensors[index], create_graph=create_graph)[0])
            torch.testing.assert_close(*found, **EXACT)


@transform
def batched_grad(ours, plain, inputs):
    def jacobian(f):
        tensors = leaves(inputs)
        output = f(*tensors)
        basis = torch.eye(output.numel(), dtype=output.dtype).reshape(-1, *output.shape)
        return torch.autograd.grad(output, tensors, basis, is_grads_batched=True)

    torch.testing.assert_close(jacobian(ours), jacobian(plain), **EXACT)


@transform
def strided_gradients(ours, plain, inputs):
    tensors = leaves(inputs)
    mine, reference = ours(*tensors), plain(*tensors)
    strided = torch.randn((*mine.shape, 2), dtype=mine.dtype)[..., 0]
    expanded = torch.randn((), dtype=mine.dtype).expand(mine.shape)
    transposed = torch.randn(mine.shape[::-1], dtype=mine.dtype).permute(tuple(reversed(range(mine.dim()))))
    for error in (strided, expanded, transposed):
        before = error.clone()
        found = torch.autograd.grad(mine, tensors, error, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(reference, tensors, error, retain_graph=True), **EXACT)
        torch.testing.assert_close(error, before, rtol=0, atol=0)


@transform
def in_place_change_of_what_was_saved(ours, plain, inputs):
    for changed in ("output", *every(inputs)):
        raised = []
        for f in (ours, plain):
            tensors = leaves(inputs)
            copies = [tensor.clone() for tensor in tensors]
            output = f(*copies)
            with torch.no_grad():
                (output if changed == "output" else copies[changed]).mul_(2)
            try:
                torch.autograd.grad(output.sum(), tensors)
                raised.append(False)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
                raised.append(True)
        assert raised[0] >= raised[1], f"change of {changed} is noticed by the plain composition alone"


@both
def saved_tensors_hooks(f, *inputs):
    packed = []

    def pack(tensor):
        packed.append(tensor)
        return tensor.numpy().copy() if not tensor.requires_grad else tensor.detach().numpy().copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        found = gradients(f, inputs)
    assert packed
    return found


def checkpointed(use_reentrant, f, *inputs):
    inputs = leaves(inputs)
    scalar(lambda *inputs: checkpoint(f, *inputs, use_reentrant=use_reentrant))(*inputs).backward()
    return [tensor.grad for tensor in inputs]


@both
def checkpoint_reentrant(f, *inputs):
    return checkpointed(True, f, *inputs)


@both
def checkpoint_non_reentrant(f, *inputs):
    return checkpointed(False, f, *inputs)


# --- torch.func -------------------------------------------------------------------------------------------------------


@both
def func_grad(f, *inputs):
    return grad(scalar(f), every(inputs))(*inputs)


@both
def func_vjp(f, *inputs):
    output, pull_back = vjp(f, *inputs)
    return output, pull_back(torch.cos(output))


@both
def func_jvp(f, *inputs):
    return jvp(f, inputs, tuple(torch.cos(tensor) for tensor in inputs))


@both
def func_jacrev(f, *inputs):
    return jacrev(f, every(inputs))(*inputs)


@both
def func_jacfwd(f, *inputs):
    return jacfwd(f, every(inputs))(*inputs)


@both
def func_hessian(f, *inputs):
    return hessian(scalar(f), every(inputs))(*inputs)


@both
def func_jacrev_of_jacrev(f, *inputs):
    return jacrev(jacrev(f, every(inputs)), every(inputs))(*inputs)


@both
def vmap_over_inputs(f, *inputs):
    x, *others = inputs
    return vmap(f, (0, *[None] * len(others)))(torch.stack([x, 2 * x, -x]), *others)


@both
def vmap_over_parameters(f, *inputs):
    x, *others = inputs
    return vmap(f, (None, *[0] * len(others)))(x, *(torch.stack([tensor, 2 * tensor]) for tensor in others))


@both
def vmap_nested(f, *inputs):
    x, *others = inputs
    over_parameters = vmap(f, (None, *[0] * len(others)))
    over_both = vmap(over_parameters, (0, *[None] * len(others)))
    return over_both(torch.stack([x, -x]), *(torch.stack([tensor, 2 * tensor]) for tensor in others))


def sample_dims(inputs):
    """The dimension that vmap maps over: 0 for x and a loss's target, None for the parameters."""
    return tuple(0 if tensor.shape[0] == len(inputs[0]) else None for tensor in inputs)


@both
def vmap_of_grad_per_sample(f, *inputs):
    return vmap(grad(scalar(f), every(inputs)), sample_dims(inputs))(*inputs)


@both
def vmap_of_jvp(f, *inputs):
    x, *others = inputs
    directional = lambda x: jvp(lambda x: f(x, *others), (x,), (torch.cos(x),))  # noqa: E731
    return vmap(directional)(torch.stack([x, 2 * x]))


@both
def grad_of_vmap(f, *inputs):
    batched = vmap(f, (0, *[None] * (len(inputs) - 1)))
    return grad(scalar(lambda x, *others: batched(torch.stack([x, 2 * x]), *others)), every(inputs))(*inputs)


# --- torch.compile and torch.export -----------------------------------------------------------------------------------


def compiled(compute, *inputs, **options):
    torch._dynamo.reset()
    return torch.compile(compute, fullgraph=True, **options)(*inputs)


def compile_check(backend, dynamic, ours, plain, inputs):
    torch._dynamo.reset()
    program = torch.compile(ours, fullgraph=True, backend=backend, dynamic=dynamic)
    torch.testing.assert_close(program(*inputs), plain(*inputs), rtol=1e-9, atol=1e-9)  # without gradients
    torch.testing.assert_close(gradients(program, inputs), gradients(plain, inputs), rtol=1e-9, atol=1e-9)
    if dynamic:
        dims = sample_dims(inputs)
        larger = [tensor if dim is None else torch.cat([tensor] * 2) for tensor, dim in zip(inputs, dims, strict=True)]
        with torch._dynamo.config.patch(error_on_recompile=True):
            torch.testing.assert_close(gradients(program, larger), gradients(plain, larger), rtol=1e-9, atol=1e-9)


for backend in ("aot_eager", "inductor"):
    for dynamic in (False, True):
        name = f"compile {backend} {'dynamic' if dynamic else 'static'}"
        TRANSFORMS[name] = functools.partial(compile_check, backend, dynamic)


@transform
def compile_of_func_grad(ours, plain, inputs):
    found = compiled(grad(scalar(ours), every(inputs)), *inputs, backend="aot_eager")
    torch.testing.assert_close(found, grad(scalar(plain), every(inputs))(*inputs), rtol=1e-9, atol=1e-9)


@transform
def compile_of_jvp(ours, plain, inputs):
    directional = lambda f: lambda *inputs: jvp(f, inputs, tuple(torch.cos(tensor) for tensor in inputs))  # noqa: E731
    found = compiled(directional(ours), *inputs, backend="aot_eager")
    torch.testing.assert_close(found, directional(plain)(*inputs), rtol=1e-9, atol=1e-9)


@transform
def compile_of_vmap_of_grad(ours, plain, inputs):
    per_sample = lambda f: vmap(grad(scalar(f), every(inputs)), sample_dims(inputs))  # noqa: E731
    found = compiled(per_sample(ours), *inputs, backend="aot_eager")
    torch.testing.assert_close(found, per_sample(plain)(*inputs), rtol=1e-9, atol=1e-9)


@contextmanager
def quietly():
    """Ignores warnings about PyTorch's own code: functional_call, constants in graphs, `.grad`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def export_check(strict, ours, plain, inputs):
    """Compares values and gradients; an activation whose df autograd would not find has to be refused."""

    class Program(torch.nn.Module):
        def forward(self, *inputs):
            return ours(*inputs)

    try:
        with quietly():
            program = torch.export.export(Program(), tuple(inputs), strict=strict).module()
    except Exception as error:
        assert "'straight through': torch.export keeps f alone" in str(error)  # noqa: PT017
        return REFUSED
    torch.testing.assert_close(program(*inputs), plain(*inputs), **EXACT)
    torch.testing.assert_close(gradients(program, inputs), gradients(plain, inputs), **EXACT)
    return None


for strict in (True, False):
    TRANSFORMS[f"export, run and backward, {'strict' if strict else 'non strict'}"] = functools.partial(
        export_check, strict
    )


@transform
def trace_run_and_backward(ours, plain, inputs):
    """torch.jit.trace"""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.trace(ours, tuple(inputs))
    except RuntimeError as error:
        if "stateless API" in str(error):
            pytest.skip("torch.jit.trace does not take functional_call; test_situations.py traces modules")
        assert "'straight through': torch.jit.trace keeps f alone" in str(error)  # noqa: PT017
        return REFUSED
    torch.testing.assert_close(program(*inputs), plain(*inputs), **EXACT)
    torch.testing.assert_close(gradients(program, inputs), gradients(plain, inputs), **EXACT)
    return None


@both
def make_fx_of_gradients(f, *inputs):
    return make_fx(lambda *inputs: gradients(f, inputs))(*inputs)(*inputs)


@both
def make_fx_of_func_grad(f, *inputs):
    return make_fx(grad(scalar(f), every(inputs)))(*inputs)(*inputs)


@both
def pull_back_of_a_vjp_differentiated_later(f, *inputs):
    """Autograd differentiates the pull-back after the vjp has returned, when the tensors it wrapped are dead."""
    inputs = leaves(inputs)
    directional = lambda *inputs: jvp(f, inputs, tuple(torch.cos(tensor) for tensor in inputs))[1]  # noqa: E731
    output, pull_back = vjp(directional, *inputs)
    return torch.autograd.grad(sum(t.sin().sum() for t in pull_back(torch.cos(output))), inputs, materialize_grads=True)


@both
def forward_mode_through_the_pull_back_of_a_vjp(f, *inputs):
    with forward_ad.dual_level():
        output, pull_back = vjp(f, *(forward_ad.make_dual(tensor, torch.cos(tensor)) for tensor in inputs))
        found = [forward_ad.unpack_dual(tensor) for tensor in pull_back(torch.ones_like(output))]
        return [torch.zeros_like(primal) if tangent is None else tangent for primal, tangent in found]


@both
def func_linearize(f, *inputs):
    with quietly():
        output, directional = linearize(f, *inputs)
        return output, directional(*(torch.cos(tensor) for tensor in inputs))


@both
def jvp_of_vmap_of_grad(f, *inputs):
    per_sample = vmap(grad(scalar(f), every(inputs)), sample_dims(inputs))
    return jvp(per_sample, inputs, tuple(torch.cos(tensor) for tensor in inputs))


@transform
def compiled_autograd(ours, plain, inputs):
    torch._dynamo.reset()
    tensors = leaves(inputs)
    with quietly(), torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        scalar(ours)(*tensors).backward()
    found = tuple(tensor.grad for tensor in tensors)
    torch.testing.assert_close(found, gradients(plain, inputs), rtol=1e-9, atol=1e-9)


@both
def selective_checkpoint(f, *inputs):
    """The policy saves the results of products and activations; so nothing may write over them."""
    saved = {
        getattr(torch.ops.aten, name).default for name in ("addmm", "mm", "sigmoid", "tanh", "relu", "sin", "round")
    }
    policy = lambda ctx, op, *_, **__: CheckpointPolicy.MUST_SAVE if op in saved else CheckpointPolicy.PREFER_RECOMPUTE  # noqa: E731
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    inputs = leaves(inputs)
    scalar(lambda *inputs: checkpoint(f, *inputs, use_reentrant=False, context_fn=contexts))(*inputs).backward()
    return [tensor.grad for tensor in inputs]


@both
def allow_mutation_on_saved_tensors(f, *inputs):
    inputs = leaves(inputs)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        scalar(f)(*inputs).backward()
    return [tensor.grad for tensor in inputs]


@both
def flop_counter(f, *inputs):
    inputs = leaves(inputs)
    with FlopCounterMode(display=False):
        scalar(f)(*inputs).backward()
    return [tensor.grad for tensor in inputs]


# --- dtypes and devices -----------------------------------------------------------------------------------------------


@transform
def autocast_bfloat16(ours, plain, inputs):
    inputs = [tensor.float() for tensor in inputs]
    found = []
    for f in (ours, plain):
        tensors = leaves(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            output = f(*tensors)
        found.append((output, *torch.autograd.grad(scalar(lambda *_, output=output: output)(), tensors)))
    for mine, reference in zip(*found, strict=True):
        assert mine.dtype == reference.dtype
        norm = reference.float().norm()
        assert (mine.float() - reference.float()).norm() <= 6 * torch.finfo(torch.bfloat16).eps * norm


@transform
def meta_device(ours, plain, inputs):
    inputs = [tensor.to("meta") for tensor in inputs]
    found, expected = ([f(*leaves(inputs)), *gradients(f, inputs)] for f in (ours, plain))
    for mine, reference in zip(found, expected, strict=True):
        assert (mine.device, mine.shape, mine.dtype) == (reference.device, reference.shape, reference.dtype)


@transform
def fake_tensors(ours, plain, inputs):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        found = gradients(ours, [mode.from_tensor(tensor) for tensor in inputs])
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in inputs]


SLOW = {
    "compile inductor static",
    "compile inductor dynamic",
    "compile aot_eager dynamic",
    "compile of vmap of grad",
    "compiled autograd",
    "func linearize",
}


def skip_if_inexact(transform, operation):
    if operation.endswith("hardsigmoid") and transform.startswith(("export", "trace")):
        pytest.skip("records F.hardsigmoid, whose own backward is only as exact as float32, also for float64")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TRANSFORMS])
def test_transform(name, operation, record_property):
    """The property tells `--table` which transforms are refused."""
    skip_if_inexact(name, operation)
    ours, plain, inputs = OPERATIONS[operation]
    record_property("refused", TRANSFORMS[name](ours, plain, inputs()) == REFUSED)


# What every row of the table is tested under. The first of each kind is tested under all transforms, above.
QUICK = ("forward over reverse", "func grad", "func hessian", "vmap over inputs", "vmap of grad per sample")
WITH_COMPILER = ("compile aot_eager static", "export, run and backward, non strict")


@pytest.mark.parametrize("activation", ROWS)
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_COMPILER)])
def test_every_activation(name, activation):
    skip_if_inexact(name, activation)
    ours, plain, inputs = dense_operation(activation)
    TRANSFORMS[name](ours, plain, inputs())


def test_a_compiled_backward_is_the_hand_derived_one(monkeypatch):
    """If a formula is made wrong on purpose, the compiled gradient changes."""
    operation = OPERATIONS["dense, sigmoid"]
    inputs = operation.inputs()
    expected = gradients(operation.plain, inputs)
    monkeypatch.setattr(formulas, "bias_gradient", lambda delta: 2 * delta.sum(0))
    torch._dynamo.reset()
    found = gradients(torch.compile(operation.ours, fullgraph=True, backend="aot_eager"), inputs)
    torch.testing.assert_close(found, (*expected[:-1], 2 * expected[-1]), **EXACT)
