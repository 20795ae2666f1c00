"""`checkpoint=k`: the same gradients to the bit, in less memory."""

import pytest
import torch
from cases import EXACT, SINE, check_all_modes, derivatives, own_callable, parameters, plain

from benchmarks.memory import kept_bytes, peak_bytes
from torchann import MLP, fast
from torchann.fast import inplace
from torchann.functional import mlp

SIZES = [3, 4, 2, 5, 3, 4, 2]
NETWORKS = {"sigmoid": "sigmoid", "mixed": ["sigmoid", SINE, "relu", "tanh", "identity", "sigmoid"],
            "own callable": ["sigmoid", "tanh", own_callable, "relu", "tanh", "sigmoid"]}  # fmt: skip


@pytest.fixture(params=[False, True], ids=["whole", "in blocks"])
def small_blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(inplace, "MIN_ROWS", 4)
        monkeypatch.setattr(inplace, "MIN_BLOCKS", 3)
        monkeypatch.setattr(inplace, "BLOCK_BYTES", 1)
        monkeypatch.setattr(fast, "SMALL_FLOPS", 0)


def network_inputs():
    weights, biases = parameters(SIZES)
    return torch.randn(14, 3, dtype=torch.float64, requires_grad=True), *weights, *biases


@pytest.mark.parametrize("specs", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
@pytest.mark.usefixtures("small_blocks")
def test_same_to_the_bit(specs, k):
    inputs = x, *tensors = network_inputs()
    weights, biases = tensors[:6], tensors[6:]
    error = torch.randn(14, 2, dtype=torch.float64)
    subsets = inputs, inputs[:1], inputs[4:6], inputs[-2:]
    for asked in subsets:
        found, expected = (
            torch.autograd.grad(mlp(x, weights, biases, specs, checkpoint=each), asked, error) for each in (k, None)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("specs", NETWORKS.values(), ids=NETWORKS)
def test_higher_derivatives_and_other_modes(specs):
    inputs = network_inputs()
    checkpointed = lambda x, *tensors: mlp(x, tensors[:6], tensors[6:], specs, checkpoint=2)  # noqa: E731
    ours = derivatives(checkpointed(*inputs), inputs, order=3)
    theirs = derivatives(
        plain(inputs[0], inputs[1:7], inputs[7:], [specs] * 6 if isinstance(specs, str) else specs), inputs, order=3
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    check_all_modes(checkpointed, inputs)


def test_keeps_every_kth_output_alone():
    """Of six layers with checkpoint=2, beside the input and the parameters: what layers 3 and 5 receive."""
    inputs = x, *tensors = network_inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        mlp(x, tensors[:6], tensors[6:], checkpoint=2)
    own = [tensor.shape for tensor in kept if not any(tensor.data_ptr() == given.data_ptr() for given in inputs)]
    assert own == [(14, SIZES[2]), (14, SIZES[4])]


@pytest.mark.parametrize(("depth", "k"), [(9, None), (9, 1), (9, 3), (9, 4), (9, 9), (16, 4)])
def test_memory_is_what_the_docs_predict(depth, k):
    """By the formulas in docs/performance.md for equal widths; the parameters' gradients come on top."""
    samples, width = 3000, 20
    net = MLP([width] * (depth + 1), checkpoint=k, dtype=torch.float64)
    x, error = torch.randn(2, samples, width, dtype=torch.float64)
    layer = samples * width * 8
    checkpoints = -(-depth // k) - 1 if k else depth
    kept = kept_bytes(lambda: net(x), [x, *net.parameters()])
    assert kept == layer * (checkpoints if k else depth)

    def step():
        net.zero_grad()
        net(x).backward(error)

    step()
    predicted = layer * (checkpoints + 1 + min(k, depth) + 3 if k else depth + 2)
    beside = 8 * sum(parameter.numel() for parameter in net.parameters())
    assert predicted - 2 * layer <= peak_bytes(step, "cpu") <= predicted + beside


def test_module():
    net = MLP([3, 4, 4, 2], checkpoint=2, dtype=torch.float64)
    assert "checkpoint=2" in repr(net)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(net(x), plain(x, net.weights, net.biases, net.activations), **EXACT)
    assert type(net(x).grad_fn).__name__ == "FirstOrderBackward"


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2"])
def test_bad_values(wrong):
    with pytest.raises(ValueError, match="checkpoint: expected a positive integer"):
        MLP([3, 4, 2], checkpoint=wrong)
    with pytest.raises(ValueError, match="checkpoint: expected a positive integer or None"):
        mlp(torch.ones(2, 3), [torch.ones(4, 3)], checkpoint=wrong)
