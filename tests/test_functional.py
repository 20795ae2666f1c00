"""The functions against PyTorch's gradient checks and against the plain composition under autograd."""

from itertools import combinations, compress, product

import pytest
import torch
from cases import (
    ACTIVATIONS,
    EVERY_ACTIVATION,
    EXACT,
    GRADCHECK,
    NETWORKS,
    REPRESENTATIVES,
    SINE,
    check_all_modes,
    derivatives,
    parameters,
    plain,
)

from torchann import Activation, activations
from torchann.functional import dense, half_squared_error, mlp

LAYOUTS = {  # how x [*, 3] is made from a leaf that gradcheck may perturb
    "1-D": ((3,), lambda leaf: leaf),
    "2-D": ((4, 3), lambda leaf: leaf),
    "N-D": ((2, 3, 3), lambda leaf: leaf),
    "empty": ((0, 3), lambda leaf: leaf),
    "empty N-D": ((2, 0, 3), lambda leaf: leaf),
    "one sample": ((1, 3), lambda leaf: leaf),
    "odd": ((7, 3), lambda leaf: leaf),
    "non-contiguous": ((5, 6), lambda leaf: leaf[:, ::2]),
    "expanded": ((1, 3), lambda leaf: leaf.expand(4, 3)),
    "transposed": ((3, 5), lambda leaf: leaf.t()),
    "permuted N-D": ((3, 2, 4), lambda leaf: leaf.permute(1, 2, 0)),
}
NEEDS = [needs for needs in product([True, False], repeat=3) if any(needs)]


def leaf_for(layout, **options):
    return torch.randn(LAYOUTS[layout][0], **{"dtype": torch.float64, "requires_grad": True, **options})


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dense_gradients(activation, layout):
    leaf, arrange = leaf_for(layout), LAYOUTS[layout][1]
    check_dense(leaf, NEEDS[0], lambda x, *parameters: dense(arrange(x), *parameters, activation=activation))


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("needs", NEEDS[1:], ids=lambda needs: "".join(compress("xWb", needs)))
def test_dense_gradients_of_what_needs_one(activation, needs):
    check_dense(leaf_for("2-D"), needs, lambda x, *parameters: dense(x, *parameters, activation=activation))


def check_dense(leaf, needs, function):
    """With and without a bias."""
    (weight,), (bias,) = parameters([3, 2])
    inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip((leaf, weight, bias), needs, strict=True)]
    for arguments in (inputs, inputs[:2]):
        if any(argument.requires_grad for argument in arguments):
            torch.autograd.gradcheck(function, arguments, **GRADCHECK)
            torch.autograd.gradgradcheck(function, arguments, **GRADCHECK)


@pytest.mark.parametrize("activation", EVERY_ACTIVATION.values(), ids=EVERY_ACTIVATION)
def test_dense_in_every_mode(activation):
    (weight,), (bias,) = parameters([3, 2])
    check_all_modes(lambda *args: dense(*args, activation), (leaf_for("2-D"), weight, bias))


@pytest.mark.parametrize("specs", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("layout", ["1-D", "2-D", "N-D", "empty", "non-contiguous"])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_gradients(specs, layout, bias):
    depth = len(specs)
    leaf, arrange = leaf_for(layout), LAYOUTS[layout][1]
    weights, biases = parameters([3, 2, 4, 1, 3, 2, 2][: depth + 1], bias)

    def network(x, *tensors):
        return mlp(arrange(x), tensors[:depth], tensors[depth:] or None, specs)

    inputs = (leaf, *weights, *(biases if bias else []))
    torch.autograd.gradcheck(network, inputs, **GRADCHECK)
    torch.autograd.gradgradcheck(network, inputs, **GRADCHECK)


@pytest.mark.parametrize("specs", NETWORKS.values(), ids=NETWORKS)
def test_mlp_in_every_mode(specs):
    depth = len(specs)
    weights, biases = parameters([3, 2, 4, 1, 3, 2, 2][: depth + 1])
    network = lambda x, *tensors: mlp(x, tensors[:depth], tensors[depth:], specs)  # noqa: E731
    check_all_modes(network, (leaf_for("2-D"), *weights, *biases))


def test_mlp_gradients_of_any_subset():
    specs, (weights, biases) = ["sigmoid", "tanh", "sigmoid"], parameters([3, 2, 4, 2])
    every = (leaf_for("2-D"), *weights, *biases)
    for chosen in combinations(range(len(every)), 2):
        inputs = [tensor.detach().requires_grad_(index in chosen) for index, tensor in enumerate(every)]
        torch.autograd.gradcheck(lambda x, *p: mlp(x, p[:3], p[3:], specs), inputs, **GRADCHECK)
        torch.autograd.gradgradcheck(lambda x, *p: mlp(x, p[:3], p[3:], specs), inputs, **GRADCHECK)


def test_mlp_is_one_node():
    weights, biases = parameters([3, 4, 5, 2])
    x = leaf_for("2-D")
    output = mlp(x, weights, biases, ["sigmoid", "relu", "identity"])
    parents = {node for node, _ in output.grad_fn.next_functions}
    assert {node.variable for node in parents} == {x, *weights, *biases}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("specs", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parity_with_the_plain_composition(dtype, specs, layout, device):
    leaf, arrange = leaf_for(layout, device=device), LAYOUTS[layout][1]
    weights, biases = parameters([3, 5, 4, 7, 3, 2, 2][: len(specs) + 1], device=device)
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (leaf, *weights, *biases)]
    error = torch.randn_like(plain(arrange(leaf), weights, biases, specs)).to(dtype)

    def output_and_gradients(network, inputs, error):
        x, *tensors = inputs
        output = network(arrange(x), tensors[: len(specs)], tensors[len(specs) :], specs)
        return output, *torch.autograd.grad(output, inputs, error)

    ours, theirs = (output_and_gradients(network, inputs, error) for network in (mlp, plain))
    if dtype == torch.float64:
        torch.testing.assert_close(ours, theirs, **EXACT)
    elif dtype == torch.float32:
        torch.testing.assert_close(ours, theirs)
    else:  # an entry whose terms nearly cancel has no right digit, so the norm of each whole tensor is compared
        in_float64 = [tensor.detach().double().requires_grad_() for tensor in inputs]
        truth = output_and_gradients(plain, in_float64, error.double())
        for mine, reference, true in zip(ours, theirs, truth, strict=True):
            rounding = torch.finfo(dtype).eps / 2 * true.norm()
            # PyTorch's own f′ rounds once; that of SILU in cases.py rounds five times more.
            assert (mine - true).norm() <= 2 * (reference - true).norm() + 5 * rounding


ONE_LAYER = {name: [spec] for name, spec in EVERY_ACTIVATION.items()}


@pytest.mark.parametrize("specs", [*ONE_LAYER.values(), *NETWORKS.values()], ids=[*ONE_LAYER, *NETWORKS])
def test_derivatives_up_to_the_fourth_order(specs):
    weights, biases = parameters([3, 2, 3, 2, 3, 2, 2][: len(specs) + 1])
    x = leaf_for("2-D")
    inputs = (x, *weights, *biases)
    with torch.no_grad():  # else derivatives of exp become so large that their sines have no digits
        for tensor in inputs:
            tensor.mul_(0.7)
    ours = derivatives(mlp(x, weights, biases, specs), inputs, order=4)
    theirs = derivatives(plain(x, weights, biases, specs), inputs, order=4)
    for order, (mine, reference) in enumerate(zip(ours, theirs, strict=True), start=1):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10, msg=lambda m, n=order: f"order {n}: {m}")


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_second_derivative_is_the_same_with_and_without_a_graph(activation):
    x = leaf_for("2-D")
    weights, biases = parameters([3, 4, 2])
    output = mlp(x, weights, biases, activation)
    (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    without = torch.autograd.grad(slope.square().sum(), weights, retain_graph=True)
    with_graph = torch.autograd.grad(slope.square().sum(), weights, create_graph=True)
    torch.testing.assert_close(without, with_graph, **EXACT)


@pytest.mark.parametrize("specs", [["sigmoid"] * 3, ["tanh", "tanh", "identity"], ["sigmoid", SINE, "relu"]], ids=str)
def test_physics_informed(specs):
    """u_xx and its gradients, for the residual of a differential equation: here ē is a constant, or None."""
    weights, biases = parameters([2, 4, 3, 1])
    points = torch.randn(5, 2, dtype=torch.float64).requires_grad_()
    found = []
    for network in (mlp, plain):
        u = network(points, weights, biases, specs)
        (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
        (curvature,) = torch.autograd.grad(slope[:, 1].sum(), points, create_graph=True)
        residual = (slope[:, 0] - 0.3 * curvature[:, 1]).square().mean()
        found.append((residual, *torch.autograd.grad(residual, (*weights, *biases), materialize_grads=True)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 3), (1, 1)])
def test_half_squared_error(reduction, shape):
    output, target = torch.randn(2, *shape, dtype=torch.float64)
    per_sample = [sum((o - y) ** 2 for o, y in zip(row, wanted, strict=True)) / 2 for row, wanted in
                  zip(output.reshape(-1, shape[-1]).tolist(), target.reshape(-1, shape[-1]).tolist(), strict=True)]  # fmt: skip
    expected = torch.tensor(per_sample, dtype=torch.float64).reshape(shape[:-1])
    expected = {"none": expected, "sum": expected.sum(), "mean": expected.mean()}[reduction]
    torch.testing.assert_close(half_squared_error(output, target, reduction), expected, **EXACT)
    for needs in [(True, True), (True, False), (False, True)]:
        inputs = [tensor.clone().requires_grad_(need) for tensor, need in zip((output, target), needs, strict=True)]
        check_all_modes(lambda o, y: half_squared_error(o, y, reduction), inputs)


def test_half_squared_error_of_no_samples():
    output = torch.zeros(0, 3, requires_grad=True)
    target = torch.zeros(0, 3)
    assert half_squared_error(output, target, "sum").item() == 0
    assert half_squared_error(output, target, "none").shape == (0,)
    assert torch.isnan(half_squared_error(output, target, "mean"))
    half_squared_error(output, target, "sum").backward()
    assert output.grad.shape == (0, 3)


def t(*shape, **options):
    return torch.ones(shape, **options)


BAD_CALLS = {
    "weight's width": (lambda: dense(t(2, 3), t(4, 5)), ValueError, r"weight: expected shape \[out_features, 3\].*\[4, 5\]"),
    "weight of one dimension": (lambda: dense(t(2, 3), t(3)), ValueError, r"weight: expected shape .* got \[3\]"),
    "bias": (lambda: dense(t(2, 3), t(4, 3), t(1)), ValueError, r"bias: expected shape \[4\].*got \[1\]"),
    "scalar x": (lambda: dense(t(), t(4, 3)), ValueError, "x: expected at least 1 dimension"),
    "not a tensor": (lambda: dense([1.0], t(4, 1)), TypeError, "x: expected a Tensor, got list"),
    "weight is no tensor": (lambda: dense(t(1), None), TypeError, "weight: expected a Tensor, got NoneType"),
    "complex x": (lambda: dense(t(2, 3, dtype=torch.cfloat), t(4, 3)), TypeError, "x: expected a real .*complex64"),
    "complex bias": (lambda: dense(t(2, 3), t(4, 3), t(4, dtype=torch.cfloat)), TypeError, "bias: .*complex64"),
    "integers": (lambda: dense(t(2, 3, dtype=torch.long), t(4, 3)), TypeError, "x: expected a real .*int64"),
    "dtypes": (lambda: dense(t(2, 3), t(4, 3).double()), TypeError, "weight: expected the dtype of x, .*32, got .*64"),
    "devices": (lambda: dense(t(2, 3), t(4, 3, device="meta")), ValueError, "weight: expected the device of x, cpu, got meta"),
    "chain": (lambda: mlp(t(2, 3), [t(4, 3), t(2, 5)]), ValueError, r"weights\[1\]: expected shape \[out_features, 4\]"),
    "chain's bias": (lambda: mlp(t(2, 3), [t(4, 3)] * 1, [t(3)]), ValueError, r"biases\[0\]: expected shape \[4\]"),
    "biases": (lambda: mlp(t(2, 3), [t(4, 3)], []), ValueError, "biases: expected 1, one for each of weights, got 0"),
    "activations": (lambda: mlp(t(2, 3), [t(4, 3)], None, ["relu"] * 2), ValueError, "activations: expected 1, .* got 2"),
    "no layers": (lambda: mlp(t(2, 3), []), ValueError, "weights: expected at least one layer"),
    "f's shape": (lambda: dense(t(2, 3), t(4, 3), None, lambda z: z.sum(-1)), ValueError, r"keep the shape \[2, 4\], got \[2\]"),
    "f's dtype": (lambda: dense(t(2, 3), t(4, 3), None, torch.Tensor.double), TypeError, "keep the dtype torch.float32"),
    "f's type": (lambda: dense(t(2, 3), t(4, 3), None, lambda z: 3), TypeError, "return a Tensor, got int"),
    "f's gradient": (
        lambda: dense(t(2, 3, requires_grad=True), t(4, 3), None, lambda z: z.detach()), ValueError, "expected a differentiable",
    ),
    "loss broadcasts": (lambda: half_squared_error(t(2, 3), t(2, 1)), ValueError, r"target: expected the shape .*\[2, 1\]"),
    "loss of a scalar": (lambda: half_squared_error(t(), t()), ValueError, "output: expected at least 1 dimension"),
    "labels": (lambda: half_squared_error(t(2), t(2, dtype=torch.long)), TypeError, "target: expected a real .*int64"),
    "loss dtypes": (lambda: half_squared_error(t(2), t(2).double()), TypeError, "target: expected the dtype of output"),
    "reduction": (lambda: half_squared_error(t(2), t(2), "avg"), ValueError, "reduction: expected 'mean', 'sum' or 'none'"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_activation_with_parameters_of_its_own_gets_their_gradients():
    slope = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (weight,), (bias,) = parameters([3, 2])
    check_all_modes(
        lambda x, w, b, slope: dense(x, w, b, lambda z: torch.tanh(slope * z)), (leaf_for("2-D"), weight, bias, slope)
    )


@pytest.mark.parametrize("activation", REPRESENTATIVES)
def test_gradient_need_not_be_contiguous(activation):
    x = leaf_for("2-D")
    weights, biases = parameters([3, 4, 2])
    output = mlp(x, weights, biases, activation)
    for error in (torch.randn(2, 4, dtype=torch.float64).t(), torch.randn(1, 2, dtype=torch.float64).expand(4, 2)):
        before = error.clone()
        found = torch.autograd.grad(output, (x, *weights, *biases), error, retain_graph=True)
        expected = torch.autograd.grad(plain(x, weights, biases, [activation] * 2), (x, *weights, *biases), error)
        torch.testing.assert_close(found, expected, **EXACT)
        torch.testing.assert_close(error, before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_the_df_of_an_added_row_is_not_ignored_for_a_nested_tensor(monkeypatch):
    """A Function takes no strided nested tensor. So there is an error, rather than autograd's derivative of f."""
    monkeypatch.setitem(activations.TABLE, "own", Activation("own", torch.relu, torch.ones_like))
    x, weight = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)]), torch.ones(1, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="NestedTensorImpl"):
        dense(x, weight, None, "own")
    assert dense(x, weight, None, "relu").requires_grad
