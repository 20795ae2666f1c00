"""The elementwise part of the series in C++ (`torchann.native.series`), compared with PyTorch's operations."""

import pytest
import torch
from cases import KINDS
from test_native import enabled, needs_a_compiler  # noqa: F401  (a fixture)

import torchann
from torchann import fast, native
from torchann.fast.series import InBlocks
from torchann.jets import Collapsed, Series, Taylor
from torchann.native import series
from torchann.sweeps import NeedsGrad

SHAPES = [
    (1, 1),
    (7, 3),
    (33, 61),
    (130, 257),
    (0, 5),
]  # n and O; 33 · 61 entries need several chunks, the next threads
ACTIVATIONS = sorted(series.CODES, key=lambda row: row.name)
pytestmark = [pytest.mark.slow, needs_a_compiler, pytest.mark.usefixtures("enabled")]


def weighted(directions, dtype):
    """c of random signs; of three directions, the third has weight 0."""
    coefficients = torch.randn(directions, dtype=dtype)
    coefficients[2::3] = 0
    return Collapsed(coefficients)


def ones(directions, dtype):
    return Collapsed(torch.ones(directions, dtype=dtype), is_laplacian=True)


@pytest.mark.parametrize("kinds", [weighted, ones])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda row: row.name)
class TestKernels:
    """A layer, forward and backward. The sums over the directions are the same up to their order."""

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("directions", [1, 2, 3, 9])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_a_layer(self, activation, kinds, directions, shape, dtype):
        kind = kinds(directions, dtype)
        z, grads = (torch.randn(directions + 2, *shape, dtype=dtype) for _ in range(2))
        bias = torch.randn(shape[1], dtype=dtype)
        close = {"rtol": 16 * torch.finfo(dtype).eps, "atol": 64 * directions * torch.finfo(dtype).eps}
        plain, compiled = (InBlocks(kind, directions, [activation], kernels) for kernels in (None, series))
        expected = plain.layer(z.clone(), bias, activation)
        found = compiled.layer(z.clone(), bias, activation)
        torch.testing.assert_close(found.outputs, expected.outputs, **close)
        expected_delta, found_delta = grads.clone(), grads.clone()
        plain.delta_(expected_delta, expected, activation)
        compiled.delta_(found_delta, found, activation)
        torch.testing.assert_close(found_delta, expected_delta, **close)

    @pytest.mark.parametrize("term", range(5))
    def test_nan_passes_through(self, activation, kinds, term):
        kind = kinds(3, torch.float64)
        z = torch.randn(5, 33, 61, dtype=torch.float64)
        z[term, 3, 5] = float("nan")
        outputs = [
            InBlocks(kind, 3, [activation], kernels).layer(z.clone(), None, activation).outputs
            for kernels in (None, series)
        ]
        assert outputs[0].isnan().any()
        assert torch.equal(*[each.isnan() for each in outputs])


@pytest.mark.parametrize("which", ["shared", "all"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if isinstance(kind, Collapsed)], ids=str)
def test_a_network(kind, which):
    directions = len(kind.coefficients)
    weights = [torch.randn(o, i, dtype=torch.float64) for i, o in ((3, 5), (5, 4), (4, 2))]
    biases = [torch.randn(5, dtype=torch.float64), None, torch.randn(2, dtype=torch.float64)]
    first = torch.randn(directions, 1 if which == "shared" else 7, 3, dtype=torch.float64)
    x = Series(torch.randn(7, 3, dtype=torch.float64), [first, None])
    rows = [torchann.activations.get(name) for name in ("sigmoid", "tanh", "identity")]
    kernels = fast.series_kernels(x.value, kind)
    assert kernels is (series if kind.coefficients.dim() == 1 else None)
    results = []
    for each in (None, kernels):
        plan = InBlocks(kind, directions, rows, each)
        output, kept = plan.forward(x, weights, biases, keep=True)
        gradients = plan.backward(torch.cos(output), x, weights, kept, NeedsGrad(True, [True] * 3, [True] * 3))
        results.append([output, gradients.x, *gradients.weights, gradients.biases[0]])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        (Collapsed(torch.ones(2)), torch.float32, True),
        (Collapsed(torch.ones(2)), torch.float64, True),
        (Collapsed(torch.ones(2)), torch.bfloat16, False),
        (Collapsed(torch.ones(2, 2)), torch.float32, False),
        (Taylor(2), torch.float32, False),
    ],
)
def test_supports(kind, dtype, expected):
    assert series.supports(torch.ones(3, 2, dtype=dtype), kind) == expected


def test_laplacian_uses_them(monkeypatch):
    calls = []
    original = series.delta_
    monkeypatch.setattr(series, "delta_", lambda *arguments: (calls.append(1), original(*arguments))[1])
    net = torchann.MLP([2, 5, 1], "tanh", "identity")
    for name, expected in (("auto", 1), ("readable", 0)):
        with torchann.implementation(name):
            torchann.laplacian(net, torch.randn(7, 2)).laplacian.sum().backward()
        assert len(calls) == expected
        calls.clear()
    native.disable()
    torchann.laplacian(net, torch.randn(7, 2)).laplacian.sum().backward()
    assert not calls
    native.enable()
