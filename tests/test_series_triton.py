"""The Triton kernels of `fast.series_triton`, compared with PyTorch's operations in float64.

They run where those of `test_triton` do: on a GPU, or in Triton's interpreter in a child process.
"""

from types import SimpleNamespace

import pytest
import torch
from test_triton import (
    DEVICE,
    INTERPRETED,
    RUNS_HERE,
    AmpereAtADistance,
    CompiledOnly,
    Z,
    random,
    run_in_the_interpreter,
    triton,
)

import torchann
from torchann import fast, jets
from torchann.fast import series_triton
from torchann.fast.series import InBlocks, Kept
from torchann.jets import Collapsed, Series, Taylor

ACTIVATIONS = [pytest.param(activation, id=activation.name) for activation in series_triton.CODES]
SHAPES = [(1, 1), (7, 3), (33, 61), (4, 517), (0, 5)]  # n and O; 33 · 61 and 4 · 517 entries need more than one program
NUMPY_WARNS = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")  # in the interpreter


if not INTERPRETED:

    @pytest.mark.slow
    def test_in_the_interpreter():
        run_in_the_interpreter(__file__)


def weighted(directions, dtype):
    """c of random signs; of three directions, the third has weight 0."""
    coefficients = random(directions, dtype=dtype)
    coefficients[2::3] = 0
    return Collapsed(coefficients)


def ones(directions, dtype):
    return Collapsed(torch.ones(directions, dtype=dtype, device=DEVICE), is_laplacian=True)


def exact(kind):
    return Collapsed(kind.coefficients.double(), kind.is_laplacian)


def activated(z, kind, activation):
    """The stack of o = f(z) in float64, by `jets`."""
    value, (first, last) = jets.activate(
        exact(kind), Series(z[0].double(), [z[1:-1].double(), z[-1].double()]), activation
    )
    return torch.cat([value[None], first, last[None]])


def delta(grads, outputs, kind, activation):
    """The stack of δ in float64, by `fast.series`."""
    found = grads.to(torch.float64, copy=True)
    InBlocks(exact(kind), len(grads) - 2, [activation]).delta_(found, Kept(outputs.double()), activation)
    return found


def assert_near(found, expected, sizes):
    """Compares entry by entry. sizes: of value, first and last terms, the formula with |f|, |p| ≤ 1 and |p′|, |p″| ≤ 2.

    f errs by 8 eps at most, as `test_triton` says, and p′ by twice that. A product and an addition to a sum over the
    directions add an eps each. A result is stored with an error of an eps of its dtype: the interpreter truncates.
    """
    rounding, arithmetic = (
        torch.finfo(dtype) for dtype in (found.dtype, torch.promote_types(found.dtype, torch.float32))
    )
    sizes = torch.cat([sizes[0][None], sizes[1], sizes[2][None]])
    allowed = (rounding.eps + (20 + len(found)) * arithmetic.eps) * sizes + rounding.tiny * rounding.eps
    error = (found.double() - expected).abs()
    assert (error <= allowed).all(), f"in terms {sorted({*(~(error <= allowed)).nonzero()[:, 0].tolist()})}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestKernels:
    __test__ = RUNS_HERE

    @pytest.fixture(params=[weighted, ones])
    def kinds(self, request):
        return request.param

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("directions", range(1, 10))
    def test_float64(self, activation, directions, shape, kinds):
        self.compare(activation, kinds(directions, torch.float64), shape, torch.float64)

    @pytest.mark.parametrize("dtype", series_triton.DTYPES, ids=str)
    @pytest.mark.parametrize("directions", [1, 2, 9])
    def test_dtypes(self, activation, directions, dtype, kinds):
        self.compare(activation, kinds(directions, dtype), (33, 61), dtype)

    def compare(self, activation, kind, shape, dtype):
        z, grads = (random(len(kind.coefficients) + 2, *shape, dtype=dtype) for _ in range(2))
        bias = random(shape[1], dtype=dtype)
        c = kind.coefficients.double().abs().view(-1, 1, 1)
        plus_bias = z.to(torch.float64, copy=True)
        plus_bias[0] += bias
        outputs, first = z.clone(), z[1:-1].double()
        series_triton.activate_(outputs, bias, kind, activation)
        expected = activated(plus_bias, kind, activation)
        sizes = torch.ones_like(first[0]), first.abs(), z[-1].double().abs() + 2 * (c * first**2).sum(0)
        assert_near(outputs, expected, sizes)
        without_value = z.clone()
        without_value[0] = outputs[0]
        series_triton.activate_terms_(without_value, kind, activation)
        assert_near(without_value, expected, sizes)

        found = grads.clone()
        series_triton.delta_(found, outputs, kind, activation)
        grad, grad_first, grad_last = grads[0].double().abs(), grads[1:-1].double().abs(), grads[-1].double().abs()
        first, last = outputs[1:-1].double().abs(), outputs[-1].double().abs()
        cross = (first * grad_first).sum(0) + last * grad_last
        sizes = (
            grad + 2 * cross + 2 * (c * first**2).sum(0) * grad_last,
            grad_first + 4 * c * first * grad_last,
            grad_last,
        )
        assert_near(found, delta(grads, outputs, kind, activation), sizes)

    @NUMPY_WARNS
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_f(self, activation, dtype):
        """From 0 to infinity, with the tolerance of `test_triton`."""
        z = torch.tensor(Z + [-z for z in Z] + [float("nan")], dtype=dtype, device=DEVICE)
        stack = torch.zeros(3, len(z), 1, dtype=dtype, device=DEVICE)
        stack[0, :, 0] = z
        series_triton.activate_(stack, None, ones(1, dtype), activation)
        eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
        expected = activation.f(z.double()).to(dtype)
        torch.testing.assert_close(stack[0, :, 0], expected, rtol=8 * eps, atol=tiny, equal_nan=True)

    @NUMPY_WARNS
    @pytest.mark.parametrize("term", range(5))
    def test_nan_passes_through(self, activation, term):
        """In the entry that has it, and in the terms that read it."""
        kind = ones(3, torch.float64)
        z, grads = random(5, 33, 61, dtype=torch.float64), random(5, 33, 61, dtype=torch.float64)
        z[term, 3, 5] = float("nan")
        outputs = z.clone()
        series_triton.activate_(outputs, None, kind, activation)
        expected = activated(z, kind, activation)
        assert expected.isnan().any()
        assert torch.equal(outputs.isnan(), expected.isnan())
        for given, at in ((grads, outputs), (with_nan(grads, term), activated(z.nan_to_num(), kind, activation))):
            expected = delta(given, at, kind, activation)
            found = given.clone()
            series_triton.delta_(found, at, kind, activation)
            assert expected.isnan().any()
            assert torch.equal(found.isnan(), expected.isnan())


def with_nan(stack, term):
    stack = stack.clone()
    stack[term, 3, 5] = float("nan")
    return stack


class TestSupports:
    __test__ = RUNS_HERE

    @pytest.mark.parametrize(
        ("kind", "dtype", "expected"),
        [
            (Collapsed(torch.ones(2)), torch.float32, True),
            (Collapsed(torch.ones(2)), torch.float64, True),
            (Collapsed(torch.ones(2)), torch.complex64, False),
            (Collapsed(torch.ones(2, 2)), torch.float32, False),
            (Taylor(2), torch.float32, False),
        ],
    )
    def test_kinds(self, kind, dtype, expected):
        assert series_triton.supports(torch.ones(3, 2, dtype=dtype, device=DEVICE), kind) == expected

    def test_no_device_but_its_own(self):
        assert not series_triton.supports(torch.ones(3, 2, device="meta"), Collapsed(torch.ones(2)))

    def test_activations(self):
        assert {row.name for row in series_triton.CODES} == {"sigmoid", "tanh"}


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that run."""
    found, launch = [], series_triton.launch

    def noted(kernel, *arguments, **options):
        found.append(kernel.fn.__name__)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(series_triton, "launch", noted)
    return found


OPERATORS = {
    "Δ": None,
    "c": [1.0, 0.0, -2.0],
    "eigenvectors": [[1.0, 0.5, 0.0], [0.5, -2.0, 3.0], [0.0, 3.0, 0.7]],
}


class TestThroughTheInterface:
    __test__ = RUNS_HERE

    @pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
    @pytest.mark.parametrize("samples", [1, 70])
    @pytest.mark.parametrize("bias", [True, False])
    def test_laplacian_and_its_gradients(self, launches, operator, samples, bias):
        sizes = [(17, 3), (9, 17), (5, 9), (2, 5)]
        weights = [random(*size, dtype=torch.float64).requires_grad_() for size in sizes]
        biases = [random(size, dtype=torch.float64).requires_grad_() for size, _ in sizes] if bias else None
        x = random(samples, 3, dtype=torch.float64).requires_grad_()
        coefficients = None if operator is None else torch.tensor(operator, dtype=torch.float64, device=DEVICE)

        def run():
            names = ["tanh", "sigmoid", "relu", "tanh"]
            found = torchann.functional.laplacian(x, weights, biases, names, coefficients)
            return [
                *found,
                *torch.autograd.grad(sum(each.sin().sum() for each in found), [x, *weights, *(biases or [])]),
            ]

        with torchann.implementation("readable"):
            expected = run()
        assert launches == []
        with torchann.implementation("triton"):
            found = run()
        # The first layer's outputs are computed once more in the backward pass.
        assert launches == ["activate_kernel"] * 3 + ["activate_kernel"] + ["delta_kernel"] * 3
        # Sums of a few hundred terms of about 1 in float64
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)

    def test_directions_of_each_sample(self, launches):
        weights = [random(*shape, dtype=torch.float64).requires_grad_() for shape in ((7, 3), (2, 7))]
        x, tangents, second = (random(*shape, 13, 3, dtype=torch.float64) for shape in ((), (4,), ()))
        coefficients = random(4, dtype=torch.float64)

        def run():
            found = torchann.functional.laplacian(x, weights, None, "tanh", coefficients, tangents, second)
            return [*found, *torch.autograd.grad(sum(each.sin().sum() for each in found), weights)]

        with torchann.implementation("readable"):
            expected = run()
        with torchann.implementation("triton"):
            found = run()
        assert launches == ["activate_kernel"] * 2 + ["delta_kernel"] * 2
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)  # sums of about 100 terms of about 1

    @pytest.mark.parametrize("name", ["readable", "inplace"])
    def test_another_implementation(self, launches, name):
        with torchann.implementation(name):
            torchann.laplacian(torchann.MLP([3, 4, 1], "tanh", device=DEVICE), random(5, 3))
        assert launches == []


class TestChoice:
    """Without a GPU: a stand-in for x, of which the choice reads device and dtype."""

    @pytest.fixture(autouse=True)
    def device_runs_kernels(self, monkeypatch):
        monkeypatch.setattr(series_triton, "runs_on", lambda device: device == "cuda")

    ON_CUDA = SimpleNamespace(is_cuda=True, device="cuda", dtype=torch.float32)
    ON_CPU = SimpleNamespace(is_cuda=False, device="cpu", dtype=torch.float32)

    @pytest.mark.parametrize(
        ("name", "expected"), [("auto", True), ("triton", True), ("inplace", False), ("readable", False)]
    )
    def test_on_cuda(self, name, expected):
        with torchann.implementation(name):
            assert (fast.series_kernels(self.ON_CUDA, Collapsed(torch.ones(2))) is series_triton) == expected
            assert fast.series_kernels(self.ON_CUDA, Taylor(2)) is None

    @pytest.mark.parametrize("name", ["auto", "triton"])
    def test_on_the_cpu(self, name):
        with torchann.implementation(name):
            assert fast.series_kernels(self.ON_CPU, Collapsed(torch.ones(2))) is None

    def test_without_triton(self, monkeypatch):
        monkeypatch.setattr(fast, "HAS_TRITON", False)
        assert fast.series_kernels(self.ON_CUDA, Collapsed(torch.ones(2))) is None


@pytest.mark.parametrize(("samples", "rows"), [(1 << 20, 1 << 20), (0, 1)])
def test_the_batch_is_one_block_where_there_is_no_cpu(samples, rows):
    plan = InBlocks(Collapsed(torch.ones(2)), 2, list(series_triton.CODES))
    assert plan.rows(samples, [torch.empty(64, 64, device="meta")]) == rows
    assert plan.rows(1 << 20, [torch.empty(64, 64)]) < 1 << 20


class TestCompiled:
    """The kernels compile, for a GPU that need not be there."""

    __test__ = not INTERPRETED

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_compiles(self, monkeypatch, tmp_path, activation, dtype):
        if not torch.cuda.is_available():
            monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
            triton.runtime.driver.set_active(AmpereAtADistance())  # for good: nothing else can ask for one
        compiled = []
        for name in ("activate_kernel", "delta_kernel"):
            monkeypatch.setattr(series_triton, name, CompiledOnly(getattr(series_triton, name), compiled))
        stack = torch.zeros(5, 33, 61, dtype=dtype)
        for kind in (Collapsed(torch.ones(3, dtype=dtype)), Collapsed(torch.ones(3, dtype=dtype), is_laplacian=True)):
            series_triton.activate_(stack, stack[0, 0], kind, activation)
            series_triton.activate_(stack, None, kind, activation)
            series_triton.activate_terms_(stack, kind, activation)
            series_triton.delta_(stack, stack, kind, activation)
        assert len(compiled) == 8
        for kernel in compiled:
            assert ("f64" in kernel.asm["ptx"]) == (dtype == torch.float64)
