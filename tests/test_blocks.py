"""The sweeps in blocks of rows, against the readable ones."""

import pytest
import torch
from cases import EXACT, check_all_modes, parameters

from torchann import activations, blocks, dispatch, kernels, small, sweeps
from torchann.functional import mlp
from torchann.sweeps import Wanted

NETWORKS = {row.name: [row.name] * 3 for row in kernels.FUSED} | {"mixed": ["sigmoid", "identity", "relu"]}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "LEAST_ROWS", 4)
    monkeypatch.setattr(blocks, "LEAST_BLOCKS", 3)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(small, "LEAST", 0)


@pytest.mark.parametrize("names", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("samples", [12, 14, 17])  # whole blocks, and a rest
@pytest.mark.parametrize("bias", [True, False])
def test_same_as_the_readable_sweeps(names, samples, bias):
    rows = [activations.get(name) for name in names]
    weights, biases = parameters([5, 4, 7, 3], bias, requires_grad=False)
    x = torch.randn(5, samples, dtype=torch.float64).t()
    in_blocks = dispatch.choose(x, weights, biases, rows)
    assert in_blocks.forward_rows == in_blocks.backward_rows == 4
    (output, kept), (expected, expected_kept) = (
        f(x, weights, biases, rows) for f in (in_blocks.forward, sweeps.forward)
    )
    torch.testing.assert_close((output, kept), (expected, expected_kept), **EXACT)
    error = torch.randn(1, 3, dtype=torch.float64).expand(samples, 3)
    before = error.clone()
    everything = Wanted(True, [True] * 3, [bias] * 3)
    found = in_blocks.backward(error, [None] * 3, x, weights, list(kept), rows, everything)
    expected = sweeps.backward(error, [None] * 3, x, weights, kept, rows, everything)
    torch.testing.assert_close(found[:3], expected[:3], **EXACT)
    torch.testing.assert_close(error, before, rtol=0, atol=0)


@pytest.mark.parametrize("wanted", [
    Wanted(False, [True] * 3, [True] * 3), Wanted(True, [False] * 3, [False] * 3), Wanted(False, [False, True, False], [False] * 3),
    Wanted(False, [False, False, True], [True, False, False]), Wanted(False, [False] * 3, [False, False, True]),
], ids=str)  # fmt: skip
def test_computes_what_is_wanted(wanted):
    rows = [activations.get(name) for name in ("sigmoid", "tanh", "sigmoid")]
    weights, biases = parameters([5, 4, 7, 3], requires_grad=False)
    x, error = torch.randn(13, 5, dtype=torch.float64), torch.randn(13, 3, dtype=torch.float64)
    _, kept = sweeps.forward(x, weights, biases, rows)
    found = dispatch.choose(x, weights, biases, rows).backward(error, [None] * 3, x, weights, list(kept), rows, wanted)
    expected = sweeps.backward(error, [None] * 3, x, weights, kept, rows, wanted)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)


@pytest.mark.parametrize("samples", [12, 14])
def test_output_alone(samples):
    rows = [activations.get(name) for name in ("sigmoid", "tanh", "identity")]
    weights, biases = parameters([5, 4, 7, 3], requires_grad=False)
    x = torch.randn(samples, 5, dtype=torch.float64)
    output, kept = dispatch.choose(x, weights, biases, rows).forward(x, weights, biases, rows, [False] * 3)
    assert kept == [None] * 3
    torch.testing.assert_close(output, sweeps.forward(x, weights, biases, rows)[0], **EXACT)


def test_zetas_are_added():
    """What a double backward sends to z does not go through blocks, but must not be lost."""
    rows = [activations.get("sigmoid")] * 2
    weights, biases = parameters([3, 4, 2], requires_grad=False)
    x, error = torch.randn(13, 3, dtype=torch.float64), torch.randn(13, 2, dtype=torch.float64)
    zetas = [torch.randn(13, 4, dtype=torch.float64), None]
    _, kept = sweeps.forward(x, weights, biases, rows)
    everything = Wanted(True, [True] * 2, [True] * 2)
    for grad_output in (error, None):
        found = dispatch.choose(x, weights, biases, rows).backward(
            grad_output, zetas, x, weights, kept, rows, everything
        )
        expected = sweeps.backward(grad_output, zetas, x, weights, kept, rows, everything)
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)


def test_a_network_in_blocks_in_every_mode():
    x = torch.randn(13, 3, dtype=torch.float64, requires_grad=True)
    weights, biases = parameters([3, 4, 2])
    inputs = (x, *weights, *biases)
    assert dispatch.choose(x, weights, biases, [activations.get("tanh")] * 2).backward_rows == 4
    check_all_modes(lambda x, *p: mlp(x, p[:2], p[2:], "tanh"), inputs)


@pytest.mark.parametrize(
    ("x", "names"),
    [
        (torch.ones(13, 3, dtype=torch.bfloat16), ["sigmoid"]),
        (torch.ones(11, 3), ["sigmoid"]),
        (torch.ones(13, 3, device="meta"), ["sigmoid"]),
        (torch.ones(13, 3), [torch.sin]),
    ],
    ids=["short dtype", "few rows", "another device", "no kernel"],
)
def test_no_blocks(x, names):
    rows = [activations.get(name) for name in names]
    weights = [torch.ones(4, 3), torch.ones(4, 4)]
    assert dispatch.choose(x, weights, [None] * 2, rows * 2) in (blocks.WHOLE, sweeps)
    assert dispatch.choose(torch.ones(13, 3), weights, [None] * 2, [activations.get("sigmoid")] * 2).backward_rows == 4


def test_frees_outputs_on_the_way():
    """What a layer kept is gone before the layer below is reached."""
    rows = [activations.get("sigmoid")] * 3
    weights, biases = parameters([3, 4, 5, 2], requires_grad=False)
    x, error = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    _, kept = sweeps.forward(x, weights, biases, rows)
    dispatch.choose(x, weights, biases, rows).backward(
        error, [None] * 3, x, weights, kept, rows, Wanted(True, [True] * 3, [True] * 3)
    )
    assert kept == []


def test_keeps_them_for_another_backward():
    x = torch.randn(13, 3, dtype=torch.float64, requires_grad=True)
    weights, biases = parameters([3, 4, 2])
    output = mlp(x, weights, biases)
    first = torch.autograd.grad(output.sum(), x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), x), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(output.sum(), x)
