"""Every implementation of the sweeps is held to the readable one: implementation × shapes × needed gradients × activation.

A new implementation is tested by a row in `IMPLEMENTATIONS`, a new activation by its row in the table: in one shape, and
in all of them if it is the first of its kind. Two have files of
their own: Triton's kernels, which need its interpreter, and the node in C++, which needs a compiler.
"""

from pathlib import Path

import pytest
import torch
from cases import EXACT, OWN_SIGMOID, ROWS, SINE, check_all_modes, parameters

import torchann
from torchann import MLP, activations, fast
from torchann.fast import FAST, FUSED, inplace
from torchann.fast.checkpointed import Checkpointed
from torchann.fast.inplace import SMALL, WHOLE, InBlocks
from torchann.functional import mlp
from torchann.sweeps import READABLE, NeedsGrad, to_keep

ROOT = Path(__file__).parent.parent
IMPLEMENTATIONS = {
    "fused": FUSED,
    "out of place": FAST,
    "small": SMALL,
    "whole": WHOLE,
    "in blocks": InBlocks(4, 4),
    "in blocks, backward alone": InBlocks(None, 5),
    "checkpointed, readable": Checkpointed(READABLE, 2),
    "checkpointed, in blocks": Checkpointed(InBlocks(4, 4), 2),
    "checkpointed, small": Checkpointed(SMALL, 3),
}
FIRST_OF_ITS_KIND = {  # what f′ reads, and whether there are kernels
    (row.reads, bool(row.aten)): row.name for row in reversed(activations.TABLE.values())
}
NETWORKS = {name: [name] * 3 for name in FIRST_OF_ITS_KIND.values()} | {
    "mixed": ["sigmoid", "identity", "relu"],
    "own": [SINE, OWN_SIGMOID, "tanh"],
}
SIZES = [5, 4, 7, 3]
YES, NO = [True] * 3, [False] * 3
NEEDS = {
    "everything": NeedsGrad(True, YES, YES),
    "parameters": NeedsGrad(False, YES, YES),
    "weights": NeedsGrad(False, YES, NO),
    "x": NeedsGrad(True, NO, NO),
    "a weight": NeedsGrad(False, [False, True, False], NO),
    "a weight and a bias": NeedsGrad(False, [False, False, True], [True, False, False]),
    "the last bias": NeedsGrad(False, NO, [False, False, True]),
    "nothing": NeedsGrad(False, NO, NO),
}
SAMPLES = {"none": 0, "few": 6, "blocks and a rest": 14}


def network(names, samples, bias=True):
    rows = [activations.get(name) for name in names]
    weights, biases = parameters(SIZES, bias, requires_grad=False)
    weights = [weight / 4 for weight in weights]  # or exp of exp of exp would overflow
    x = torch.randn(5, samples, dtype=torch.float64).t()  # not contiguous
    grad_output = torch.randn(1, 3, dtype=torch.float64).expand(samples, 3)
    return x, grad_output, weights, biases, rows


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("names", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
class TestAgainstTheReadableSweeps:
    @pytest.mark.parametrize("bias", [True, False])
    def test_output(self, implementation, names, samples, bias):
        x, _, *layers = network(names, samples, bias)
        output, _ = implementation.forward(x, *layers, YES)
        torch.testing.assert_close(output, READABLE.forward(x, *layers, YES)[0], **EXACT)

    def test_keeps_what_it_is_told_to(self, implementation, names, samples):
        x, _, *layers = network(names, samples)
        if isinstance(implementation, Checkpointed):
            return  # which keeps what it computes the rest from
        for keep in (YES, NO, [True, False, True]):
            _, kept = implementation.forward(x, *layers, keep)
            torch.testing.assert_close(kept, READABLE.forward(x, *layers, keep)[1], **EXACT)

    @pytest.mark.parametrize("needs", NEEDS.values(), ids=NEEDS)
    def test_gradients(self, implementation, names, samples, needs):
        check_gradients(implementation, names, samples, needs)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ROWS)
def test_each_activation(implementation, name):
    check_gradients(implementation, [name] * 3, SAMPLES["blocks and a rest"], NEEDS["everything"])


def check_gradients(implementation, names, samples, needs):
    """Compares the gradients, computed only from what the Functions keep."""
    x, grad_output, weights, biases, rows = network(names, samples)
    before = grad_output.clone()
    output, kept = READABLE.forward(x, weights, biases, rows, YES)
    expected = READABLE.backward(grad_output, None, x, weights, kept, rows, needs)
    found_output, kept = implementation.forward(x, weights, biases, rows, to_keep(rows, needs.weights))
    found = implementation.gradients(
        grad_output,
        x if needs.weights[0] else None,
        [weights[0] if needs.x else None, *weights[1:]],
        kept,
        rows,
        needs,
    )
    torch.testing.assert_close(found_output, output, **EXACT)
    for mine, reference in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)
    torch.testing.assert_close(grad_output, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if "checkpointed" not in name])
@pytest.mark.parametrize("with_error", [True, False])
def test_the_gradient_that_a_double_backward_gives_z_is_added(name, with_error):
    x, grad_output, weights, biases, rows = network(["sigmoid"] * 3, 14)
    _, kept = READABLE.forward(x, weights, biases, rows, YES)
    z_grads = [torch.randn(14, 4, dtype=torch.float64), None, None]
    given = grad_output if with_error else None, z_grads, x, weights
    found = IMPLEMENTATIONS[name].backward(*given, list(kept), rows, NEEDS["everything"])
    expected = READABLE.backward(*given, kept, rows, NEEDS["everything"])
    torch.testing.assert_close(found[:3], expected[:3], **EXACT)


@pytest.mark.parametrize("implementation", [SMALL, WHOLE], ids=["small", "whole"])
def test_frees_outputs_on_the_way(implementation):
    """The backward sweep drops a layer's output before it goes on to the layer below."""
    x, grad_output, weights, biases, rows = network(["sigmoid"] * 3, 6)
    _, kept = implementation.forward(x, weights, biases, rows, YES)
    implementation.gradients(grad_output, x, weights, kept, rows, NEEDS["parameters"])
    assert kept == []


# --- Kernels ----------------------------------------------------------------------------------------------------------


def test_the_page_says_which_code_computes_each_activation():
    """`python -m benchmarks.paths` writes the list, where a new activation is missing."""
    pytest.importorskip("torchann.fast.triton", exc_type=ImportError)
    from benchmarks import paths

    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert page.partition(paths.BEGIN)[2].partition(paths.END)[0].strip().splitlines() == paths.table().splitlines()


# --- The choice -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of four rows, for networks of any size."""
    monkeypatch.setattr(inplace, "MIN_ROWS", 4)
    monkeypatch.setattr(inplace, "MIN_BLOCKS", 3)
    monkeypatch.setattr(inplace, "BLOCK_BYTES", 1)
    monkeypatch.setattr(fast, "SMALL_FLOPS", 0)


class Subclass(torch.Tensor):
    pass


SIGMOIDS = [activations.get("sigmoid")] * 2
WEIGHTS = [torch.ones(4, 3), torch.ones(4, 4)]
CHOICES = {
    "few rows": ((torch.ones(11, 3), WEIGHTS, SIGMOIDS), WHOLE),
    "a short dtype": ((torch.ones(13, 3, dtype=torch.bfloat16), WEIGHTS, SIGMOIDS), WHOLE),
    "another device": ((torch.ones(13, 3, device="meta"), WEIGHTS, SIGMOIDS), WHOLE),
    "a subclass": ((torch.ones(13, 3).as_subclass(Subclass), WEIGHTS, SIGMOIDS), READABLE),
    "a subclass among weights": (
        (torch.ones(13, 3), [WEIGHTS[0], WEIGHTS[1].as_subclass(Subclass)], SIGMOIDS),
        READABLE,
    ),
}


@pytest.mark.parametrize(("arguments", "expected"), CHOICES.values(), ids=CHOICES)
@pytest.mark.usefixtures("small_blocks")
def test_choice(arguments, expected):
    x, weights, rows = arguments
    assert fast.choose(x, weights, [None] * 2, rows) is expected
    in_blocks = fast.choose(torch.ones(13, 3), WEIGHTS, [None] * 2, SIGMOIDS)
    assert (in_blocks.forward_rows, in_blocks.backward_rows) == (4, 4)


@pytest.mark.parametrize("seen_by", ["mode", "transform", "compile"])
def test_the_readable_sweeps_run_where_operations_are_observed(seen_by):
    assert fast.choose(torch.ones(5, 3), WEIGHTS, [None] * 2, SIGMOIDS, seen_by) is READABLE


def test_small_networks_get_sweeps_without_per_layer_checks():
    weights = [torch.ones(32, 32)] * 2
    assert fast.choose(torch.ones(8, 32), weights, [None] * 2, SIGMOIDS) is SMALL
    assert fast.choose(torch.ones(1 << 12, 32), weights, [None] * 2, SIGMOIDS) is not SMALL


@pytest.mark.usefixtures("small_blocks")
def test_a_network_in_blocks_in_every_mode():
    x = torch.randn(13, 3, dtype=torch.float64, requires_grad=True)
    weights, biases = parameters([3, 4, 2])
    assert isinstance(fast.choose(x, weights, biases, [activations.get("tanh")] * 2), InBlocks)
    check_all_modes(lambda x, *p: mlp(x, p[:2], p[2:], "tanh"), (x, *weights, *biases))


@pytest.mark.usefixtures("small_blocks")
def test_keeps_outputs_for_another_backward():
    x = torch.randn(13, 3, dtype=torch.float64, requires_grad=True)
    output = mlp(x, *parameters([3, 4, 2]))
    first = torch.autograd.grad(output.sum(), x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), x), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(output.sum(), x)


# --- The user's choice ------------------------------------------------------------------------------------------------


@pytest.fixture
def used(monkeypatch):
    """The implementations whose forward ran."""
    found = []
    for implementation in (READABLE, FAST, SMALL, WHOLE):
        forward = implementation.forward
        monkeypatch.setattr(
            implementation, "forward", lambda *args, f=forward, i=implementation: (found.append(i), f(*args))[1]
        )
    return found


class TestImplementation:
    def test_readable(self, used):
        net, x = MLP([3, 4, 1]), torch.randn(5, 3)
        expected = net(x)
        with torchann.implementation("readable"):
            torch.testing.assert_close(net(x), expected)
        net(x)
        assert used == [SMALL, READABLE, SMALL]

    def test_inplace(self, used):
        with torchann.implementation("inplace"):
            MLP([3, 4, 1])(torch.randn(5, 3))
        assert used == [WHOLE]

    def test_is_a_setting_as_well(self, used):
        try:
            torchann.implementation("readable")
            MLP([3, 4, 1])(torch.randn(5, 3))
        finally:
            torchann.implementation("auto")
        assert used == [READABLE]

    def test_comes_back_after_an_error(self):
        with pytest.raises(ZeroDivisionError), torchann.implementation("readable"):
            raise ZeroDivisionError
        assert fast.forced == "auto"

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_all_give_the_same_derivatives(self, order):
        net, x = MLP([3, 4, 1], "tanh", dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        found = []
        for name in ("readable", "inplace", "auto"):
            with torchann.implementation(name):
                derivative = net(x)
                for _ in range(order):
                    derivative = torch.autograd.grad(derivative.sin().sum(), net.layers[0].weight, create_graph=True)[0]
                found.append(derivative)
        torch.testing.assert_close(found[1:], [found[0]] * 2, **EXACT)

    def test_unknown(self):
        with pytest.raises(ValueError, match=r"implementation: expected one of 'auto', 'readable', .* got 'fast'"):
            torchann.implementation("fast")

    def test_native_that_is_not_enabled(self, monkeypatch):
        monkeypatch.setattr(fast, "native", None)
        with pytest.raises(RuntimeError, match=r"call torchann\.native\.enable"):
            torchann.implementation("native")

    def test_no_triton(self, monkeypatch):
        monkeypatch.setattr(fast, "HAS_TRITON", False)
        with pytest.raises(RuntimeError, match="Triton is not installed"):
            torchann.implementation("triton")

    @pytest.mark.parametrize(
        ("name", "run", "reason"),
        [
            ("inplace", lambda x: MLP([3, 4, 1])(x.as_subclass(Subclass)), "a Subclass may have operations"),
            ("inplace", lambda x: torch.func.vmap(MLP([3, 4, 1]))(x), "a transform is active"),
        ],
    )
    def test_one_that_cannot_run(self, name, run, reason):
        with torchann.implementation(name), pytest.raises(RuntimeError, match=reason):
            run(torch.randn(5, 3))

    def test_readable_runs_everywhere(self):
        net, x = MLP([3, 4, 1], SINE), torch.randn(5, 3)
        with torchann.implementation("readable"):
            torch.testing.assert_close(torch.func.vmap(net)(x), net(x))
            torch.testing.assert_close(torch.compile(net, backend="eager")(x), net(x))
