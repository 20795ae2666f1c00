"""The series in blocks of `torchann.fast.series` against the readable ones of `torchann.jets`."""

import math
from itertools import product

import pytest
import torch
from cases import EXACT, KINDS, OWN_SIGMOID, REPRESENTATIVES, SILU, SINE, STRAIGHT_THROUGH, parameters
from torch import nn
from torch.nn import functional as F

from torchann import activations, jets
from torchann.fast import series
from torchann.fast.series import InBlocks
from torchann.jets import Collapsed, Series
from torchann.sweeps import NeedsGrad

NETWORKS = {
    **{f"{name}, identity": [name, name, "identity"] for name in REPRESENTATIVES},
    **{f"{name} last": ["tanh", name] for name in REPRESENTATIVES},
    "one layer": ["sigmoid"],
    "identity below": ["identity", "tanh", "identity"],
    "mixed": ["sigmoid", SINE, "tanh", "relu"],
    "own, then the table": [SINE, "tanh"],
    "without d2f": [SILU, SILU, "identity"],
    "reading the output": ["tanh", OWN_SIGMOID],
    "straight through": ["tanh", STRAIGHT_THROUGH],
    "callables": [nn.SiLU(), F.gelu, "identity"],
}
# The same float64 operations up to the order of sums; terms of order 4 are of some hundreds, and nearly cancel.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}
TERMS = {  # which terms the input has
    "shared": lambda terms: [terms[0][:, :1], *[None] * (len(terms) - 1)],
    "per sample": lambda terms: [terms[0], *[None] * (len(terms) - 1)],
    "all": lambda terms: terms,
    "shared first, and the last": lambda terms: [terms[0][:, :1], *[None] * (len(terms) - 2), *terms[1:][-1:]],
}
CASES = [*product([7], TERMS), *product([1, 0], ["shared", "all"])]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def case(kind, specs, samples, which="all"):
    weights, biases = parameters([*[3, 5, 4, 3][: len(specs)], 2], requires_grad=False)
    biases[0] = biases[0] if len(specs) > 1 else None
    directions = len(kind.coefficients) if isinstance(kind, Collapsed) else 3
    shape = directions, samples, 3
    shapes = [shape, shape[1:]] if isinstance(kind, Collapsed) else [shape] * kind.order
    x = torch.randn(samples, 3, dtype=torch.float64)
    terms = TERMS[which]([torch.randn(shape, dtype=x.dtype) for shape in shapes])
    return Series(x, terms), weights, biases, [activations.get(spec) for spec in specs]


def dense(terms, like):
    """Terms in full shape, with zeros where one is None."""
    return [torch.zeros_like(b) if a is None else a.expand_as(b) for a, b in zip(terms, like, strict=True)]


def in_blocks(kind, x, weights, biases, rows, needs=None):
    """The output's stack, its terms, a gradient of it, and what that gives for x, each W and each b."""
    plan = InBlocks(kind, x.terms[0].shape[0], rows)
    output, kept = plan.forward(x, weights, biases, keep=True)
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(output.shape, dtype=output.dtype, generator=generator)
    before = [tensor.clone() for tensor in (grad, output, *weights)]
    depth = len(weights)
    found = plan.backward(grad, x, weights, kept, needs or NeedsGrad(True, [True] * depth, [True] * depth))
    torch.testing.assert_close([grad, output, *weights], before, rtol=0, atol=0)  # nothing is written over
    return [output[0], *plan.terms(output)], [grad[0], *plan.terms(grad)], [found.x, *found.weights, *found.biases]


def readable(kind, x, weights, biases, rows, grads):
    layers = jets.forward(kind, x, weights, biases, rows)
    to_x, to_weights, to_biases = jets.backward(kind, grads, layers, weights, rows)
    return [layers[-1].o.value, *layers[-1].o.terms], [to_x, *to_weights, *to_biases]


def assert_same(kind, *case):
    found, grads, gradients = in_blocks(kind, *case)
    expected, expected_gradients = readable(kind, *case, grads)
    torch.testing.assert_close(found, dense(expected, found), **CLOSE)
    torch.testing.assert_close(gradients, dense(expected_gradients, gradients), **CLOSE)


@pytest.mark.parametrize("specs", NETWORKS.values(), ids=NETWORKS)
@EVERY_KIND
def test_every_case(kind, specs):
    for samples, which in CASES:
        assert_same(kind, *case(kind, specs, samples, which))


@pytest.mark.parametrize("specs", [NETWORKS["tanh, identity"], NETWORKS["mixed"]], ids=["tanh", "mixed"])
@pytest.mark.parametrize("samples", [2, 7, 12])
@EVERY_KIND
def test_several_blocks(kind, samples, specs, monkeypatch):
    monkeypatch.setattr(series, "BLOCK_BYTES", 1)
    monkeypatch.setattr(series, "MIN_ROWS", 3)
    for which in TERMS:
        x, weights, *others = case(kind, specs, samples, which)
        assert InBlocks(kind, 1, ()).rows(samples, weights) <= 3
        assert_same(kind, x, weights, *others)


@pytest.mark.parametrize("samples", [0, 1, 31, 32, 33, 100, 1000])
def test_blocks_are_about_as_large(samples, monkeypatch):
    monkeypatch.setattr(series, "BLOCK_BYTES", 1)
    rows = InBlocks(KINDS["ones"], 3, ()).rows(samples, [torch.ones(5, 3)])
    x = Series(torch.arange(float(samples))[:, None], [torch.ones(3, 1, 1), None])
    sizes = [len(block.value) for _, block in series.blocks(x, rows)]
    assert sum(sizes) == samples
    assert max(sizes) <= series.MIN_ROWS
    assert len(sizes) == max(-(-samples // series.MIN_ROWS), 1)


NEEDS = {
    "x alone": NeedsGrad(True, [False] * 3, [False] * 3),
    "parameters": NeedsGrad(False, [True] * 3, [True] * 3),
    "weights": NeedsGrad(False, [True] * 3, [False] * 3),
    "biases": NeedsGrad(False, [False] * 3, [True] * 3),
    "first frozen": NeedsGrad(False, [False, True, True], [False, True, True]),
    "last bias": NeedsGrad(False, [False] * 3, [False, False, True]),
    "middle weight": NeedsGrad(False, [False, True, False], [False] * 3),
    "nothing": NeedsGrad(False, [False] * 3, [False] * 3),
}


@pytest.mark.parametrize("needs", NEEDS.values(), ids=NEEDS)
@EVERY_KIND
def test_gradients_that_are_needed(kind, needs):
    """The others are None."""
    for specs, which in product((["sigmoid", "tanh", "identity"], [SINE, "tanh", SINE]), ("shared", "all")):
        x, weights, biases, rows = case(kind, specs, 5, which)
        *_, found = in_blocks(kind, x, weights, biases, rows, needs)
        *_, every = in_blocks(kind, x, weights, biases, rows)
        wanted = [needs.x, *needs.weights, *needs.biases]
        assert [gradient is not None for gradient in found] == wanted
        expected = [gradient if want else None for gradient, want in zip(every, wanted, strict=True)]
        torch.testing.assert_close(found, expected, **EXACT)


@EVERY_KIND
def test_without_backward_nothing_is_kept(kind):
    x, weights, biases, rows = case(kind, ["tanh", SINE, "identity"], 5)
    plan = InBlocks(kind, x.terms[0].shape[0], rows)
    output, kept = plan.forward(x, weights, biases, keep=False)
    assert kept == []
    torch.testing.assert_close(output, plan.forward(x, weights, biases, keep=True)[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_backward_of_sigmoid_and_tanh_keeps_outputs_alone(name):
    """One stack a layer; of the first layer, whose terms can be computed again, the value; of the last nothing."""
    kind, samples = KINDS["ones"], 6
    x, weights, biases, rows = case(kind, [name, name, "identity"], samples, "shared")
    _, ((first, second, last),) = InBlocks(kind, 3, rows).forward(x, weights, biases, keep=True)
    assert (first.outputs, first.z, last) == (None, None, series.Kept(None))
    assert first.value.shape == (samples, 5)
    assert first.value.untyped_storage().nbytes() == samples * 5 * 8
    assert (second.z, second.value, second.outputs.shape) == (None, None, (5, samples, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EVERY_KIND
def test_other_dtypes(kind, dtype):
    """As near to float64 as the readable series, whose operations round as often.

    In one draw the errors of two ways to round may differ tenfold, as terms cancel. Over 20 draws the mean of the
    logarithms of their ratio varies by 0.1 (measured), so a way that is as good stays below log 2.
    """
    mine, reference = torch.stack([errors(kind, dtype) for _ in range(20)], dim=1)
    assert (mine / reference).log().mean(0).max() < math.log(2)


def errors(kind, dtype):
    """The distances from float64 of the series in blocks, and of the readable one, for a random case  [2, ·]"""
    x, weights, biases, rows = case(kind, ["tanh", "sigmoid", "identity"], 9)
    low = lambda tensors: [None if each is None else each.to(dtype) for each in tensors]  # noqa: E731
    kind_low = Collapsed(kind.coefficients.to(dtype), kind.is_laplacian) if isinstance(kind, Collapsed) else kind
    tensors_low = Series(x.value.to(dtype), low(x.terms)), low(weights), low(biases), rows
    found, grads, gradients = in_blocks(kind_low, *tensors_low)
    expected = readable(kind_low, *tensors_low, grads)
    truth = readable(kind, x, weights, biases, rows, [grad.double() for grad in grads])
    found, expected, truth = ([*outputs, *gradients] for outputs, gradients in ((found, gradients), expected, truth))
    assert all(each.dtype == dtype for each in found)
    distances = lambda low: [(each - true).norm() for each, true in zip(low, truth, strict=True)]  # noqa: E731
    return torch.tensor([distances(found), distances(expected)], dtype=torch.float64)
