"""The commands of the benchmarks. No test asserts a time."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torchann
from benchmarks import __main__ as command
from benchmarks import calls, crossover, frames, input_derivatives, models, products, report
from benchmarks.competitors import names
from benchmarks.rows import SWEEPS

ROOT = Path(__file__).parents[1]


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
    assert set(mlp["ratios"]) == {"eager", "mlp", "floor"}
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


@pytest.mark.parametrize("module", [calls, crossover, products])
def test_scripts_of_their_own(module, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calls, "INFERENCE", calls.INFERENCE[:1])
    monkeypatch.setattr(calls, "STEPS", calls.STEPS[:1])
    monkeypatch.setattr(calls, "HESSIANS", calls.HESSIANS[:1])
    monkeypatch.setattr(crossover, "WIDTHS", (4, 8))
    monkeypatch.setattr(crossover, "ENTRIES", (64, 128))
    monkeypatch.setattr(crossover, "ACTIVATIONS", ("relu", "silu"))
    monkeypatch.setattr(products, "SIZES", [(64, 8, 3), (16, 3, 8)])
    assert module.main(["--rounds", "2", "--out", str(tmp_path)]) == 0
    name = module.__name__.rpartition(".")[2]
    saved = tmp_path / f"{name}-{report.kind_of_cpu()}.json"
    assert json.loads(saved.read_text(encoding="utf-8"))["settings"]["rounds"] == 2
    assert saved.with_suffix(".md").read_text(encoding="utf-8").strip() == capsys.readouterr().out.strip()


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4), torch.nn.Dropout()
        )

    def forward(self, x):
        return self.body(x).sigmoid()


@pytest.fixture
def without_inductor(monkeypatch):
    ways = models.ways

    def fewer(*nets):
        return {name: net for name, net in ways(*nets).items() if name in ("eager", "backend", "convert")}

    monkeypatch.setattr(models, "ways", fewer)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo
def test_models_of_other_packages(without_inductor, tmp_path, monkeypatch):
    def broken():
        raise ValueError("no such model")

    found = models.Model("small", "torch", Small, ((3,),))
    rest = [found._replace(name="absent", distribution="no-such-package"), found._replace(name="broken", make=broken)]
    monkeypatch.setattr(models, "MODELS", (found, *rest))
    monkeypatch.setattr(models, "MANY", 8)
    assert models.main(["--rounds", "1", "--out", str(tmp_path)]) == 1
    page = tmp_path / "page.md"
    page.write_text("<!-- models -->\nold\n<!-- /models -->\n", encoding="utf-8")
    assert models.main(["--out", str(tmp_path), "--table", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert f"| small {torch.__version__} | 2 of 2 in 1 | training |" in text
    assert text.count("inference, ") == 2
    assert "failed: ValueError: no such model" in text
    assert "- no-such-package: not installed" in text
    assert "old" not in text


def test_the_page_on_models_is_what_the_results_say():
    (saved,) = (ROOT / "benchmarks/results").glob("models-*.json")
    results = report.load(saved.parent, saved.stem)
    assert models.overview(results) in (ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert all(row["equal"] for row in results["rows"])


def test_a_model_with_other_numbers_is_told(monkeypatch):
    class Wrong(Small):
        def forward(self, x):
            return 1.01 * super().forward(x)

    plain, wrong = Small(), Wrong()
    wrong.load_state_dict(plain.state_dict())
    monkeypatch.setattr(models, "ways", lambda plain, converted: {"eager": plain, "convert": converted})
    model = models.Model("small", "torch", Small, ((3,),))
    assert models.is_equal(model, plain, torchann.convert(plain))
    assert not models.is_equal(model, plain, wrong)


@pytest.fixture
def tiny_derivatives(monkeypatch):
    """One row of each kind on few samples, without the competitors that take a compiler."""
    pytest.importorskip("matplotlib")
    rows = {row.title: row for row in input_derivatives.ROWS}
    kinds = [rows["u, ∇u, u_xx of (x, t)"], rows["Δu in 3 dimensions"], rows["u to u⁗ of x"]]
    tiny = [row._replace(samples=8, widths=(row.inputs, 4, 4, 1)) for row in kinds]
    competitors = {name: enter for name, enter in input_derivatives.COMPETITORS.items() if "compiled" not in name}
    monkeypatch.setattr(input_derivatives, "ROWS", tiny)
    monkeypatch.setattr(input_derivatives, "COMPETITORS", competitors)
    monkeypatch.setattr(input_derivatives, "GROWTH", {2: tiny[0], 3: tiny[1]})
    return competitors


QUICK = ["--rounds", "2", "--block-seconds", "0.0001"]


def test_derivatives_of_all_competitors_agree(tiny_derivatives, tmp_path):
    assert input_derivatives.main([*QUICK, "--out", str(tmp_path)]) == 0
    stem = f"input-derivatives-{report.kind_of_cpu()}"
    results = json.loads((tmp_path / f"{stem}.json").read_text(encoding="utf-8"))
    there = [name for name in tiny_derivatives if name not in results["absent"]]
    for row in results["rows"]:
        assert list(row["competitors"]) == [*there, "floor"]
        assert all(entry["seconds"]["median"] > 0 for entry in row["competitors"].values())
        assert [(target["quantity"], target["met"] is None) for target in row["targets"]] == [
            ("time", False),
            ("peak", False),
        ]
    assert [d for d, _ in results["growth"][input_derivatives.GROWTH_NAME]["points"]] == [2, 3]
    assert (tmp_path / f"{stem}.md").read_text(encoding="utf-8").count("- torchann ≤ ") == 6
    assert "<svg" in (tmp_path / f"{stem}-growth.svg").read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- input derivatives -->\nold\n<!-- /input derivatives -->\n", encoding="utf-8")
    assert input_derivatives.main(["--table", "--out", str(tmp_path), "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- input derivatives -->\n|  | nested | nested MLP | torch.func |")
    assert text.count("| Δu in 3 dimensions, 8 × [3,4,4,1] |") == 1
    assert "old" not in text


def test_wrong_derivatives_are_not_timed(tiny_derivatives, tmp_path, capsys, monkeypatch):
    def forgets_a_term(problem):
        terms = input_derivatives.ours(problem)
        return input_derivatives.with_loss(lambda: [*terms()[:-1], 0 * terms()[-1]])

    monkeypatch.setitem(tiny_derivatives, "torchann", forgets_a_term)
    assert input_derivatives.main([*QUICK, "--out", str(tmp_path)]) == 1
    (saved,) = tmp_path.glob("*.json")
    for row in json.loads(saved.read_text(encoding="utf-8"))["rows"]:
        assert set(row["competitors"]["torchann"]) == {"wrong"}
        assert [target["met"] for target in row["targets"]] == [None, None]
    assert "u to u⁗ of x, 8 × [1,4,4,1]: torchann: wrong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("is_saved", "complaint"), [(False, "expected saved results in "), (True, "expected the markers ")]
)
def test_the_page_of_derivatives_needs_results_and_markers(tmp_path, capsys, is_saved, complaint):
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    if is_saved:
        results = {**report.new_results(report.machine("cpu"), {}, {}), "peers": {}}
        (tmp_path / "input-derivatives-cpu.json").write_text(json.dumps(results), encoding="utf-8")
    assert input_derivatives.main(["--table", "--out", str(tmp_path), "--page", str(page)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert page.read_text(encoding="utf-8") == "nothing"


def test_frames_counts_what_torchann_runs():
    passed = frames.step(4, [3, 4, 1])
    assert ("modules.py", "MLP.forward") in passed.functions
    assert passed.files[0] == "modules.py"
    assert passed.frames >= len(passed.functions)
