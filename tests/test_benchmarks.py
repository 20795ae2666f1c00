"""The benchmarks measure what they say. No test asserts a time."""

import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cases import plain
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import __main__ as command
from benchmarks import floor, measure, memory, peers, report
from benchmarks.competitors import TASKS, enter, make_problem, names, on_leaves
from benchmarks.rows import ROWS, Row
from torchann import fast, native
from torchann.fast.inplace import InPlace

UNCOMPILED = ["eager", "convert", "dense", "mlp", "floor"]
SMALL = {
    "sigmoid": Row(5, (3, 4, 2, 1)),
    "x needs a gradient": Row(5, (3, 4, 2, 1), "relu", x_needs_gradient=True),
    "one layer": Row(5, (3, 2)),
    "input gradient": Row(5, (3, 4, 2, 1), task="input gradient", x_needs_gradient=True),
    "physics": Row(7, (2, 5, 3, 4, 1), "tanh", "identity", "physics", x_needs_gradient=True),
}
small_rows = pytest.mark.parametrize("row", SMALL.values(), ids=SMALL)


# --- The rows ---------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_lead_back():
    for device, rows in ROWS.items():
        assert [command.matching([row.name], device) for row in rows] == [[row] for row in rows]
    assert ROWS["cpu"][0].name == "4x3-4-1"
    assert ROWS["cpu"][5].title == "65536 × [32]*6"
    assert ROWS["cpu"][1].title == "64 × [64,64,32,10]"


def test_every_cpu_row_has_targets():
    for row in ROWS["cpu"]:
        targets = {(target.competitor, target.against, target.quantity): target.at_most for target in row.targets}
        assert targets["mlp", "eager", "time"] <= 1
        assert targets["mlp", "compiled", "time"] == 1
        six_equal_widths = len(row.widths) == 6 and len(set(row.widths)) == 1
        assert targets["mlp", "eager", "peak"] == (0.8 if six_equal_widths else 1)


@pytest.mark.parametrize("row", ROWS["cpu"], ids=lambda row: row.name)
def test_no_gradient_of_a_row_is_zero(row):
    """What is compared must be there to compare: with dead neurons every competitor would agree."""
    few_samples = Row(
        min(row.samples, 64), row.widths, row.activation, row.output_activation, row.task, row.x_needs_gradient
    )
    found = enter("eager", make_problem(few_samples, "cpu")).gradients()
    zero = {name for name, gradient in found.items() if not gradient.any()}
    assert zero == ({"8.bias"} if row.task == "physics" else set())  # u's constant is in none of its derivatives


# --- The floor --------------------------------------------------------------------------------------------------------


class ProductsOf(TorchDispatchMode):
    """The shapes of the matrix products that run."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.seen[tuple(left.shape), tuple(right.shape)] += 1
        return function(*args, **(kwargs or {}))


def test_floor_by_hand():
    """4 × [3,4,1]: two products forward, ∂E/∂W₂, ē₁, ∂E/∂W₁."""
    row = Row(4, (3, 4, 1))
    assert [(p.left, p.right, p.out) for p in floor.products(row)] == [
        ("o0", "W1ᵀ", "o1"), ("o1", "W2ᵀ", "o2"), ("e2ᵀ", "o1", "g2"), ("e2", "W2", "e1"), ("e1ᵀ", "o0", "g1")]  # fmt: skip


@small_rows
def test_floor_has_the_products_of_eager(row):
    call = enter("eager", make_problem(row, "cpu")).call
    with ProductsOf() as eager:
        call()
    ours = Counter((floor.shape_of(p.left, row), floor.shape_of(p.right, row)) for p in floor.products(row))
    assert ours == eager.seen


@small_rows
def test_floor_runs_them_into_its_buffers(row):
    call = floor.make(row, "cpu")
    with ProductsOf() as run:
        call()
    assert run.seen.total() == len(floor.products(row))
    assert memory.peak_bytes(call, "cpu") == 0


# --- The gradients ----------------------------------------------------------------------------------------------------


def admit(row, makers):
    return measure.admit(makers, make_problem(row, "cpu"), "cpu")


@small_rows
def test_competitors_agree(row):
    ready, verdicts = admit(row, measure.makers(UNCOMPILED, {}))
    assert list(ready) == UNCOMPILED, verdicts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigmoid", "physics"])
def test_compiled_competitors_agree(name):
    torch.compiler.reset()
    compiled = [each for each in names("cpu") if "compiled" in each]
    ready, verdicts = admit(SMALL[name], measure.makers(compiled, {}))
    assert list(ready) == compiled, verdicts


@pytest.mark.parametrize("name", ["native dense", "native mlp"])
def test_the_native_node_is_on_in_its_own_calls_alone(name, monkeypatch):
    seen = []

    class Native(InPlace):
        def supports(self, activations):
            return True

        def node(self, x, weights, biases, activations):
            seen.append(self)
            return plain(x, weights, biases, activations)

    enabled = Native()
    monkeypatch.setattr(native, "enable", lambda: setattr(fast, "native", enabled))
    before = fast.native
    call = enter(name, make_problem(SMALL["one layer"], "cpu")).call
    assert fast.native is before
    call()
    assert seen == [enabled]
    assert fast.native is before


class Scaled(torch.autograd.Function):
    """A backward that is wrong by a thousandth."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 1.001


def on_net(change):
    """A competitor that changes what eager returns."""
    return lambda problem: on_leaves(problem, TASKS["gradients"].run(lambda x: change(problem.eager(x))))


def without_x(problem):
    competitor = enter("eager", problem)
    return competitor._replace(gradients=lambda: {k: v for k, v in competitor.gradients().items() if k != "x"})


WRONG = {
    "a thousandth": on_net(Scaled.apply),
    "not a number": on_net(lambda output: output * float("nan")),
    "one is missing": without_x,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_is_reported_and_not_timed(wrong):
    settings = measure.Settings(rounds=2, block_seconds=0)
    makers = measure.makers(["eager", "mlp"], {"wrong one": wrong})
    measured = measure.measure(SMALL["x needs a gradient"], "cpu", makers, settings)
    assert set(measured["competitors"]["wrong one"]) == {"wrong"}
    assert "seconds" in measured["competitors"]["mlp"]
    assert "| wrong one | wrong: " in "\n".join(report.row_section(measured))


def test_wrong_gradients_are_an_error(tmp_path, capsys, monkeypatch):
    wrong = {"eager": partial(enter, "eager"), "wrong one": on_net(Scaled.apply)}
    monkeypatch.setattr(command, "makers", lambda *_: wrong)
    assert command.main(["--quick", "--rows", "4x3-4-1", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "benchmarks: wrong gradients: 4 × [3,4,1]: wrong one: " in capsys.readouterr().err


def test_what_raises_is_reported_and_the_others_run():
    def broken(problem):
        raise RuntimeError("no kernel in /usr/lib/somewhere/lib.so\nfor this machine")

    ready, verdicts = admit(SMALL["sigmoid"], measure.makers(["eager"], {"broken": broken}))
    assert list(ready) == ["eager"]
    assert verdicts["broken"] == {"failed": "RuntimeError: no kernel in …; for this machine"}


def test_gradients_are_set_to_none_before_each_call():
    problem = make_problem(SMALL["x needs a gradient"], "cpu")
    mlp = enter("mlp", problem)
    once, twice = measure.snapshot(mlp.gradients), measure.snapshot(mlp.gradients)
    torch.testing.assert_close(once, twice, rtol=0, atol=0)
    assert set(once) == {"x", *(name for name, _ in problem.eager.named_parameters())}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("captured", [False, True])
def test_on_cuda(captured):
    row = Row(64, (16,) * 3, precision="bfloat16", captured=captured)
    settings = measure.Settings(rounds=2, block_seconds=0)
    measured = measure.measure(row, "cuda", measure.makers(UNCOMPILED, {}), settings)
    assert all("seconds" in entry for entry in measured["competitors"].values()), measured["competitors"]


# --- Peers ------------------------------------------------------------------------------------------------------------


class FakeApex(nn.Module):
    """The interface of apex.mlp.MLP."""

    def __init__(self, mlp_sizes, bias=True, activation="relu"):
        super().__init__()
        self.f = {"relu": torch.relu, "sigmoid": torch.sigmoid}[activation]
        self.weights, self.biases = [], []

    def forward(self, x):
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = self.f(nn.functional.linear(x, weight, bias))
        return x


class FakeTinyCudaNn(nn.Module):
    """The interface of tinycudann.Network: one flat parameter, no biases, a float16 output."""

    def __init__(self, n_inputs, n_outputs, config):
        super().__init__()
        self.width, self.depth = config["n_neurons"], config["n_hidden_layers"] + 1
        self.params = nn.Parameter(torch.zeros(self.depth * self.width**2))

    def forward(self, x):
        for weight in self.params.view(self.depth, self.width, self.width):
            x = torch.sigmoid(x @ weight.t())
        return x.half()


def test_absent_peers_are_said_to_be_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex.mlp", None)
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    found, absent = peers.look_for(peers.PEERS)
    assert not found
    assert set(absent) == set(peers.PEERS)
    assert all(why.startswith("absent") for why in absent.values())


def test_installed_peers_take_part_where_they_suit(monkeypatch):
    apex, tiny = SimpleNamespace(MLP=FakeApex), SimpleNamespace(Network=FakeTinyCudaNn)
    monkeypatch.setitem(sys.modules, "apex.mlp", apex)
    monkeypatch.setitem(sys.modules, "tinycudann", tiny)
    found, absent = peers.look_for(peers.PEERS)
    assert found == {"apex.mlp.MLP": apex, "tiny-cuda-nn": tiny}
    assert not absent
    on_cuda = {row.name: set(command.entrants(row, "cuda", found, ["*"])) & set(found) for row in ROWS["cuda"]}
    assert on_cuda["8192x4096-4096-4096-tf32"] == {"apex.mlp.MLP"}
    assert on_cuda["8192x4096-4096-4096-bfloat16"] == {"tiny-cuda-nn"}
    assert not set(command.entrants(ROWS["cpu"][0], "cpu", found, ["*"])) & set(found)


@pytest.mark.parametrize(
    ("peer", "module", "row"),
    [
        ("apex.mlp.MLP", SimpleNamespace(MLP=FakeApex), SMALL["x needs a gradient"]),
        ("tiny-cuda-nn", SimpleNamespace(Network=FakeTinyCudaNn), Row(5, (16,) * 4, precision="bfloat16")),
    ],
)
def test_a_peer_is_held_to_eager(peer, module, row):
    ready, verdicts = admit(row, {peer: partial(peers.PEERS[peer].enter, module)})
    assert list(ready) == [peer], verdicts
