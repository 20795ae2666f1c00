"""`torchann.jet`, `laplacian`, `gradient` and `WithLaplacian` against nested torch.func of the same network."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import ACTIVATIONS, EXACT, GRADCHECK, SILU, SINE, STRAIGHT_THROUGH, along, plain, value_gradient_hessian
from torch import nn
from torch.nn.utils import parametrizations

import torchann
from torchann import MLP, Dense, WithLaplacian, convert, functional, gradient, jet, laplacian

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def layers(*, last="identity"):
    return MLP([3, 5, 4, 2], "tanh", last)


NETS = {
    "MLP": lambda: layers(),
    "MLP, sigmoid last": lambda: layers(last="sigmoid"),
    "Dense": lambda: Dense(3, 2, "tanh"),
    "Dense without bias": lambda: Dense(3, 2, SINE, bias=False),
    "nn.Linear": lambda: nn.Linear(3, 2),
    "nn.Sequential": lambda: nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 2)),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.GELU())), Dense(4, 2)
    ),
    "identity and dropout": lambda: nn.Sequential(
        nn.Identity(), nn.Linear(3, 4), nn.Identity(), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)
    ).eval(),
    "converted": lambda: convert(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 2))),
    "activation first": lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 2)),
    "activations twice": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Softplus(), nn.Linear(4, 2), nn.ELU(), nn.Tanh()),
    "activation alone": lambda: nn.Sequential(nn.Sigmoid()),
    "nothing": lambda: nn.Sequential(),
    "linear layers alone": lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)),
    "an MLP inside": lambda: nn.Sequential(nn.Linear(3, 3), MLP([3, 4, 2], SINE)),
    "parametrised": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)),
    "compiled": lambda: torch.compile(layers(), backend="eager"),
    "compiled inside": lambda: nn.Sequential(torch.compile(nn.Linear(3, 4), backend="eager"), nn.Tanh(), nn.Linear(4, 2)),
}  # fmt: skip
COEFFICIENTS = {
    "none": None,
    "positive": [1.0, 2, 0.5],
    "indefinite": [1.0, -1, 0],
    "zeros": [0.0, 0, 0],
    "one": [0.0, 0, 1],
    "C definite": [[2.0, 0.5, 0], [0.5, 1, 0.3], [0, 0.3, 3]],
    "C indefinite": [[1.0, 2, 0], [2, -1, 0.5], [0, 0.5, 0]],
    "C of rank 1": [[1.0, 2, 3], [2, 4, 6], [3, 6, 9]],
}
SHAPES = [(5, 3), (1, 3), (0, 3), (3,), (2, 4, 3), (3, 3, 3), (2, 0, 3), (1, 1, 3)]


@pytest.fixture(params=NETS.values(), ids=NETS)
def net(request):
    return request.param().double()


def random(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


def coefficients_named(name):
    return None if COEFFICIENTS[name] is None else torch.tensor(COEFFICIENTS[name], dtype=torch.float64)


def plain_laplacian(net, x, coefficients=None):
    """By the whole Hessian: u, ∇u and Σ Cᵢⱼ ∂ᵢ∂ⱼ u for x [N, I]."""
    with torch.compiler.set_stance("force_eager"):
        value, gradient, hessian = value_gradient_hessian(net, x)
    c = torch.ones(x.shape[-1], dtype=x.dtype) if coefficients is None else coefficients
    c = c if c.dim() == 2 else torch.diag(c)
    return value, gradient, torch.einsum("noij,ij->no", hessian, c)


def gradients(outputs, inputs, create_graph=False):
    """Of a number that weighs each entry of the outputs differently."""
    error = sum((output + 0.3).sin().sum() for output in outputs)
    return torch.autograd.grad(error, inputs, create_graph=create_graph, materialize_grads=True)


# --- Values and first derivatives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "indefinite", "C indefinite"])
def test_laplacian(net, name):
    check_laplacian(net, name)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_coefficients(name):
    check_laplacian(layers().double(), name)


def check_laplacian(net, name):
    x, c = random(5, 3, requires_grad=True), coefficients_named(name)
    found, expected = laplacian(net, x, c), plain_laplacian(net, x, c)
    torch.testing.assert_close(tuple(found), expected, **CLOSE)
    inputs = [x, *net.parameters()]
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs), **CLOSE)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("directions", [None, (2, 3), (2, 5, 3)], ids=["units", "same", "per sample"])
def test_jet(net, order, directions):
    check_jet(net, order, directions)


@pytest.mark.parametrize("order", [2, 4, 5])
@pytest.mark.parametrize("directions", [None, (2, 5, 3), (0, 3)], ids=["units", "per sample", "none"])
def test_orders(order, directions):
    for name in ("MLP", "nn.Sequential"):
        check_jet(NETS[name]().double(), order, directions)


def check_jet(net, order, directions):
    x = random(5, 3, requires_grad=True)
    v = torch.eye(3, dtype=x.dtype) if directions is None else random(*directions)
    found = jet(net, x, None if directions is None else v, order=order)
    with torch.compiler.set_stance("force_eager"):
        expected = [net(x), *along(net, x, v if v.dim() == 3 else v[:, None], order)]
    assert len(found.derivatives) == order
    torch.testing.assert_close([found.value, *found.derivatives], expected, **CLOSE)
    inputs = [x, *net.parameters()]
    torch.testing.assert_close(
        gradients([found.value, *found.derivatives], inputs), gradients(expected, inputs), **CLOSE
    )


def test_a_parameter_of_an_activation_is_differentiated():
    """PReLU's, and a tensor that a plain callable closes over."""
    slope, x, v = random(1, requires_grad=True), random(5, 3), random(2, 1, 3)
    prelu, own = nn.PReLU(dtype=x.dtype), lambda z: (slope * z).sin()
    net, own_net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), prelu).double(), Dense(3, 2, own).double()
    for each, parameter in ((net, prelu.weight), (own_net, slope)):
        found, expected = jet(each, x, v[:, 0]).derivatives, along(each, x, v, 2)
        torch.testing.assert_close(list(found), expected, **CLOSE)
        torch.testing.assert_close(gradients(found, [parameter]), gradients(expected, [parameter]), **CLOSE)


def test_gradient(net):
    x = random(5, 3)
    torch.testing.assert_close(gradient(net, x), plain_laplacian(net, x)[1], **CLOSE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["none", "indefinite", "C indefinite"])
@pytest.mark.parametrize("which", ["MLP", "activation first", "activations twice"])
def test_shapes(which, shape, name):
    """Leading dimensions are those of x; each sample has what it has alone."""
    net, x, c = NETS[which]().double(), random(*shape, requires_grad=True), coefficients_named(name)
    v = random(4, *shape)
    found, along_same, along_own = laplacian(net, x, c), jet(net, x, v.reshape(-1, 3)[:2], 3), jet(net, x, v, 3)
    lead, directions = shape[:-1], min(2, len(v.reshape(-1, 3)))
    assert [each.shape for each in found] == [(*lead, 2), (*lead, 2, 3), (*lead, 2)]
    assert [each.shape for each in along_same.derivatives] == [(directions, *lead, 2)] * 3
    assert [each.shape for each in along_own.derivatives] == [(4, *lead, 2)] * 3
    assert gradient(net, x).shape == (*lead, 2, 3)
    rows = x.reshape(-1, 3)
    flat = laplacian(net, rows, c)
    torch.testing.assert_close([each.reshape(other.shape) for each, other in zip(found, flat, strict=True)], list(flat))
    flat_jet = jet(net, rows, v.reshape(4, -1, 3), 3).derivatives
    torch.testing.assert_close([each.reshape(4, -1, 2) for each in along_own.derivatives], list(flat_jet))
    outputs = [*found, *along_own.derivatives]
    to_x, *_ = gradients(outputs, [x, *net.parameters()])
    assert to_x.shape == shape


@pytest.mark.parametrize(
    ("shape", "arrange"),
    [((3, 5), lambda x: x.t()), ((5, 6), lambda x: x[:, ::2]), ((1, 3), lambda x: x.expand(4, 3))],
    ids=["transposed", "non-contiguous", "expanded"],
)
def test_strided_inputs(shape, arrange):
    net, x = layers().double(), arrange(random(*shape))
    v = random(3, 2).t()
    torch.testing.assert_close(tuple(laplacian(net, x)), tuple(laplacian(net, x.contiguous())), **EXACT)
    torch.testing.assert_close(jet(net, x, v).derivatives, jet(net, x, v.contiguous()).derivatives, **EXACT)


@pytest.mark.parametrize("spec", [*ACTIVATIONS.values(), STRAIGHT_THROUGH], ids=[*ACTIVATIONS, "straight through"])
@pytest.mark.parametrize("implementation", ["auto", "readable"])
def test_activations(spec, implementation):
    """The readable implementation gives the same; a df that is not the derivative of f is used in both."""
    net, x = MLP([3, 4, 2], spec, dtype=torch.float64), random(5, 3, requires_grad=True)
    weights, biases = zip(*((layer.weight, layer.bias) for layer in net.layers), strict=True)
    composition = lambda x: plain(x, weights, biases, [spec, spec])  # noqa: E731
    inputs, v = [x, *net.parameters()], random(2, 1, 3)
    with torchann.implementation(implementation):
        found = [*laplacian(net, x), *jet(net, x, v[:, 0], 4).derivatives]
        first = gradients(found, inputs, create_graph=True)
        second = gradients(first, inputs)
    _, slope, hessian = value_gradient_hessian(composition, x)
    expected = [composition(x), slope, hessian.diagonal(dim1=-2, dim2=-1).sum(-1), *along(composition, x, v, 4)]
    expected_first = gradients(expected, inputs, create_graph=True)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(first, expected_first, **CLOSE)
    torch.testing.assert_close(second, gradients(expected_first, inputs), rtol=1e-7, atol=1e-7)


def test_relu_has_the_convention_of_pytorch():
    """f′(0) = 0, and a curvature of zero on both sides: so a second derivative sees nothing of the kinks."""
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.zero_()
    x = torch.tensor([[-1.0], [0], [1]], dtype=torch.float64)
    found = laplacian(net, x)
    torch.testing.assert_close(tuple(found), plain_laplacian(net, x), **EXACT)
    assert found.gradient[:2].eq(0).all()
    assert found.laplacian.eq(0).all()


def test_maps_of_the_inputs_in_front():
    """`functional` takes series: here of Fourier features."""
    net = layers().double()
    weights, biases = [layer.weight for layer in net.layers], [layer.bias for layer in net.layers]
    features = lambda x: torch.cat([x.sin(), x.cos(), x * x.sin()], -1)  # noqa: E731
    x = random(5, 1)
    terms = [found[None] for found in along(features, x, torch.ones_like(x), 3)]
    value, found = functional.jet(features(x), terms, weights, biases, ["tanh", "tanh", "identity"])
    expected = along(lambda x: net(features(x)), x, torch.ones_like(x)[None], 3)
    torch.testing.assert_close([value, *found], [net(features(x)), *expected], **CLOSE)
    value, first, second = functional.laplacian(
        features(x), weights, biases, ["tanh", "tanh", "identity"], tangents=terms[0], second=terms[1][0]
    )
    torch.testing.assert_close([value, first, second], [net(features(x)), expected[0], expected[1][0]], **CLOSE)


# --- Further derivatives ----------------------------------------------------------------------------------------------

HIGHER = {
    "laplacian": lambda specs, x, v, c, *p: functional.laplacian(x, p[:2], p[2:], specs),
    "c": lambda specs, x, v, c, *p: functional.laplacian(x, p[:2], p[2:], specs, c),
    "C": lambda specs, x, v, c, *p: functional.laplacian(x, p[:2], p[2:], specs, c[:, None] * c),
    "along, with a second term": lambda specs, x, v, c, *p: functional.laplacian(
        x, p[:2], p[2:], specs, c, tangents=v, second=v[0]
    ),
    **{
        f"jet of order {order}": lambda specs, x, v, c, *p, order=order: tuple(
            functional.jet(x, [v, v.cos(), None, v.sin()][:order], p[:2], p[2:], specs)[1]
        )
        for order in (1, 2, 3, 4)
    },
}


@pytest.mark.parametrize("differentiated", ["all", "x and parameters"])
@pytest.mark.parametrize("specs", [["tanh", "sigmoid"], [SINE, SILU]], ids=["table", "own"])
@pytest.mark.parametrize(
    "function",
    [pytest.param(each, id=name, marks=[pytest.mark.slow] * (name[-1] in "34")) for name, each in HIGHER.items()],
)
def test_first_second_and_third_derivatives(function, specs, differentiated):
    """The third along a random direction, against central differences of the second."""
    tensors = [random(2, 2), random(2, 2, 2), random(2), random(2, 2), random(1, 2), random(2), random(1)]
    needs = [differentiated == "all" or index not in (1, 2) for index in range(len(tensors))]
    inputs = [tensor.requires_grad_(need) for tensor, need in zip(tensors, needs, strict=True)]
    function = partial(function, specs)
    torch.autograd.gradcheck(function, inputs, **GRADCHECK)
    torch.autograd.gradgradcheck(function, inputs, **GRADCHECK)
    move = [torch.randn_like(each) if each.requires_grad else None for each in inputs]
    step = 1e-5
    plus, minus = (
        second_along(
            function,
            [a if v is None else (a + e * v).detach().requires_grad_() for a, v in zip(inputs, move, strict=True)],
            move,
        )
        for e in (step, -step)
    )
    third = directional(second_along(function, inputs, move), inputs, move)
    torch.testing.assert_close(third, (plus - minus) / (2 * step), rtol=1e-6, atol=1e-6)


def second_along(function, inputs, move):
    """The second derivative of a number made of the function's outputs."""
    error = sum((output + 0.3).sin().sum() for output in function(*inputs))
    return directional(directional(error, inputs, move), inputs, move)


def directional(number, inputs, move):
    """Its derivative along `move`, differentiable."""
    pairs = [(a, v) for a, v in zip(inputs, move, strict=True) if v is not None]
    found = torch.autograd.grad(number, [a for a, _ in pairs], create_graph=True, materialize_grads=True)
    return sum((g * v).sum() for g, (_, v) in zip(found, pairs, strict=True))


def test_backward_twice_gives_the_same():
    """With retain_graph, and after create_graph, which takes the readable sweeps."""
    net, x = layers().double(), random(5, 3, requires_grad=True)
    error = laplacian(net, x).laplacian.square().sum()
    inputs = [x, *net.parameters()]
    first = torch.autograd.grad(error, inputs, retain_graph=True)
    readable = torch.autograd.grad(error, inputs, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(error, inputs), first, rtol=0, atol=0)
    torch.testing.assert_close(readable, first, **EXACT)


def test_batched_gradients():
    net, x = layers().double(), random(4, 3, requires_grad=True)
    inputs = [x, *net.parameters()]
    output = laplacian(net, x).laplacian
    basis = torch.eye(8, dtype=x.dtype).reshape(8, 4, 2)
    batched = torch.autograd.grad(output, inputs, basis, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(output, inputs, each, retain_graph=True) for each in basis]
    torch.testing.assert_close(batched, tuple(map(torch.stack, zip(*single, strict=True))), **EXACT)


def test_frozen_parameters():
    net, x = layers().double(), random(5, 3)
    expected = dict(zip(net.state_dict(), gradients(laplacian(net, x), list(net.parameters())), strict=True))
    for kept in ("layers.0", "layers.2", "weight", "layers.1.bias", "nothing"):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(kept in name)
        found = laplacian(net, x)
        wanted = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        assert found.laplacian.requires_grad == bool(wanted)
        if wanted:
            torch.testing.assert_close(
                gradients(found, list(wanted.values())), tuple(expected[name] for name in wanted), **EXACT
            )


# --- What is kept -----------------------------------------------------------------------------------------------------


def saved_bytes(compute):
    """The memory of what autograd saves while `compute` runs."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = compute()
    return found, sum(storages.values())


def test_without_gradients_nothing_is_kept():
    net, x = layers().double(), random(5, 3)
    with torch.no_grad():
        found, kept = saved_bytes(lambda: laplacian(net, x))
    assert kept == 0
    assert not any(each.requires_grad or each.grad_fn for each in found)
    torch.testing.assert_close(tuple(found), plain_laplacian(net, x), **CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(tuple(laplacian(net, x)), tuple(found), rtol=0, atol=0)


def test_less_is_kept_than_by_nested_autograd():
    net = MLP([2, 32, 32, 32, 1], "tanh", "identity")
    x = torch.randn(500, 2, requires_grad=True)

    def nested():
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return [torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)]

    assert saved_bytes(lambda: laplacian(net, x))[1] <= 0.5 * saved_bytes(nested)[1]


def test_saved_tensors_hooks_see_all_that_is_kept():
    """Packed as NumPy arrays, the gradients are the same."""
    net, x = layers().double(), random(5, 3, requires_grad=True)
    inputs = [x, *net.parameters()]
    expected = gradients(laplacian(net, x), inputs)
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.detach().numpy().copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        found = laplacian(net, x)
    assert packed
    torch.testing.assert_close(gradients(found, inputs), expected, rtol=0, atol=0)


def test_a_change_of_what_was_saved_is_noticed():
    net, x = layers().double(), random(5, 3)
    found = laplacian(net, x)
    with torch.no_grad():
        net.layers[1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.laplacian.sum().backward()


# --- Under what else PyTorch does -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLP", "nested", "converted", "activations twice"])
def test_compile(name):
    """In one graph, with gradients."""
    torch._dynamo.reset()
    net, x, v = NETS[name]().double(), random(5, 3, requires_grad=True), random(2, 3)
    compute = lambda x: (*laplacian(net, x, c), *jet(net, x, v, 3).derivatives, gradient(net, x))  # noqa: E731
    c = torch.tensor([1.0, -1, 0.5], dtype=x.dtype)
    inputs = [x, *net.parameters()]
    found, expected = torch.compile(compute, fullgraph=True, backend="aot_eager")(x), compute(x)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs), **CLOSE)


def test_compile_refuses_a_df_that_autograd_would_not_find():
    torch._dynamo.reset()
    net = MLP([3, 2], STRAIGHT_THROUGH)
    with pytest.raises(Exception, match=r"'straight through': a jet under torch\.compile keeps f alone"):
        torch.compile(lambda x: laplacian(net, x), fullgraph=True, backend="aot_eager")(torch.randn(4, 3))


@pytest.mark.parametrize("coefficients", ["none", "indefinite", "C indefinite"])
def test_vmap(coefficients):
    net, x, c = layers().double(), random(5, 3), coefficients_named(coefficients)
    found = torch.func.vmap(lambda x: laplacian(net, x, c))(x)
    torch.testing.assert_close(tuple(found), tuple(laplacian(net, x, c)), **EXACT)
    found = torch.func.vmap(lambda x, v: jet(net, x, v, 3))(x, random(5, 2, 3))
    assert found.derivatives[2].shape == (5, 2, 2)


def test_vmap_over_networks():
    nets, x = [layers().double() for _ in range(3)], random(4, 3)
    stacked, _ = torch.func.stack_module_state(nets)
    base = WithLaplacian(copy.deepcopy(nets[0]))
    named = {f"net.{name}": each for name, each in stacked.items()}
    found = torch.func.vmap(lambda p: torch.func.functional_call(base, p, (x,)))(named)
    expected = map(torch.stack, zip(*(laplacian(net, x) for net in nets), strict=True))
    torch.testing.assert_close(tuple(found), tuple(expected), **EXACT)


def test_functional_call_and_func_grad():
    model, x = WithLaplacian(layers().double()), random(5, 3)
    parameters = {name: each.detach() * 2 for name, each in model.named_parameters()}
    error = lambda p: torch.func.functional_call(model, p, (x,)).laplacian.square().sum()  # noqa: E731
    found = torch.func.grad(error)(parameters)
    twice = copy.deepcopy(model)
    twice.load_state_dict(parameters)
    twice(x).laplacian.square().sum().backward()
    torch.testing.assert_close(found, {name: each.grad for name, each in twice.named_parameters()}, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["none", "indefinite", "C indefinite"])
def test_autocast_has_the_dtypes_of_linear(dtype, name):
    net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype), torch.randn(6, 3, dtype=dtype)
    c = None if name == "none" else torch.tensor(COEFFICIENTS[name], dtype=dtype)
    truth = plain_laplacian(copy.deepcopy(net).double(), x.double(), None if c is None else c.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = laplacian(net, x, c), net(x).dtype
        along_v = jet(net, x, order=3)
    assert {each.dtype for each in (*found, along_v.value, *along_v.derivatives)} == {expected}
    for mine, true in zip(found, truth, strict=True):
        assert (mine - true).norm() <= 16 * torch.finfo(expected).eps * (1 + true.norm())
    found.laplacian.sum().backward()
    assert all(parameter.grad.dtype == dtype for parameter in net.parameters() if parameter.grad is not None)


def test_autocast_takes_what_has_another_dtype():
    """As `F.linear` does under autocast, and as it refuses float64 beside float32."""
    net, x, c, v = nn.Sequential(nn.Tanh(), nn.Linear(3, 2)), torch.randn(6, 3), torch.randn(3), torch.randn(2, 3)
    parameters = [net[1].weight], [net[1].bias], "tanh"
    low, curves = x.bfloat16(), v[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [
            *laplacian(net, low, c),
            *jet(net, low, v).derivatives,
            *functional.jet(low, [curves, x.expand(2, 6, 3)], *parameters)[1],
            *functional.laplacian(low, *parameters, c[:2], tangents=curves, second=x),
        ]
        same = [
            *laplacian(net, low, c.bfloat16()),
            *jet(net, low, v.bfloat16()).derivatives,
            *functional.jet(low, [curves.bfloat16(), low.expand(2, 6, 3)], *parameters)[1],
            *functional.laplacian(low, *parameters, c[:2].bfloat16(), tangents=curves.bfloat16(), second=low),
        ]
        with pytest.raises(
            TypeError, match=r"^coefficients: expected the dtype of x, torch.float32, got torch.float64"
        ):
            laplacian(net, x, c.double())
    assert {each.dtype for each in mixed} == {torch.bfloat16}
    torch.testing.assert_close(mixed, same, rtol=0, atol=0)


def test_meta_tensors():
    for shape in (None, (3,), (3, 3)):
        c = None if shape is None else torch.empty(shape, device="meta")
        found = laplacian(layers().to("meta"), torch.randn(5, 3, device="meta"), c)
        assert [each.shape for each in found] == [(5, 2), (5, 2, 3), (5, 2)]


def test_threads_share_a_network():
    from concurrent.futures import ThreadPoolExecutor

    net, inputs = layers().double(), random(8, 5, 3)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: laplacian(net, x).laplacian, inputs))
    torch.testing.assert_close(torch.stack(found), laplacian(net, inputs).laplacian, **EXACT)


# --- WithLaplacian ----------------------------------------------------------------------------------------------------


def test_with_laplacian_is_copied_pickled_saved_and_moved():
    c = torch.tensor([1.0, 0, -1])
    model, x = WithLaplacian(layers(), c), torch.randn(5, 3)
    assert set(model.state_dict()) == {"coefficients", *(f"net.{name}" for name in model.net.state_dict())}
    expected = tuple(laplacian(model.net, x, c))
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    other = WithLaplacian(layers(), torch.zeros(3))
    other.load_state_dict(model.state_dict())
    for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, other):
        torch.testing.assert_close(tuple(each(x)), expected, rtol=0, atol=0)
    assert copy.deepcopy(model).double()(x.double()).laplacian.dtype == torch.float64
    assert WithLaplacian(layers()).state_dict().keys() == model.state_dict().keys() - {"coefficients"}
    torch.testing.assert_close(tuple(WithLaplacian(model.net)(x)), tuple(laplacian(model.net, x)), rtol=0, atol=0)


DISTRIBUTED = """
import copy, os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torchann import MLP, WithLaplacian

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
dist.init_process_group("gloo", rank=0, world_size=1, init_method="file://" + sys.argv[1])
alone = WithLaplacian(MLP([3, 4, 2], "tanh", dtype=torch.float64), torch.tensor([1.0, -1, 0], dtype=torch.float64))
model = DistributedDataParallel(copy.deepcopy(alone))
x = torch.randn(5, 3, dtype=torch.float64)
for each in (alone, model):
    found = each(x)
    (found.laplacian.square().sum() + found.gradient.sin().sum()).backward()
for one, other in zip(alone.parameters(), model.parameters(), strict=True):
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    """One process; what several add is DDP's own."""
    command = [sys.executable, "-c", DISTRIBUTED, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr


# --- What is refused --------------------------------------------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def hooked(register):
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    getattr(net[0], register)(lambda *_: None)
    return net


def with_other_forward():
    net = nn.Linear(3, 2)
    net.forward = lambda x: x
    return nn.Sequential(net)


REFUSED = {
    "dropout in training": (lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout()), r"net\[1\]: a Dropout in training can't"),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval(), r"net\[1\]: a BatchNorm1d can't be"),
    "attention": (lambda: nn.Sequential(nn.Sequential(nn.MultiheadAttention(3, 1))), r"net\[0\]\[0\]: a MultiheadAttention"),
    "softmax": (lambda: nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1)), r"net\[1\]: a Softmax can't"),
    "random activation": (lambda: nn.Sequential(nn.RReLU()), r"net\[0\]: a RReLU can't"),
    "a module of the user's": (lambda: WithLaplacian(layers()), "net: a WithLaplacian can't"),
    "no module": (lambda: torch.tanh, "net: expected an nn.Module, got "),
    "forward hook": (lambda: hooked("register_forward_hook"), r"net\[0\]: a Linear with hooks can't"),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), r"net\[0\]: a Linear with hooks can't"),
    "backward hook": (lambda: hooked("register_full_backward_hook"), r"net\[0\]: a Linear with hooks can't"),
    "another forward": (with_other_forward, r"net\[0\]: a Linear with hooks can't"),
    "a subclass of nn.Linear": (lambda: nn.Sequential(Doubled(3, 2)), r"net\[0\]: a Doubled can't be .* forward of its own"),
    "a subclass of nn.Sequential": (lambda: Residual(nn.Linear(3, 3)), "net: a Residual can't be .* forward of its own"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("function", [laplacian, jet, gradient])
def test_layers_that_cant_be_in_a_jet(function, make, message):
    with pytest.raises(TypeError, match=f"^{message}") as caught:
        function(make(), torch.randn(5, 3))
    assert "\n" not in str(caught.value)


def test_a_subclass_that_keeps_its_forward_is_taken():
    class Named(nn.Linear):
        pass

    net, x = nn.Sequential(Named(3, 2), nn.Tanh()).double(), random(5, 3)
    torch.testing.assert_close(tuple(laplacian(net, x)), plain_laplacian(net, x), **CLOSE)


X = torch.randn(5, 3)
BAD = {
    "x no tensor": (lambda net: laplacian(net, [1.0]), TypeError, "x: expected a Tensor, got list"),
    "x of integers": (lambda net: laplacian(net, torch.ones(5, 3, dtype=torch.long)), TypeError, "x: expected a real floating-point tensor, got torch.int64"),
    "x a scalar": (lambda net: laplacian(net, torch.tensor(1.0)), ValueError, "x: expected at least 1 dimension"),
    "x a scalar, jet": (lambda net: jet(net, torch.tensor(1.0)), ValueError, "x: expected at least 1 dimension"),
    "x a scalar, gradient": (lambda net: gradient(net, torch.tensor(1.0)), ValueError, "x: expected at least 1 dimension"),
    "x too wide": (lambda net: laplacian(net, torch.ones(5, 4)), ValueError, "weights[0]: expected shape [out_features, 4]"),
    "x of another dtype": (lambda net: jet(net, X.double()), TypeError, "weights[0]: expected the dtype of x, torch.float64"),
    "order 0": (lambda net: jet(net, X, order=0), ValueError, "order: expected a positive integer, got 0"),
    "order a float": (lambda net: jet(net, X, order=1.5), ValueError, "order: expected a positive integer, got 1.5"),
    "order a bool": (lambda net: jet(net, X, order=True), ValueError, "order: expected a positive integer, got True"),
    "directions no tensor": (lambda net: jet(net, X, [1, 0, 0]), TypeError, "directions: expected a Tensor, got list"),
    "directions too wide": (lambda net: jet(net, X, torch.ones(2, 4)), ValueError, "directions: expected shape [R, 3] or [R, 5, 3], got [2, 4]"),
    "directions of a vector": (lambda net: jet(net, X, torch.ones(3)), ValueError, "directions: expected shape [R, 3] or [R, 5, 3], got [3]"),
    "directions of a scalar": (lambda net: jet(net, X, torch.tensor(1.0)), ValueError, "directions: expected shape [R, 3] or [R, 5, 3], got []"),
    "directions of other samples": (lambda net: jet(net, X, torch.ones(2, 4, 3)), ValueError, "directions: expected shape [R, 3] or [R, 5, 3], got [2, 4, 3]"),
    "directions' dtype": (lambda net: jet(net, X, torch.ones(2, 3).double()), TypeError, "directions: expected the dtype of x, torch.float32, got torch.float64"),
    "coefficients' dtype": (lambda net: laplacian(net, X, torch.ones(3).double()), TypeError, "coefficients: expected the dtype of x, torch.float32, got torch.float64"),
    "directions' device": (lambda net: jet(net, X, torch.ones(2, 3, device="meta")), ValueError, "directions: expected the device of x, cpu, got meta"),
    "coefficients no tensor": (lambda net: laplacian(net, X, 1.0), TypeError, "coefficients: expected a Tensor, got float"),
    "too few coefficients": (lambda net: laplacian(net, X, torch.ones(2)), ValueError, "coefficients: expected shape [3] or [3, 3], got [2]"),
    "coefficients not symmetric": (lambda net: laplacian(net, X, torch.eye(3).roll(1, 0)), ValueError, "coefficients: expected a symmetric matrix"),
    "coefficients' device": (lambda net: laplacian(net, X, torch.ones(3, device="meta")), ValueError, "coefficients: expected the device of x, cpu, got meta"),
    "integer coefficients": (lambda net: laplacian(net, X, torch.ones(3, dtype=torch.long)), TypeError, "coefficients: expected a real floating-point tensor"),
    "no terms": (lambda net: functional.jet(X, [], [net.layers[0].weight]), ValueError, "terms: expected at least a first derivative of x"),
    "a term's shape": (lambda net: functional.jet(X, [X], [net.layers[0].weight]), ValueError, "terms[0]: expected shape [R, 5, 3], got [5, 3]"),
    "a second term's shape": (lambda net: functional.jet(X, [X[None], X[None, :2]], [net.layers[0].weight]), ValueError, "terms[1]: expected shape [R, 5, 3], got [1, 2, 3]"),
    "terms of other counts": (lambda net: functional.jet(X, [X[None], torch.ones(2, 5, 3)], [net.layers[0].weight]), ValueError, "terms[1]: expected R = 1, as terms[0] has, got 2"),
    "a term's dtype": (lambda net: functional.jet(X, [X[None].double()], [net.layers[0].weight]), TypeError, "terms[0]: expected the dtype of x"),
    "second's shape": (lambda net: functional.laplacian(X, [net.layers[0].weight], second=X[:2]), ValueError, "second: expected shape [5, 3], got [2, 3]"),
    "second's dtype": (lambda net: functional.laplacian(X, [net.layers[0].weight], second=X.double()), TypeError, "second: expected the dtype of x"),
    "tangents' shape": (lambda net: functional.laplacian(X, [net.layers[0].weight], tangents=X), ValueError, "tangents: expected shape [R, 5, 3], got [5, 3]"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(call, error, message):
    with pytest.raises(error) as caught:
        call(layers())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        laplacian(layers(), torch.randn(5, 3, requires_grad=True)).laplacian.sum().backward()
