"""The Triton kernels, compared with the readable sweeps.

On a GPU the tests run in this process. Without one they run in Triton's interpreter, in a child process: there
TRITON_INTERPRET=1 is set before anything imports Triton, so no other test runs a kernel on the CPU. Two things are
tested without the interpreter, for a GPU that need not be there: that the kernels compile, and what torch.compile makes
of them.
"""

import os
import subprocess
import sys
from itertools import cycle, islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import cases
import pytest
import torch
from cases import OWN_SIGMOID, plain

triton = pytest.importorskip("triton", reason="no Triton here: the kernels are not tested")

import torchann  # noqa: E402
from torchann import activations, fast, formulas  # noqa: E402
from torchann.fast import triton as tk  # noqa: E402
from torchann.functional import mlp  # noqa: E402
from torchann.sweeps import READABLE, NeedsGrad, to_keep  # noqa: E402

ROWS = [row for row in cases.ROWS.values() if tk.described(row)]
INTERPRETED = tk.INTERPRETED.value
DEVICE = "cpu" if INTERPRETED else "cuda"
RUNS_HERE = INTERPRETED or torch.cuda.is_available()
ROOT = Path(__file__).parent.parent


def run_in_the_interpreter(file):
    pytest.importorskip("numpy", reason="no NumPy, on which Triton's interpreter runs")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", file]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


if not INTERPRETED:

    @pytest.mark.slow
    def test_in_the_interpreter():
        run_in_the_interpreter(__file__)


@pytest.fixture
def small(monkeypatch):
    """Fills new memory with NaN, and makes blocks small, so that a program has several of them with few rows."""

    def poisoned(like, *shape, dtype=None):
        return like.new_full(shape, float("nan"), dtype=dtype)

    monkeypatch.setattr(tk, "empty", poisoned)
    monkeypatch.setattr(tk, "PROGRAMS", 2)
    monkeypatch.setattr(tk, "NARROW_IEEE_BACKWARD", tk.NARROW)


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def network(sizes, dtype, bias=True, names=("tanh", "relu", "sigmoid", "identity")):
    """Activations, weights and biases, scaled so that z is about 1."""
    depth = len(sizes) - 1
    rows = [activations.get(name) for name in islice(cycle(names), depth)]
    weights = [random(outputs, inputs, dtype=dtype) / inputs**0.5 for inputs, outputs in pairwise(sizes)]
    biases = [random(size, dtype=dtype) if bias else None for size in sizes[1:]]
    return rows, weights, biases


def exact(tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


def assert_near(found, expected, depth, longest_sum, sizes=None, names=None):
    """Compares the norm of each tensor's error with that of `sizes` (default: `expected`, in float64).

    A layer rounds twice to the dtype: z or δ, and what it gives to the next layer. Each rounding is by eps at most,
    since the interpreter truncates. A float32 sum of K terms errs by about √K of float32's eps.
    """
    for position, (mine, reference) in enumerate(zip(found, expected, strict=True)):
        name = names[position] if names else position
        assert (mine is None) == (reference is None), name
        if mine is None:
            continue
        assert mine.shape == reference.shape, name
        assert mine.isfinite().all(), name
        tolerance = 2 * depth * torch.finfo(mine.dtype).eps + longest_sum**0.5 * torch.finfo(torch.float32).eps
        size = reference.norm() if sizes is None else sizes[position].norm()
        error = (mine.double() - reference).norm()
        assert error <= tolerance * size, f"{name}: relative error {error / size:.1e}, allowed {tolerance:.1e}"


def assert_near_readable(x, rows, weights, biases, error, needs):
    """Compares forward and backward with the readable sweeps on the same tensors; returns the kernels' results."""
    depth, longest_sum = len(weights), max(*x.shape, *(weight.shape[0] for weight in weights))
    assert tk.supports(x, weights, rows)
    _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
    _, expected = READABLE.forward(x.double(), exact(weights), exact(biases), rows, [True] * len(weights))
    assert_near(kept, expected, depth, longest_sum, [o.abs() + 1 for o in expected])  # z, before f, is about 1
    signals = tk.TRITON.gradients(error, x, weights, kept, rows, needs)
    x, *below = exact([x, *kept[:-1]])
    weights, kept, none = exact(weights), exact(kept), [None] * depth
    expected = READABLE.backward(error.double(), none, x, weights, kept, rows, needs, with_deltas=True)
    # The terms of a sum may cancel, so its error is relative to the sum of their absolute values.
    deltas = [0 * o if delta is None else delta.abs() for o, delta in zip(kept, expected.deltas, strict=True)]
    sizes = [deltas[0] @ weights[0].abs()]
    sizes += [delta.t() @ received.abs() for delta, received in zip(deltas, [x, *below], strict=True)]
    sizes += [delta.sum(0) for delta in deltas]
    names = ["∂E/∂x", *(f"∂E/∂{parameter} {layer}" for parameter in "Wb" for layer in range(depth))]
    flat = ([found.x, *found.weights, *found.biases] for found in (signals, expected))
    assert_near(*flat, depth, longest_sum, sizes, names)
    return kept, signals


def everything(depth, bias=True):
    return NeedsGrad(True, [True] * depth, [bias] * depth)


@pytest.mark.usefixtures("small")
class TestAgainstTheReadableSweeps:
    __test__ = RUNS_HERE

    @pytest.mark.parametrize("dtype", tk.DTYPES, ids=str)
    @pytest.mark.parametrize("samples", [1, 7, 33, 130])
    @pytest.mark.parametrize("sizes", [
        [3, 1], [1, 17, 64, 3], [100, 128, 100],  # in one kernel
        [3, 130], [130, 17, 40, 300, 3], [17, 300, 64],  # layer by layer
    ], ids=str)  # fmt: skip
    def test_sizes(self, sizes, samples, dtype):
        rows, weights, biases = network(sizes, dtype)
        x, error = random(samples, sizes[0], dtype=dtype), random(samples, sizes[-1], dtype=dtype)
        assert_near_readable(x, rows, weights, biases, error, everything(len(weights)))

    @pytest.mark.parametrize("depth", [tk.DEEPEST, tk.DEEPEST + 1])  # in one kernel, and layer by layer
    @pytest.mark.parametrize("dtype", tk.DTYPES, ids=str)
    def test_deep(self, depth, dtype):
        rows, weights, biases = network([17] * (depth + 1), dtype)
        x, error = random(33, 17, dtype=dtype), random(33, 17, dtype=dtype)
        assert_near_readable(x, rows, weights, biases, error, everything(depth))

    @pytest.mark.parametrize("sizes", [[5, 4, 7, 3], [300, 4, 7, 3]], ids=str)
    @pytest.mark.parametrize("name", [row.name for row in ROWS])
    def test_without_biases(self, sizes, name):
        rows, weights, biases = network(sizes, torch.float32, bias=False, names=[name, "tanh"])
        x, error = random(33, sizes[0]), random(33, 3)
        assert_near_readable(x, rows, weights, biases, error, everything(3, bias=False))

    @pytest.mark.parametrize("sizes", [[5, 4, 7, 3], [5, 4, 130, 3]], ids=str)
    @pytest.mark.parametrize("needs", [
        NeedsGrad(False, [True] * 3, [True] * 3), NeedsGrad(True, [False] * 3, [False] * 3), NeedsGrad(False, [False, True, False], [False] * 3),
        NeedsGrad(False, [False, False, True], [True, False, False]), NeedsGrad(False, [False] * 3, [False, False, True]), NeedsGrad(False, [False] * 3, [False] * 3),
    ], ids=str)  # fmt: skip
    def test_computes_what_is_needed(self, sizes, needs):
        rows, weights, biases = network(sizes, torch.float32)
        x, error = random(70, 5), random(70, 3)
        assert_near_readable(x, rows, weights, biases, error, needs)

    @pytest.mark.parametrize("dtype", tk.DTYPES, ids=str)
    @pytest.mark.parametrize("sizes", [[5, 4, 4, 3], [5, 300, 4, 3]], ids=str)
    def test_strides(self, sizes, dtype):
        rows, weights, biases = network(sizes, dtype)
        weights = [weight.t().contiguous().t() for weight in weights]
        biases[0] = random(1, dtype=dtype).expand(sizes[1])
        x = random(10, 2 * 33, dtype=dtype).t()[::2, 1::2]
        error = random(1, 3, dtype=dtype).expand(33, 3)
        before = [tensor.clone() for tensor in (x, error, *weights, *biases)]
        kept, signals = assert_near_readable(x, rows, weights, biases, error, everything(3))
        kept = [o.to(dtype).t().contiguous().t() for o in kept]
        found = tk.TRITON.gradients(error, x, weights, kept, rows, everything(3))
        assert_near(found.weights, exact(signals.weights), 3, 33)
        torch.testing.assert_close([x, error, *weights, *biases], before, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", tk.DTYPES, ids=str)
    @pytest.mark.parametrize("sizes", [[5, 40, 7, 3], [5, 300, 7, 3]], ids=str)
    def test_the_same_bits_again(self, sizes, dtype):
        rows, weights, biases = network(sizes, dtype)
        x, error = random(130, 5, dtype=dtype), random(130, 3, dtype=dtype)
        runs = []
        for _ in range(2):
            _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
            runs.append((kept, tuple(tk.TRITON.gradients(error, x, weights, kept, rows, everything(3)))))
        torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=0)

    @pytest.mark.parametrize("sizes", [[5, 4, 7, 3], [5, 300, 7, 3]], ids=str)
    def test_output_alone(self, sizes):
        rows, weights, biases = network(sizes, torch.float32)
        x = random(33, 5)
        output, kept = tk.TRITON.forward(x, weights, biases, rows, [False] * len(weights))
        assert kept == [None] * len(weights)
        torch.testing.assert_close(
            output, tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))[0], rtol=0, atol=0
        )

    @pytest.mark.parametrize("sizes", [[5, 4, 7, 3], [5, 300, 7, 3]], ids=str)
    @pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)], ids=["x", "W", "b alone"])
    def test_tensors_that_are_not_read_may_be_missing(self, sizes, needs):
        """x, the first W and the outputs that the Function does not save are None."""
        x_needs, weights_need = needs
        rows, weights, biases = network(sizes, torch.float32, names=["sigmoid", "identity", "identity"])
        x, error = random(33, 5), random(33, 3)
        needs = NeedsGrad(x_needs, [weights_need] * 3, [True] * 3)
        _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
        expected = tk.TRITON.gradients(error, x, weights, kept, rows, needs)
        keep = to_keep(rows, needs.weights)
        kept = [s if keeps else None for s, keeps in zip(kept, keep, strict=True)]
        x, first = x if weights_need else None, weights[0] if x_needs else None
        found = tk.TRITON.gradients(error, x, [first, *weights[1:]], kept, rows, needs)
        assert None in (x, first, *kept)
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, in the interpreter
    @pytest.mark.parametrize("sizes", [[5, 4, 7, 3], [5, 300, 7, 3]], ids=str)
    def test_what_is_not_finite(self, sizes):
        """NaN and infinity stay in their row, and padding turns no infinity into NaN."""
        rows, weights, biases = network(sizes, torch.float32, names=["identity", "sigmoid", "relu"])
        x, error = random(33, 5), random(33, 3)
        x[3, 0], x[4, 1], x[20] = float("inf"), float("-inf"), float("nan")
        error[5, 0], error[6] = float("inf"), float("nan")
        for parameter in (*weights, biases[-1]):
            parameter.abs_()  # so that an infinity gets through, and no ∞ − ∞ makes a NaN
        _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
        _, expected = READABLE.forward(x, weights, biases, rows, [True] * len(weights))
        # A few operations on numbers of about 1, or sums of them
        torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        needs = NeedsGrad(True, [False] * 3, [False] * 3)
        found = tk.TRITON.gradients(error, x, weights, expected, rows, needs).x
        expected = READABLE.backward(error, None, x, weights, expected, rows, needs).x
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)

    def test_what_comes_from_above_takes_the_ordinary_sweep(self):
        rows, weights, biases = network([5, 4, 3], torch.float32)
        x, error, zeta = (random(7, width) for width in (5, 3, 4))
        _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
        for given in ((error, [zeta, None]), (None, [zeta, None]), (None, [None, None])):
            found, expected = (
                s.backward(*given, x, weights, kept, rows, everything(2)) for s in (tk.TRITON, fast.FAST)
            )
            torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)


Z = [0.0, -0.0, 1e-30, 1e-4, 0.1249, 0.125, 0.1251, 0.5, 1.0, 3.0, 9.0, 20.0, 88.0, 104.0, 1e30, float("inf")]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("activation", ROWS, ids=str)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")  # NumPy's, in the interpreter
class TestActivations:
    """f and f′ as the kernels compute them, in a layer whose only weight is 1."""

    __test__ = RUNS_HERE

    # exp and the division of float32 on a GPU err by 2 units in the last place each, of which there are a few.
    TOLERANCE = {"rtol": 8 * torch.finfo(torch.float32).eps, "atol": torch.finfo(torch.float32).tiny}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def one_kernel_or_two(self, monkeypatch, fused):
        monkeypatch.setattr(tk, "FUSED_INPUTS_IEEE", 1 if fused else 0)

    def test_f(self, activation, fused):
        z = torch.tensor(Z + [-z for z in Z] + [float("nan")], device=DEVICE).unsqueeze(1)
        one = z.new_ones(1, 1)
        (found,) = tk.layered_forward(z, [one], [None], [tk.code_of(activation)], keep=True)
        expected = formulas.activate(z.double(), activation).float()
        torch.testing.assert_close(found, expected, equal_nan=True, **self.TOLERANCE)

    def test_delta(self, activation, fused):
        z = torch.tensor(Z + [-z for z in Z if z < 1e30] + [float("nan")], device=DEVICE).unsqueeze(1)
        o, error = activation.f(z), torch.randn_like(z)
        needs = NeedsGrad(True, [False], [True])
        signals = tk.layered_backward(error, z, [z.new_ones(1, 1)], [o], [tk.code_of(activation)], needs)
        expected = formulas.delta(error.double(), o.double(), activation).float()
        # 1 − o is taken in float32, of an o near 1
        torch.testing.assert_close(
            signals.x, expected, rtol=self.TOLERANCE["rtol"], atol=torch.finfo(torch.float32).eps, equal_nan=True
        )


class TestSuit:
    __test__ = RUNS_HERE

    def test_a_row_of_the_table_without_a_kernel_takes_the_aten_path(self):
        weights = [torch.ones(4, 3, device=DEVICE)]
        for activation in {**activations.TABLE, "own": OWN_SIGMOID}.values():
            assert tk.supports(torch.ones(9, 3, device=DEVICE), weights, [activation]) == (activation in ROWS)

    @pytest.mark.parametrize(
        ("x", "weight"),
        [
            (torch.ones(9, 3, dtype=torch.float64, device=DEVICE if RUNS_HERE else "cpu"), (4, 3)),
            (torch.ones(0, 3, device=DEVICE if RUNS_HERE else "cpu"), (4, 3)),
            (torch.ones(9, 0, device=DEVICE if RUNS_HERE else "cpu"), (4, 0)),
            (torch.ones(9, 3, device=DEVICE if RUNS_HERE else "cpu"), (0, 3)),
            (torch.ones(9, 3, device="meta"), (4, 3)),
            (
                torch.ones(9, 3, device=DEVICE if RUNS_HERE else "cpu").as_subclass(type("Own", (torch.Tensor,), {})),
                (4, 3),
            ),
        ],
        ids=["float64", "no rows", "no inputs", "no outputs", "meta", "subclass"],
    )
    def test_does_not_suit(self, x, weight):
        assert not tk.supports(x, [torch.ones(weight, device=x.device)], [activations.get("sigmoid")])

    def test_no_device_but_its_own(self):
        assert tk.runs_on(torch.device(DEVICE))
        assert not tk.runs_on(torch.device("cuda" if INTERPRETED else "cpu"))

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"allow_tf32": True}, "tf32"),
            ({"allow_tf32": False}, "ieee"),
            ({"fp32_precision": "tf32"}, "tf32"),
            ({"fp32_precision": "none"}, "ieee"),
        ],
        ids=str,
    )
    def test_float32_is_as_precise_as_on_cublas(self, monkeypatch, settings, expected):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**settings))
        assert tk.precision() == expected
        assert tk.is_ieee(torch.float32) == (expected == "ieee")
        assert not tk.is_ieee(torch.bfloat16)

    @pytest.mark.parametrize("sizes", [[128, 128], [3] * 9, [129, 3], [3, 129], [3] * 10], ids=str)
    def test_narrow(self, sizes):
        _, weights, _ = network(sizes, torch.float32)
        assert tk.is_narrow(weights) == (max(sizes) <= tk.NARROW and len(weights) <= tk.DEEPEST)


@pytest.mark.usefixtures("small")
class TestThroughTheFunctions:
    __test__ = RUNS_HERE

    @pytest.mark.parametrize("hidden", [20, 130])
    def test_first_and_second_gradients(self, hidden):
        rows, weights, biases = network([5, hidden, 3], torch.float32, names=["tanh", "sigmoid"])
        inputs = [random(33, 5), *weights, *biases]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
        with torchann.implementation("triton"):
            found, expected = (
                gradients(run(x, parameters[:2], parameters[2:], rows), [x, *parameters])
                for run, (x, *parameters) in ((mlp, inputs), (plain, doubles))
            )
        for mine, reference in zip(found, expected, strict=True):
            assert_near(mine, reference, 2, 130)


def gradients(output, inputs):
    """The gradients of the output, and those of the sum of the sines of these gradients."""
    first = torch.autograd.grad(output.sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.sin().sum() for gradient in first), inputs)
    return first, second


KERNELS = {name: kernel for name, kernel in vars(tk).items() if name.endswith("_kernel")}


class TestCompiled:
    """The kernels compile, and torch.compile puts them into its graph, for a GPU that need not be there."""

    __test__ = not INTERPRETED
    NETWORKS = ([5, 17, 64, 3], [64, 200, 300, 3])  # in one kernel, and layer by layer

    @pytest.fixture(autouse=True)
    def target(self, monkeypatch, tmp_path):
        if not torch.cuda.is_available():
            monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
            triton.runtime.driver.set_active(AmpereAtADistance())  # for good: nothing else can ask for one

    @pytest.mark.parametrize("sizes", NETWORKS, ids=str)
    @pytest.mark.parametrize(
        ("dtype", "tf32"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
    )
    def test_compiles(self, monkeypatch, sizes, dtype, tf32):
        compiled = []
        for name, kernel in KERNELS.items():
            monkeypatch.setattr(tk, name, CompiledOnly(kernel, compiled))
        monkeypatch.setattr(tk, "precision", lambda: "tf32" if tf32 else "ieee")
        monkeypatch.setattr(sys.modules[__name__], "DEVICE", "cpu")
        rows, weights, biases = network(sizes, dtype)
        x, error = random(1000, sizes[0], dtype=dtype), random(1000, 3, dtype=dtype)
        _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
        tk.TRITON.gradients(error, x, weights, kept, rows, everything(3))
        assert compiled
        for kernel in compiled:
            assert kernel.metadata.shared <= 99 << 10  # the least that a GPU from Ampere on has for a program
            if kernel.name.startswith("narrow"):
                assert ("tf32" in kernel.asm["ptx"]) == tf32
                assert ("mma" in kernel.asm["ptx"]) == (tf32 or dtype != torch.float32)

    @pytest.mark.parametrize("kind", {tk.described(row)[0]: row.name for row in ROWS}.values())
    def test_each_kind_of_activation_compiles(self, monkeypatch, kind):
        compiled = []
        for name, kernel in KERNELS.items():
            monkeypatch.setattr(tk, name, CompiledOnly(kernel, compiled))
        monkeypatch.setattr(sys.modules[__name__], "DEVICE", "cpu")
        rows, weights, biases = network([16, 16], torch.float32, names=[kind])
        x = random(16, 16)
        _, kept = tk.TRITON.forward(x, weights, biases, rows, [True])
        tk.TRITON.gradients(random(16, 16), x, weights, kept, rows, everything(1))
        assert [kernel.name for kernel in compiled] == ["narrow_forward_kernel", "narrow_backward_kernel"]

    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("sizes", NETWORKS, ids=str)
    @pytest.mark.skipif(torch.__version__ < "2.10", reason="PyTorch 2.9 compiles nothing inside a FakeTensorMode")
    def test_is_an_op_in_the_graph(self, monkeypatch, sizes, dynamic):
        from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
        from torch._subclasses import FakeTensorMode

        monkeypatch.setattr(sys.modules[__name__], "DEVICE", "cuda")
        seen = {}

        def backend(graph, inputs):
            seen["dynamo"] = targets(graph)
            return aot_module_simplified(graph, inputs, fw_compiler=lower)

        def lower(graph, _):
            seen["aot"] = targets(graph)
            return make_boxed_func(graph)

        def both_ways(x, weights, biases, error):
            _, kept = tk.TRITON.forward(x, weights, biases, rows, [True] * len(weights))
            return tuple(tk.TRITON.gradients(error, x, weights, kept, rows, everything(3))[:3])

        with FakeTensorMode():
            rows, weights, biases = network(sizes, torch.float32)
            x, error = random(33, sizes[0]), random(33, 3)
            torch.compile(both_ways, backend=backend, fullgraph=True, dynamic=dynamic)(x, weights, biases, error)
        torch._dynamo.reset()
        narrow = max(sizes) <= tk.NARROW
        ops = ["narrow_forward", "narrow_backward"] if narrow else ["linear_activate"] * 3 + ["delta_and_sum"] * 3
        assert [target for target in seen["dynamo"] if "torchann" in target] == [f"torchann.{op}.default" for op in ops]
        assert seen["aot"].count("triton_kernel_wrapper_functional") == len(ops)
        assert not any("torchann" in target for target in seen["aot"])


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


class AmpereAtADistance:
    """The part of a GPU's driver that compiling needs."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 80, 32)


class CompiledOnly:
    """A kernel that is compiled instead of launched."""

    def __init__(self, kernel, compiled):
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.compiled.append(self.kernel.warmup(*arguments, grid=grid, **options))
