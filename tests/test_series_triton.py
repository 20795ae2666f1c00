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


def taylor(order):
    def kind(directions, dtype):
        return Taylor(order)

    kind.__name__ = f"order {order}"
    return kind


def height(kind, directions):
    return InBlocks(kind, directions, ()).height


def directions_of(kind, stack):
    return len(stack) - 2 if isinstance(kind, Collapsed) else (len(stack) - 1) // kind.order


def terms_of(kind, stack):
    return InBlocks(kind, directions_of(kind, stack), ()).terms(stack)


def stacked(tensors):
    """Values [n, O] and terms [R, n, O] as one stack."""
    return torch.cat([each if each.dim() == 3 else each[None] for each in tensors])


def exact(kind):
    return Collapsed(kind.coefficients.double(), kind.is_laplacian) if isinstance(kind, Collapsed) else kind


def activated(z, kind, activation):
    """The stack of o = f(z) in float64, by `jets`."""
    z = z.double()
    value, terms = jets.activate(exact(kind), Series(z[0], terms_of(kind, z)), activation)
    return stacked([value, *terms])


def delta(grads, outputs, kind, activation):
    """The stack of δ in float64, by `fast.series`."""
    found = grads.to(torch.float64, copy=True)
    plan = InBlocks(exact(kind), directions_of(kind, grads), [activation])
    plan.delta_(found, Kept(outputs.double()), activation)
    return found


def assert_near(found, expected, sizes, kind):
    """Compares entry by entry. sizes: of value and terms, the formula with |f|, |p| ≤ 1 and |p′|, |p″| ≤ 2.

    f errs by 8 eps at most, as `test_triton` says, and p and p′ by twice that. A term of each order of a Taylor series
    is a product of p′ and the one before. A product and an addition to a sum over the directions add an eps each. A
    result is stored with an error of an eps of its dtype: the interpreter truncates.
    """
    rounding, arithmetic = (
        torch.finfo(dtype) for dtype in (found.dtype, torch.promote_types(found.dtype, torch.float32))
    )
    sizes = stacked(sizes)
    roundings = 20 * (kind.order if isinstance(kind, Taylor) else 1) + len(found)
    allowed = (rounding.eps + roundings * arithmetic.eps) * sizes + rounding.tiny * rounding.eps
    error = (found.double() - expected).abs()
    assert (error <= allowed).all(), f"in terms {sorted({*(~(error <= allowed)).nonzero()[:, 0].tolist()})}"


def sizes_of_outputs(z, kind):
    """For `assert_near`: of o and its terms, from those of z."""
    terms = [term.double().abs() for term in terms_of(kind, z)]
    if isinstance(kind, Collapsed):
        first, last = terms
        return torch.ones_like(last), first, last + 2 * squares(kind, first)
    outputs, w = [], [torch.ones_like(terms[0])]
    for k in range(1, kind.order + 1):
        outputs.append(sum(j * terms[j - 1] * w[k - j] for j in range(1, k + 1)) / k)
        w.append(size_of_slope(outputs, k))
    return torch.ones_like(terms[0][0]), *outputs


def sizes_of_deltas(grads, outputs, kind):
    """For `assert_near`: of δ of the value and the terms, from ē and o."""
    grad, grad_terms = grads[0].double().abs(), [each.double().abs() for each in terms_of(kind, grads)]
    outputs = [each.double().abs() for each in terms_of(kind, outputs)]
    if isinstance(kind, Collapsed):
        (first, last), (grad_first, grad_last) = outputs, grad_terms
        cross = (first * grad_first).sum(0) + last * grad_last
        scaled = kind.coefficients.double().abs().view(-1, 1, 1) * first
        return grad + 2 * cross + 2 * squares(kind, first) * grad_last, grad_first + 4 * scaled * grad_last, grad_last
    orders = range(1, kind.order + 1)
    w = [torch.ones_like(outputs[0]), *(size_of_slope(outputs, k) for k in orders)]
    value = grad + sum((w[k] * grad_terms[k - 1]).sum(0) for k in orders)
    return value, *(sum(w[k - j] * grad_terms[k - 1] for k in orders if k >= j) for j in orders)


def squares(kind, first):
    """Σ |c_r| o_r²"""
    return (kind.coefficients.double().abs().view(-1, 1, 1) * first**2).sum(0)


def size_of_slope(outputs, k):
    """Of w_k = p′ o_k + ½ p″ Σᵢ o_i o_{k−i}."""
    return 2 * outputs[k - 1] + sum(outputs[i - 1] * outputs[k - i - 1] for i in range(1, k))


def name_of(parameter):
    return getattr(parameter, "__name__", None)


CASES = [
    *((kind, directions) for kind in (weighted, ones) for directions in range(1, 10)),
    *((taylor(order), directions) for order in (1, 2, 3, 4, series_triton.HIGHEST_ORDER) for directions in (1, 3)),
]
CASES_OF_DTYPES = [
    *((kind, directions) for kind in (weighted, ones) for directions in (1, 2, 9)),
    *((taylor(order), 3) for order in (2, 4)),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestKernels:
    __test__ = RUNS_HERE

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize(("kind", "directions"), CASES, ids=name_of)
    def test_float64(self, activation, kind, directions, shape):
        self.compare(activation, kind(directions, torch.float64), directions, shape, torch.float64)

    @pytest.mark.parametrize("dtype", series_triton.DTYPES, ids=str)
    @pytest.mark.parametrize(("kind", "directions"), CASES_OF_DTYPES, ids=name_of)
    def test_dtypes(self, activation, kind, directions, dtype):
        self.compare(activation, kind(directions, dtype), directions, (33, 61), dtype)

    def compare(self, activation, kind, directions, shape, dtype):
        z, grads = (random(height(kind, directions), *shape, dtype=dtype) for _ in range(2))
        bias = random(shape[1], dtype=dtype)
        plus_bias = z.to(torch.float64, copy=True)
        plus_bias[0] += bias
        outputs = z.clone()
        series_triton.activate_(outputs, bias, kind, activation)
        expected, sizes = activated(plus_bias, kind, activation), sizes_of_outputs(z, kind)
        assert_near(outputs, expected, sizes, kind)
        without_value = z.clone()
        without_value[0] = outputs[0]
        series_triton.activate_terms_(without_value, kind, activation)
        assert_near(without_value, expected, sizes, kind)

        found = grads.clone()
        series_triton.delta_(found, outputs, kind, activation)
        assert_near(found, delta(grads, outputs, kind, activation), sizes_of_deltas(grads, outputs, kind), kind)

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
    @pytest.mark.parametrize("make", [ones, taylor(2)], ids=["Δ along 3", "order 2 along 2"])
    def test_nan_passes_through(self, activation, make, term):
        """In the entry that has it, and in the terms that read it."""
        kind = make(3, torch.float64)
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
            (Taylor(2), torch.float32, True),
            (Taylor(series_triton.HIGHEST_ORDER), torch.float64, True),
            (Taylor(series_triton.HIGHEST_ORDER + 1), torch.float64, False),
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


def compare(run, launches, kernels, atol):
    """The results by Triton's kernels and by the readable sweeps, in float64; only the former launch kernels."""
    with torchann.implementation("readable"):
        expected = run()
    assert launches == []
    with torchann.implementation("triton"):
        found = run()
    assert launches == kernels
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=atol)


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

        # The first layer's outputs are computed once more in the backward pass.
        kernels = ["activate_collapsed_kernel"] * 4 + ["delta_collapsed_kernel"] * 3
        compare(run, launches, kernels, atol=1e-11)  # sums of a few hundred terms of about 1

    def test_directions_of_each_sample(self, launches):
        weights = [random(*shape, dtype=torch.float64).requires_grad_() for shape in ((7, 3), (2, 7))]
        x, tangents, second = (random(*shape, 13, 3, dtype=torch.float64) for shape in ((), (4,), ()))
        coefficients = random(4, dtype=torch.float64)

        def run():
            found = torchann.functional.laplacian(x, weights, None, "tanh", coefficients, tangents, second)
            return [*found, *torch.autograd.grad(sum(each.sin().sum() for each in found), weights)]

        kernels = ["activate_collapsed_kernel"] * 2 + ["delta_collapsed_kernel"] * 2
        compare(run, launches, kernels, atol=1e-11)  # sums of about 100 terms of about 1

    @pytest.mark.parametrize("order", [1, 3, 4])
    def test_jet_and_its_gradients(self, launches, order):
        layers = [torchann.Dense(*sizes) for sizes in ((3, 17, "tanh"), (17, 9, "sigmoid"), (9, 2, "tanh"))]
        net = torch.nn.Sequential(*layers).to(DEVICE, torch.float64)
        x, directions = random(70, 3, dtype=torch.float64), random(2, 3, dtype=torch.float64)

        def run():
            found = torchann.jet(net, x, directions, order)
            found = [found.value, *found.derivatives]
            return [*found, *torch.autograd.grad(sum(each.sin().sum() for each in found), net.parameters())]

        # The first layer's outputs are computed once more in the backward pass.
        kernels = ["activate_taylor_kernel"] * 4 + ["delta_taylor_kernel"] * 3
        compare(run, launches, kernels, atol=1e-10)  # sums of a few hundred terms of up to about 10

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
            assert (fast.series_kernels(self.ON_CUDA, Taylor(2)) is series_triton) == expected

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
        for name in ("activate_collapsed", "delta_collapsed", "activate_taylor", "delta_taylor"):
            kernel = f"{name}_kernel"
            monkeypatch.setattr(series_triton, kernel, CompiledOnly(getattr(series_triton, kernel), compiled))
        weights = torch.ones(3, dtype=dtype)
        for kind in (Collapsed(weights), Collapsed(weights, is_laplacian=True), Taylor(3)):
            stack = torch.zeros(height(kind, 3), 33, 61, dtype=dtype)
            series_triton.activate_(stack, stack[0, 0], kind, activation)
            series_triton.activate_(stack, None, kind, activation)
            series_triton.activate_terms_(stack, kind, activation)
            series_triton.delta_(stack, stack, kind, activation)
        assert len(compiled) == 12
        for kernel in compiled:
            assert ("f64" in kernel.asm["ptx"]) == (dtype == torch.float64)
