"""The sweeps written out for small networks, against the readable ones."""

import pytest
import torch
from cases import EXACT, parameters

from torchann import activations, dispatch, kernels, small, sweeps
from torchann.sweeps import Wanted

NETWORKS = {row.name: [row.name] * 3 for row in kernels.FUSED} | {"mixed": ["sigmoid", "identity", "relu"]}
WANTED = {
    "everything": Wanted(True, [True] * 3, [True] * 3),
    "parameters": Wanted(False, [True] * 3, [True] * 3),
    "x": Wanted(True, [False] * 3, [False] * 3),
    "a weight": Wanted(False, [False, True, False], [False] * 3),
    "a weight and a bias": Wanted(False, [False, False, True], [True, False, False]),
    "nothing": Wanted(False, [False] * 3, [False] * 3),
}


def network(names, bias=True):
    rows = [activations.get(name) for name in names]
    weights, biases = parameters([5, 4, 7, 3], bias, requires_grad=False)
    x, error = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    assert dispatch.choose(x, weights, [None] * len(weights), rows) is small
    return x, error, weights, biases, rows


@pytest.mark.parametrize("names", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_forward(names, bias, keep):
    x, _, weights, biases, rows = network(names, bias)
    found, expected = (module.forward(x, weights, biases, rows, [keep] * 3) for module in (small, sweeps))
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("names", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_backward(names, wanted):
    x, error, weights, biases, rows = network(names)
    _, kept = sweeps.forward(x, weights, biases, rows)
    before = error.clone()
    found = small.backward(error, [None] * 3, x, weights, list(kept), rows, wanted)
    expected = sweeps.backward(error, [None] * 3, x, weights, kept, rows, wanted)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)
    torch.testing.assert_close(error, before, rtol=0, atol=0)


@pytest.mark.parametrize("with_error", [True, False])
def test_zetas_are_added(with_error):
    x, error, weights, biases, rows = network(["sigmoid"] * 3)
    zetas = [torch.randn(6, 4, dtype=torch.float64), None, None]
    _, kept = sweeps.forward(x, weights, biases, rows)
    arguments = error if with_error else None, zetas, x, weights, kept, rows, WANTED["everything"]
    torch.testing.assert_close(tuple(small.backward(*arguments)), tuple(sweeps.backward(*arguments)), rtol=0, atol=0)


def test_frees_outputs_on_the_way():
    x, error, weights, biases, rows = network(["sigmoid"] * 3)
    _, kept = small.forward(x, weights, biases, rows)
    small.backward(error, [None] * 3, x, weights, kept, rows, WANTED["parameters"])
    assert kept == []


def test_not_for_large_ones():
    rows = [activations.get("sigmoid")] * 2
    assert dispatch.choose(torch.ones(1 << 12, 32), [torch.ones(32, 32)] * 2, [None] * 2, rows) is not small
