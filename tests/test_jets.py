"""The readable series of `torchann.jets` against nested torch.func, and its backward against autograd of its forward."""

import math

import pytest
import torch
from cases import (
    ACTIVATIONS,
    EXACT,
    KINDS,
    ORACLES,
    ROWS,
    STRAIGHT_THROUGH,
    of_curve,
    parameters,
    plain,
    silu,
    value_gradient_hessian,
)

from torchann import activations, jets
from torchann.functions import by_own_derivatives
from torchann.jets import Collapsed, Series, Taylor

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SPECS = {**ACTIVATIONS, "straight through": STRAIGHT_THROUGH, "SiLU": silu}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
EVERY_ACTIVATION = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def case(kind, spec, samples=4, **options):
    """A series of the input without a zero term, and the parameters of a network of two layers."""
    options = {"dtype": torch.float64, "requires_grad": True, **options}
    weights, biases = parameters([3, 4, 2], **options)
    specs = [spec, spec]
    directions = len(kind.coefficients) if isinstance(kind, Collapsed) else 2
    shape = directions, samples, 3
    shapes = [shape] * kind.order if isinstance(kind, Taylor) else [shape, shape[1:]]
    x = Series(torch.randn(samples, 3, **options), [torch.randn(shape, **options) for shape in shapes])
    return x, weights, biases, specs


def rows(specs):
    return [activations.get(spec) for spec in specs]


def differentiable(specs):
    """Rows that autograd differentiates by their own df, where it does not find the derivative of f."""
    return [by_own_derivatives(row) if row in ORACLES else row for row in rows(specs)]


def by_torch_func(kind, x, network):
    """The terms of network(x), as coefficients."""
    if isinstance(kind, Taylor):
        curve = lambda t: network(sum((t**k * term for k, term in enumerate(x.terms, 1)), x.value))  # noqa: E731
        return [found / math.factorial(k) for k, found in enumerate(of_curve(curve, x.value, kind.order), 1)]
    first, last = x.terms
    c = kind.coefficients if kind.coefficients.dim() == 2 else torch.diag(kind.coefficients)
    _, gradient, hessian = value_gradient_hessian(network, x.value)
    curvature = torch.einsum("qr,qni,noij,rnj->no", c, first, hessian, first)
    return [torch.einsum("noi,rni->rno", gradient, first), torch.einsum("noi,ni->no", gradient, last) + curvature]


def filled(series):
    """Its terms, with zeros where one is None."""
    return [torch.zeros(()) if term is None else term for term in series]


@EVERY_ACTIVATION
@EVERY_KIND
def test_forward_is_that_of_torch_func(kind, spec):
    x, weights, biases, specs = case(kind, spec, requires_grad=False)
    found = jets.forward(kind, x, weights, biases, rows(specs))[-1].o
    network = lambda x: plain(x, weights, biases, specs)  # noqa: E731
    torch.testing.assert_close(found.value, network(x.value), **CLOSE)
    torch.testing.assert_close(list(found.terms), by_torch_func(kind, x, network), **CLOSE)


@EVERY_ACTIVATION
@EVERY_KIND
@pytest.mark.parametrize("missing", [None, "input's last", "output's first", "output's last"])
def test_backward_is_that_of_autograd(kind, spec, missing):
    """With and without a last term of the input, and with ē None of a term of the output."""
    x, weights, biases, specs = case(kind, spec)
    if missing == "input's last" and kind.order > 1:
        x = Series(x.value, [*x.terms[:-1], None])
    layers = jets.forward(kind, x, weights, biases, differentiable(specs))
    outputs = [layers[-1].o.value, *layers[-1].o.terms]
    grads = [None if term is None else torch.randn_like(term) for term in outputs]
    if missing in ("output's first", "output's last"):
        grads[1 if missing == "output's first" else -1] = None
    inputs = [x.value, *weights, *biases]
    error = sum((o * grad).sum() for o, grad in zip(outputs, grads, strict=True) if grad is not None)
    expected = torch.autograd.grad(error, inputs, materialize_grads=True)
    with torch.no_grad():
        to_x, to_weights, to_biases = jets.backward(kind, grads, layers, weights, rows(specs))
    for found, wanted in zip([to_x, *to_weights, *to_biases], expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(wanted) if found is None else found, wanted, **CLOSE)


@EVERY_KIND
def test_directions_that_are_the_same_for_all_rows(kind):
    """One row of them is enough, also for the gradient of the first weight."""
    x, weights, biases, specs = case(kind, "tanh")
    one = Series(x.value, [x.terms[0][:, :1], *[None] * (kind.order - 1)])
    all_rows = Series(x.value, [one.terms[0].expand_as(x.terms[0]), *one.terms[1:]])
    found = []
    for series in (one, all_rows):
        layers = jets.forward(kind, series, weights, biases, rows(specs))
        outputs = filled([layers[-1].o.value, *layers[-1].o.terms])
        torch.manual_seed(1)
        grads = [torch.randn_like(term) for term in outputs]
        found.append((outputs, jets.backward(kind, grads, layers, weights, rows(specs))))
    torch.testing.assert_close(*found, **EXACT)


@pytest.mark.parametrize("spec", {**SPECS, **ROWS}.values(), ids={**SPECS, **ROWS})
@pytest.mark.parametrize("by", [jets.by_autograd, jets.by_transform])
@pytest.mark.parametrize("needs", [False, True])
def test_derivatives_of_an_activation(spec, by, needs):
    """f′ … f⁽⁵⁾, from a polynomial, from df and d2f, or by differentiating further."""
    activation = activations.get(spec)
    z = torch.linspace(-4, 4, 33, dtype=torch.float64)[1::2].requires_grad_(needs)  # off the kink at 0
    found = jets.derivatives(activation, z, activation.f(z), 5, by)
    expected = of_curve(lambda t: plain(z + t, [torch.eye(len(z), dtype=z.dtype)], [None], [spec]), z, 5)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(z) if mine is None else mine, reference, **CLOSE)


def test_derivatives_leave_no_graph_where_there_is_none():
    """`by_autograd` differentiates a copy of z."""
    z = torch.randn(3)
    for spec in SPECS.values():
        activation = activations.get(spec)
        found = jets.derivatives(activation, z, activation.f(z), 4, jets.by_autograd)
        assert not any(each is not None and each.requires_grad for each in found)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_derivatives_of_a_saturated_neuron_keep_their_digits(name):
    """As many as f′ has itself: in float32, o − o² loses some near 1."""
    row, z = activations.TABLE[name], torch.linspace(2, 6, 50)
    found = jets.derivatives(row, z, row.f(z), 4, jets.by_autograd)
    expected = jets.derivatives(row, z.double(), row.f(z.double()), 4, jets.by_autograd)
    first_error = ((found[0] - expected[0]) / expected[0]).abs()
    for mine, true in zip(found, expected, strict=True):
        error = (mine - true).abs() / expected[0]
        assert (error <= 30 * (first_error + torch.finfo(z.dtype).eps)).all()


def test_polynomials():
    o = torch.tensor([2.0, -3.0])
    torch.testing.assert_close(jets.evaluate([1, 0, -4], o), 1 - 4 * o * o)
    torch.testing.assert_close(jets.evaluate([7], o), torch.full_like(o, 7))
    assert jets.evaluate([], o) is None
    assert jets.evaluate([0, 0], o) is None
    assert jets.multiplied([1, 2], [3, 0, 4]) == [3, 6, 4, 8]  # (1 + 2o)(3 + 4o²)
    assert jets.derived([5, 3, 2]) == [3, 4]
    assert jets.added([1, 2], [3]) == [4, 2]
    assert jets.multiplied([], [1, 2]) in ([], [0], [0, 0])
