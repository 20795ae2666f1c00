"""The node in C++ is used where it was asked for, and gives the same bits as the one in Python."""

import shutil

import pytest
import torch
from cases import EXACT, ROWS, parameters

import torchann
from torchann import activations, fast, native
from torchann.functional import mlp

needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")) or not shutil.which("ninja"),
    reason="no C++ compiler or no ninja on the path",
)


@pytest.fixture(scope="class")
def enabled():
    native.enable()
    yield
    native.disable()


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.usefixtures("enabled")
class TestEnabled:
    def test_the_node_in_cpp_runs(self):
        weights, biases = parameters([3, 4, 2])
        native_node = mlp(torch.ones(5, 3, dtype=torch.float64), weights, biases).grad_fn
        native.disable()
        try:
            python_node = mlp(torch.ones(5, 3, dtype=torch.float64), weights, biases).grad_fn
        finally:
            native.enable()
        assert type(native_node) is not type(python_node)

    @pytest.mark.parametrize("name", ROWS)
    def test_each_activation_gives_the_same_to_the_bit(self, name):
        weights, biases = parameters([3, 4, 2])
        x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        inputs = (x, *weights, *biases)
        found = [gradients(mlp(x, weights, biases, name), inputs)]
        native.disable()
        try:
            found.append(gradients(mlp(x, weights, biases, name), inputs))
        finally:
            native.enable()
        torch.testing.assert_close(*found, rtol=0, atol=0)

    def test_a_row_without_kernels_takes_the_python_path(self):
        weights, biases = parameters([3, 2])
        sine = activations.Activation("sine", torch.sin, torch.cos)
        node = mlp(torch.ones(5, 3, dtype=torch.float64), weights, biases, sine).grad_fn
        assert type(node).__module__ == "torch.autograd.function"
        with torchann.implementation("native"), pytest.raises(RuntimeError, match=r"or an activation \(sine\)"):
            mlp(torch.ones(5, 3, dtype=torch.float64), weights, biases, sine)

    def test_own_activations_take_the_python_path(self):
        impostor = activations.Activation("sigmoid", torch.tanh, lambda o: 1 - o * o, reads="output")
        weights, _ = parameters([3, 2])
        x = torch.randn(5, 3, dtype=torch.float64)
        torch.testing.assert_close(mlp(x, weights, None, impostor), torch.tanh(x @ weights[0].t()), **EXACT)

    def test_computes_what_is_asked_for(self):
        weights, biases = parameters([3, 4, 2])
        x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        mlp(x, weights, biases).sum().backward(inputs=[weights[1]])
        assert [p.grad is not None for p in (x, *weights, *biases)] == [False, False, True, False, False]


def gradients(output, inputs):
    return torch.autograd.grad(output.sin().sum(), inputs)


def test_is_off_unless_asked_for():
    assert native.compiled is None
    assert fast.native is None
