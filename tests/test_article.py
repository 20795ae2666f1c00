"""The article's network of three inputs, four hidden neurons and one output, worked by hand in plain floats."""

import math

import pytest
import torch

import torchann

X = [0.5, -1.2, 0.8]
HIDDEN_WEIGHTS = [[0.1, -0.4, 0.7], [0.9, 0.3, -0.2], [-0.6, 0.8, 0.05], [0.25, -0.35, 0.45]]  # [neuron][input]
HIDDEN_BIASES = [0.1, -0.2, 0.3, -0.4]
OUTPUT_WEIGHTS = [0.6, -0.5, 0.4, 0.3]
OUTPUT_BIAS = 0.05
Y = 0.9
RATE = 0.5


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def by_hand():
    """Forward, case 1 and case 2, in the article's letters: n and o are outputs, w and b parameters."""
    n = [
        sigmoid(sum(w * x for w, x in zip(row, X, strict=True)) + b)
        for row, b in zip(HIDDEN_WEIGHTS, HIDDEN_BIASES, strict=True)
    ]
    o = sigmoid(sum(w * n_k for w, n_k in zip(OUTPUT_WEIGHTS, n, strict=True)) + OUTPUT_BIAS)
    error = 0.5 * (o - Y) ** 2
    # Case 1: the neuron is in the output layer.
    delta_o = (o - Y) * o * (1 - o)
    # Case 2: ∂E/∂n_k is the sum of δ w over the neurons that n_k feeds; here there is one.
    delta_n = [delta_o * w * n_k * (1 - n_k) for w, n_k in zip(OUTPUT_WEIGHTS, n, strict=True)]
    return {
        "n": n,
        "o": o,
        "error": error,
        "output_weights": [delta_o * n_k for n_k in n],
        "output_bias": delta_o,
        "hidden_weights": [[delta * x for x in X] for delta in delta_n],
        "hidden_biases": delta_n,
        "x": [sum(delta * row[i] for delta, row in zip(delta_n, HIDDEN_WEIGHTS, strict=True)) for i in range(3)],
    }


def network():
    mlp = torchann.MLP([3, 4, 1], dtype=torch.float64)
    values = HIDDEN_WEIGHTS, HIDDEN_BIASES, [OUTPUT_WEIGHTS], [OUTPUT_BIAS]
    with torch.no_grad():
        for parameter, value in zip(mlp.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(value, dtype=torch.float64))
    return mlp


def assert_equal(tensor, floats):
    torch.testing.assert_close(
        tensor, torch.tensor(floats, dtype=torch.float64).reshape(tensor.shape), rtol=0, atol=1e-12
    )


@pytest.fixture
def trained():
    """The network after one backward pass, and its input, output and error."""
    mlp, x = network(), torch.tensor(X, dtype=torch.float64, requires_grad=True)
    output = mlp(x)
    error = torchann.HalfSquaredErrorLoss()(output, torch.tensor([Y], dtype=torch.float64))
    error.backward()
    return mlp, x, output, error


def test_forward_pass(trained):
    mlp, x, output, error = trained
    expected = by_hand()
    assert_equal(mlp.layers[0](x), expected["n"])
    assert_equal(output, expected["o"])
    assert_equal(error, expected["error"])


def test_backward_pass(trained):
    mlp, x, *_ = trained
    expected = by_hand()
    assert_equal(mlp.weights[1].grad, expected["output_weights"])
    assert_equal(mlp.biases[1].grad, expected["output_bias"])
    assert_equal(mlp.weights[0].grad, expected["hidden_weights"])
    assert_equal(mlp.biases[0].grad, expected["hidden_biases"])
    assert_equal(x.grad, expected["x"])


def test_learning_lowers_the_error(trained):
    mlp, x, _, error = trained
    expected = by_hand()
    torch.optim.SGD(mlp.parameters(), lr=RATE).step()
    assert_equal(mlp.biases[1], OUTPUT_BIAS - RATE * expected["output_bias"])
    assert torchann.HalfSquaredErrorLoss()(mlp(x), torch.tensor([Y], dtype=torch.float64)) < error
