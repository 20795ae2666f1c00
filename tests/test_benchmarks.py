"""The benchmarks measure what they say. No test asserts a time."""

import gc
import json
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import plain
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import __main__ as command
from benchmarks import calls, floor, frames, measure, memory, peers, products, report, timing
from benchmarks.competitors import TASKS, enter, make_problem, names, on_leaves
from benchmarks.rows import ROWS, SWEEPS, Row
from torchann import fast, native
from torchann.fast.inplace import InPlace

ROOT = Path(__file__).parents[1]

UNCOMPILED = ["eager", "dense", "mlp", "floor"]
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


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_peak_by_hand():
    """Of 4,000, 8,000 and 16,000 bytes the first goes before the last comes; less comes afterwards."""

    def call():
        first = torch.empty(1000)
        second = torch.empty(2000)
        del first
        third = torch.empty(4000)
        del second, third
        return torch.ones(50).square().sum()

    assert memory.peak_bytes(call, "cpu") == 8000 + 16000


def test_peak_over_backward():
    """sin keeps nothing but x; backward makes cos x, then the gradient, while the output is there."""
    x = torch.randn(1000, requires_grad=True)
    error = torch.randn(1000)

    def call():
        x.grad = None
        x.sin().backward(error)

    call()
    x.grad = None
    assert memory.peak_bytes(call, "cpu") == 4000 + 4000 + 4000  # sin x, cos x, the gradient


def test_kept_by_hand():
    x, weight = torch.randn(10, 3), torch.randn(4, 3, requires_grad=True)

    def call():
        o = torch.sigmoid(x @ weight.t())  # o is kept, by sigmoid and by square alike
        return o.square().sum()

    assert memory.kept_bytes(call, [x, weight]) == 10 * 4 * 4
    assert memory.kept_bytes(call, [weight]) == 10 * 4 * 4 + 10 * 3 * 4


@pytest.mark.parametrize("name", ["eager", "dense", "mlp"])
def test_a_network_of_sigmoids_keeps_its_outputs(name):
    row = SMALL["sigmoid"]
    problem = make_problem(row, "cpu")
    kept = measure.memory_of(enter(name, problem), problem, "cpu")["kept_bytes"]
    assert kept == row.samples * sum(row.widths[1:]) * 4


# --- Time -------------------------------------------------------------------------------------------------------------


def test_competitors_take_turns():
    log = []
    calls = {name: partial(log.append, name) for name in "abc"}
    seconds = timing.alternate(calls, "cpu", rounds=4, block_seconds=0)
    before = 4  # calls of each to find out how many make a block
    assert "".join(log[before * 3 :]) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_block_lasts_and_is_not_disturbed():
    was_on = []
    count = timing.calls_in_block(lambda: was_on.append(gc.isenabled()), "cpu", block_seconds=0.001)
    assert count > 1
    assert was_on == [True, False, False, False]
    assert gc.isenabled()


def test_ratio_and_spread_by_hand():
    assert timing.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0)
    assert timing.spread([7.0]) == (7.0, 0.0)
    assert timing.ratio([1.0, 30.0, 4.0], [2.0, 60.0, 4.0]).median == 0.5


# --- The report -------------------------------------------------------------------------------------------------------


def entry(seconds, eager=0.002, peak=3 * 2**20):
    ratios = {"eager": {"median": seconds / eager, "iqr": 0.01}, "floor": {"median": seconds / 0.0005, "iqr": 0.1}}
    return {"peak_bytes": peak, "kept_bytes": 512, "seconds": {"median": seconds, "iqr": 2e-6}, "ratios": ratios}


RESULTS = {
    "machine": {
        "device": "A Processor", "kind": "cpu", "cores": 2, "threads": 2, "wait policy": "passive", "instructions": "AVX2",
        "system": "Linux x86_64", "python": "3.11.7", "torch": "2.13.0", "cuda": None, "torchann": "0.1.0",
    },
    "date": "2026-01-31",
    "settings": {"rounds": 21, "block_seconds": 0.02},
    "absent": {"apex.mlp.MLP": "absent: No module named 'apex'"},
    "rows": [
        {
            "name": "4x3-4-1",
            "title": "4 × [3,4,1]",
            "competitors": {
                "eager": entry(0.002),
                "compiled": {"failed": "RuntimeError: a | b"},
                "dense": {"wrong": "0.weight: off"},
                "mlp": entry(0.0015, peak=2**20),
                "floor": {**entry(0.0005), "peak_bytes": 0},
            },
            "targets": [
                {"competitor": "mlp", "against": "eager", "quantity": "time", "at_most": 0.8, "value": 0.75, "met": True},
                {"competitor": "mlp", "against": "eager", "quantity": "peak", "at_most": 0.3, "value": 1 / 3, "met": False},
                {"competitor": "mlp", "against": "compiled", "quantity": "time", "at_most": 1.0, "value": None, "met": None},
            ],
        }
    ],
    "growth": {},
}  # fmt: skip
GROWTH = {"batch": {"label": "samples", "points": [[size, RESULTS["rows"][0]] for size in (1, 10)]}}


def test_markdown():
    text = report.markdown(RESULTS, "plot.png")
    lines = text.splitlines()
    assert "A Processor (2 cores, 2 threads, AVX2)" in text
    assert "PyTorch 2.13.0, Python 3.11.7, torchann 0.1.0, 2026-01-31." in text
    assert "- apex.mlp.MLP: absent: No module named 'apex'" in lines
    assert "| mlp | 1.50 ms | 2.00 µs | 0.75 | – | 3.00 | 1.0 MiB | 512 B |" in lines
    assert "| compiled | failed: RuntimeError: a \\| b | – | – | – | – | – | – |" in lines
    assert "- mlp ≤ 0.8 × eager: met at 0.750" in lines
    assert "- mlp ≤ 0.3 × eager in peak memory: missed at 0.333" in lines
    assert "- mlp ≤ 1 × compiled: not measured" in lines
    assert "plot.png" not in text


def test_markdown_of_growth():
    lines = report.markdown({**RESULTS, "growth": GROWTH}, "plot.png").splitlines()
    assert "![How cost grows](plot.png)" in lines
    assert "| 10 | 2.00 ms | failed | wrong | 1.50 ms | 500 µs |" in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5e-6, "1.50 µs"), (2.5e-4, "250 µs"), (1e-3, "1.00 ms"), (0.25, "250 ms"), (12.34, "12.3 s")],
)
def test_times(seconds, text):
    assert report.as_time(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(None, "–"), (0, "0 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB")])
def test_sizes(size, text):
    assert report.as_size(size) == text


def test_readme_table_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n", encoding="utf-8")
    report.save(RESULTS, tmp_path, "cpu-another-avx2")
    report.save({**RESULTS, "rows": []}, tmp_path, "cpu-another-avx2-rough")
    for _ in range(2):  # the second time changes nothing
        assert command.main(["--table", "--out", str(tmp_path), "--readme", str(readme)]) == 0
        text = readme.read_text(encoding="utf-8")
        assert text.startswith("before\n<!-- benchmarks -->\n| forward + backward | eager |")
        assert text.endswith("\n<!-- /benchmarks -->\nafter\n")
        assert "| 4 × [3,4,1] | 2.00 ms | failed | wrong | 0.75 | 0.25 | 0.33 |" in text.splitlines()
        assert "A Processor" in text
        assert "PyTorch 2.13.0" in text
        assert "old" not in text


@pytest.mark.parametrize("text", ["nothing", "<!-- benchmarks --> no end", "<!-- /benchmarks --> <!-- benchmarks -->"])
def test_readme_without_markers(tmp_path, capsys, text):
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    report.save(RESULTS, tmp_path, "cpu")
    assert command.main(["--table", "--out", str(tmp_path), "--readme", str(readme)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("benchmarks: README.md: expected the markers")
    assert readme.read_text(encoding="utf-8") == text


def test_rows_are_merged_where_the_circumstances_are_the_same():
    def with_rows(*named, **others):
        return {**RESULTS, "rows": [{"name": name, "from": origin} for name, origin in named], **others}

    old, new = with_rows(("b", 1), ("c", 1), growth=GROWTH), with_rows(("b", 2), ("a", 2))
    both = report.merged(old, new, order=["a", "b", "c"])
    assert both["rows"] == [{"name": "a", "from": 2}, {"name": "b", "from": 2}, {"name": "c", "from": 1}]
    assert both["growth"] == GROWTH
    assert report.merged({**old, "machine": {**old["machine"], "torch": "2.6.0"}}, new, ["a"]) is new
    assert report.merged(None, new, ["a"]) is new


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot_growth({**RESULTS, "growth": GROWTH}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


# --- The command ------------------------------------------------------------------------------------------------------


def test_quick_run_writes_json_and_markdown(tmp_path, capsys):
    arguments = ["--quick", "--rows", "4x3-4-1", "--competitors", "dense", "mlp", "floor", "--device", "cpu"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / f"{report.kind_of_cpu()}-rough.json").read_text(encoding="utf-8"))
    assert results["machine"]["torch"] == torch.__version__
    assert results["machine"]["threads"] == torch.get_num_threads()
    (row,) = results["rows"]
    assert row["name"] == "4x3-4-1"
    assert list(row["competitors"]) == ["eager", "dense", "mlp", "floor"]
    mlp = row["competitors"]["mlp"]
    assert set(mlp) == {"peak_bytes", "kept_bytes", "seconds", "ratios"}
    assert set(mlp["ratios"]) == {"eager", "floor"}
    verdicts = {(target["competitor"], target["against"]): target["met"] for target in row["targets"]}
    assert verdicts["mlp", "compiled"] is None
    assert isinstance(verdicts["mlp", "eager"], bool)
    text = (tmp_path / f"{report.kind_of_cpu()}-rough.md").read_text(encoding="utf-8")
    assert "## 4 × [3,4,1]" in text
    assert str(ROOT) not in text + json.dumps(results)
    assert "4 × [3,4,1]" in capsys.readouterr().out


@pytest.mark.slow
def test_as_a_command(tmp_path):
    there = [name for name in names("cpu") if "native" not in name]  # which needs a C++ compiler and ninja
    arguments = ["--quick", "--device", "cpu", "--rows", "4x3-4-1", "--out", str(tmp_path), "--competitors", *there]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / f"{report.kind_of_cpu()}-rough.json").read_text(encoding="utf-8"))["rows"]
    assert all("seconds" in entry for entry in row["competitors"].values())
    assert list(row["competitors"]) == there


def test_sweeps_run(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["--quick", "--rows", "4x3-4-1", "--sweeps", "--competitors", "mlp", "--device", "cpu"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    growth = json.loads((tmp_path / f"{report.kind_of_cpu()}-rough.json").read_text(encoding="utf-8"))["growth"]
    assert list(growth) == [sweep.name for sweep in SWEEPS]
    assert (tmp_path / f"{report.kind_of_cpu()}-rough-growth.png").exists()


def test_wrong_gradients_are_an_error(tmp_path, capsys, monkeypatch):
    wrong = {"eager": partial(enter, "eager"), "wrong one": on_net(Scaled.apply)}
    monkeypatch.setattr(command, "makers", lambda *_: wrong)
    assert command.main(["--quick", "--rows", "4x3-4-1", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "benchmarks: wrong gradients: 4 × [3,4,1]: wrong one: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rows", "5x5"], "--rows: expected one of 4x3-4-1, "),
        (["--rounds", "0"], "--rounds: expected a positive number, got 0"),
        (["--table"], "--table: expected saved results in "),
    ],
)
def test_bad_arguments_get_one_line(tmp_path, capsys, arguments, complaint):
    assert command.main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"benchmarks: {complaint}")
    assert error.count("\n") == 1


def test_a_device_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: --device: expected one of ['cpu'], got 'cuda'")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("captured", [False, True])
def test_on_cuda(captured):
    row = Row(64, (16,) * 3, precision="bfloat16", captured=captured)
    settings = measure.Settings(rounds=2, block_seconds=0)
    measured = measure.measure(row, "cuda", measure.makers(UNCOMPILED, {}), settings)
    assert all("seconds" in entry for entry in measured["competitors"].values()), measured["competitors"]


def test_the_cost_of_the_monitor_has_a_spread_however_short_the_time(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which the import would set for good
    from benchmarks import monitor

    class Run:
        def __init__(self):
            self.trainer, self.record = SimpleNamespace(steps=0), SimpleNamespace(write=lambda rows, step: None)

        def train_epoch(self):
            self.trainer.steps += 1

        def end_epoch(self):
            return {}

    monkeypatch.setattr(monitor, "TURN", 0.002)
    steps = monitor.take_turns(Run(), Run(), monitor.Stopwatch(), seconds=0.001)
    assert [len(seconds) for seconds, _ in steps.values()] == [monitor.PARTS] * 2
    assert monitor.overhead(steps)["spread"] >= 0


@pytest.mark.parametrize("module", [calls, products])
def test_scripts_of_their_own(module, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calls, "INFERENCE", calls.INFERENCE[:1])
    monkeypatch.setattr(calls, "STEPS", calls.STEPS[:1])
    monkeypatch.setattr(products, "SIZES", [(64, 8, 3), (16, 3, 8)])
    assert module.main(["--rounds", "2", "--out", str(tmp_path)]) == 0
    name = module.__name__.rpartition(".")[2]
    saved = tmp_path / f"{name}-{report.kind_of_cpu()}.json"
    assert json.loads(saved.read_text(encoding="utf-8"))["settings"]["rounds"] == 2
    assert saved.with_suffix(".md").read_text(encoding="utf-8").strip() == capsys.readouterr().out.strip()


def test_frames_counts_what_torchann_runs():
    passed = frames.step(4, [3, 4, 1])
    assert ("modules.py", "MLP.forward") in passed.functions
    assert passed.files[0] == "modules.py"
    assert passed.frames >= len(passed.functions)
