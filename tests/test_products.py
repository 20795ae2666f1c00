"""Products by oneDNN: as exact as PyTorch's own in float32 for any strides, and never where operations are observed."""

import pytest
import torch
from cases import REPRESENTATIVES
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from torchann import activations, fast, formulas, functional
from torchann.fast import onednn, products

needs_onednn = pytest.mark.skipif(not onednn.IS_HERE, reason="PyTorch has no oneDNN here")
# A float32 product of K terms errs by about √K u times the size of its terms. Another order of the sum can differ from
# PyTorch's by twice that.
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


WAYS = {
    "transposed": onednn.weight_gradient,
    "convolution": onednn.weight_gradient_by_convolution,
    "parts": products.weight_gradient_in_parts,
}


def faster(way="transposed", linear=0):
    return products.Faster((products.From(linear, 0),), ((products.From(0, 0), WAYS[way]),))


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(fast, "SMALL_FLOPS", 0)
    monkeypatch.setattr(fast, "FEW", 0)
    monkeypatch.setattr(products, "faster", faster())


@pytest.fixture
def calls(monkeypatch):
    """A list with one entry for each call of oneDNN."""
    found = []
    linear = onednn.linear
    monkeypatch.setattr(onednn, "linear", lambda *args: (found.append("linear"), linear(*args))[1])
    return found


LAYOUTS = {
    "contiguous": lambda rows, columns: torch.randn(rows, columns),
    "transposed": lambda rows, columns: torch.randn(columns, rows).t(),
    "cut out": lambda rows, columns: torch.randn(rows + 3, columns + 5)[1:-2, 2:-3],
    "every other": lambda rows, columns: torch.randn(2 * rows, 2 * columns)[::2, ::2],
    "expanded": lambda rows, columns: torch.randn(1, columns).expand(rows, columns),
    "one value": lambda rows, columns: torch.randn(()).expand(rows, columns),
    "misaligned": lambda rows, columns: torch.randn(rows * columns + 1)[1:].view(rows, columns),
}
SIZES = [(1, 1, 1), (3, 5, 7), (33, 17, 64), (1024, 33, 18), (1040, 50, 50), (1025, 1, 5)]


@needs_onednn
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
class TestAgainstTheFormulas:
    @pytest.mark.parametrize("name", [*onednn.ACTIVATIONS, "leaky_relu:0.2", "identity"])
    @pytest.mark.parametrize("has_bias", [True, False])
    def test_layer(self, layout, sizes, name, has_bias, calls):
        samples, inputs, outputs = sizes
        x, weight = LAYOUTS[layout](samples, inputs), LAYOUTS[layout](outputs, inputs)
        bias = torch.randn(outputs) if has_bias else None
        activation = activations.get(name)
        with torch.no_grad():
            found, _ = products.layer(x, weight, bias, activation, keeps=False)
        assert calls == ["linear"]
        z = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        torch.testing.assert_close(found.double(), activation.f(z), **CLOSE)

    def test_input_gradient(self, layout, sizes, calls):
        samples, inputs, outputs = sizes
        delta, weight = LAYOUTS[layout](samples, outputs), LAYOUTS[layout](outputs, inputs)
        with torch.no_grad():
            found = products.input_gradient(delta, weight)
        assert calls == ["linear"]
        torch.testing.assert_close(found.double(), formulas.input_gradient(delta.double(), weight.double()), **CLOSE)

    @pytest.mark.parametrize("way", WAYS)
    def test_weight_gradient(self, layout, sizes, way, monkeypatch):
        samples, inputs, outputs = sizes
        delta, x = LAYOUTS[layout](samples, outputs), LAYOUTS[layout](samples, inputs)
        computed = []
        compute = lambda *args: (computed.append(way), WAYS[way](*args))[1]  # noqa: E731
        monkeypatch.setattr(
            products, "faster", products.Faster((products.From(0, 0),), ((products.From(0, 0), compute),))
        )
        with torch.no_grad():
            found = products.weight_gradient(delta, x)
        assert computed == [way]
        expected = formulas.weight_gradient(delta.double(), x.double())
        scale = max(1.0, expected.abs().max().item())  # sums over up to 1,040 rows
        torch.testing.assert_close(found.double() / scale, expected / scale, **CLOSE)


@needs_onednn
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_nan_and_infinity_come_through(name, calls):
    x = torch.zeros(4, 3)
    x[0, 0], x[1, 1], x[2, 2] = torch.nan, torch.inf, -torch.inf
    weight, activation = torch.eye(3) + 0.5, activations.get(name)
    with torch.no_grad():
        found, _ = products.layer(x, weight, None, activation, keeps=False)
    assert calls
    torch.testing.assert_close(found, activation.f(F.linear(x, weight)), equal_nan=True)


@needs_onednn
@pytest.mark.parametrize("way", WAYS)
def test_no_gradient_depends_on_the_number_of_threads(way, monkeypatch):
    monkeypatch.setattr(products, "faster", faster(way))
    delta, x = torch.randn(2048, 40), torch.randn(2048, 30)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, threads):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(products.weight_gradient(delta, x))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def run(x, weight):
    with torch.no_grad():
        return functional.dense(x, weight)


def watched_by_a_mode(x, weight):
    with Watching():
        return run(x, weight)


def switched_off(x, weight):
    with torch.backends.mkldnn.flags(enabled=False):
        return run(x, weight)


NOT_FOR_ONEDNN = {
    "vmap": lambda x, weight: torch.func.vmap(lambda row: functional.dense(row[None], weight)[0])(x),
    "jvp": lambda x, weight: torch.func.jvp(lambda w: functional.dense(x, w), (weight,), (weight,))[0],
    "compile": lambda x, weight: torch.compile(functional.dense, backend="eager")(x, weight),
    "a dispatch mode": watched_by_a_mode,
    "flags": switched_off,
    "a subclass": lambda x, weight: run(x.as_subclass(Subclass), weight).as_subclass(torch.Tensor),
    "float64": lambda x, weight: run(x.double(), weight.double()).float(),
}


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # from the setter of the flags
@pytest.mark.parametrize("situation", NOT_FOR_ONEDNN)
def test_not_where_operations_are_observed_or_it_cannot_run(situation, calls):
    x, weight = torch.randn(5, 3), torch.randn(4, 3)
    found = NOT_FOR_ONEDNN[situation](x, weight)
    assert calls == []
    torch.testing.assert_close(found.detach(), torch.sigmoid(F.linear(x, weight.detach())))


def test_not_where_pytorch_has_no_onednn(monkeypatch, calls):
    monkeypatch.setattr(onednn, "IS_HERE", False)
    run(torch.randn(5, 3), torch.randn(4, 3))
    assert calls == []


@needs_onednn
def test_small_products_are_left_to_pytorch(monkeypatch, calls):
    monkeypatch.setattr(products, "faster", faster(linear=5 * 4 * 3 + 1))
    run(torch.randn(5, 3), torch.randn(4, 3))
    assert calls == []
    monkeypatch.setattr(products, "faster", faster(linear=5 * 4 * 3))
    run(torch.randn(5, 3), torch.randn(4, 3))
    assert calls == ["linear"]


@needs_onednn
@pytest.mark.parametrize("requires_grad", [True, False], ids=["x needs a gradient", "parameters alone"])
def test_a_network_takes_it_forward_and_backward(requires_grad, calls):
    """From `mlp` to the gradients, and to second derivatives."""
    x = torch.randn(4096, 40, requires_grad=requires_grad)
    weights = [torch.randn(40, 40).div_(6).requires_grad_() for _ in range(3)]
    biases = [torch.randn(40, requires_grad=True) for _ in range(3)]
    inputs = [*weights, *biases, *([x] if requires_grad else [])]

    def derivatives(dtype):
        tensors = [tensor.to(dtype) for tensor in (x, *weights, *biases)]
        output = functional.mlp(tensors[0], tensors[1:4], tensors[4:], "tanh")
        first = torch.autograd.grad(output.square().mean(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
        return [output, *first, *second]

    found = derivatives(torch.float32)
    assert {*calls} == {"linear"}
    calls.clear()
    expected = derivatives(torch.float64)
    assert calls == []
    for mine, reference in zip(found, expected, strict=True):
        scale = reference.abs().max().item()
        torch.testing.assert_close(mine / scale, reference.to(mine.dtype) / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cpu", products.BY_CPU, ids=str)
@pytest.mark.parametrize(
    "size", [(64, 8, 8), (8192, 50, 50), (65536, 32, 32), (16384, 64, 3), (512, 256, 256)], ids=str
)
def test_every_kind_of_cpu_gives_the_same(cpu, size, monkeypatch):
    monkeypatch.setattr(products, "faster", products.BY_CPU[cpu])
    samples, inputs, outputs = size
    x, weight, delta = torch.randn(samples, inputs), torch.randn(outputs, inputs), torch.randn(samples, outputs)
    with torch.no_grad():
        found = (
            products.pre_activation(x, weight),
            products.input_gradient(delta, weight),
            products.weight_gradient(delta, x),
        )
    expected = x.double() @ weight.double().t(), delta.double() @ weight.double(), delta.double().t() @ x.double()
    for mine, exact in zip(found, expected, strict=True):
        scale = exact.abs().max()
        torch.testing.assert_close(mine.double() / scale, exact / scale, **CLOSE)


def test_this_cpu_is_known_by_what_the_system_says():
    vendor, family, instructions = products.this_cpu()
    assert (vendor == "") == (family == 0)
    assert instructions == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize(("rows", "is_reached"), [(15, False), (16, True), (7, False)])
def test_from_which_size_on(rows, is_reached):
    start = products.From(multiplications=120, rows_for_column=4)
    assert start.reached(torch.empty(rows, 3), 3, 4) == is_reached
    assert products.From(120, 0).reached(torch.empty(10, 3), 3, 4)
    assert not products.From(121, 0).reached(torch.empty(10, 3), 3, 4)
