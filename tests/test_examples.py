"""Each script in `examples/` runs, leaves nothing behind, and prints the right figures. New scripts are found."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

import torchann

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SLOW = ("burgers", "diffusivity", "poisson", "wave_equation")
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
each_script_run = pytest.mark.parametrize(
    "script",
    [pytest.param(script, marks=pytest.mark.slow if script.stem in SLOW else ()) for script in SCRIPTS],
    ids=lambda script: script.stem,
)


def article_network(figures):
    assert figures["difference"] < 1e-12
    assert figures["error_after"] < figures["error"]


def xor(figures):
    assert [round(output) for output in figures["outputs"]] == [0, 1, 1, 0]
    assert figures["error"] < 1e-3
    # No line separates the two classes: one neuron can do no better than to say ½ to all four, E = ½ (½)².
    assert figures["error_of_one"] == pytest.approx(0.125, abs=1e-3)


def logistic_regression(figures):
    assert figures["difference"] < 1e-4
    assert figures["accuracy"] == figures["their_accuracy"] > 0.93


def monitored_digits(figures):
    assert figures["accuracy"] > 0.93
    tags = EventAccumulator("runs/example-digits").Reload().Tags()
    assert {"monitor/error", "monitor/mean_delta/layers.0", "monitor/dead/layers.1"} <= {*tags["scalars"]}
    assert {"monitor/network/error", "monitor/first_layer", "monitor/confusion"} <= {*tags["images"]}


def convert_pretrained(figures):
    assert figures["same_keys"]
    assert figures["same_parameters"]
    assert figures["output_difference"] < 1e-5
    assert figures["after"] == pytest.approx(figures["after_plain"], rel=1e-3)
    assert figures["after"] < figures["before"] / 2


def per_sample_gradients(figures):
    assert figures["difference"] < 1e-5
    assert figures["found"] > 0.75 * figures["wrong"]  # chance would find 5 %


def ensemble(figures):
    assert figures["together"] > figures["single"] > 0.9
    assert figures["agreed"] > 0.97
    assert figures["disputed"] < 0.8


def heat_equation(figures):
    assert figures["squared_residual"] < 1e-4
    assert figures["error"] < 0.002


def burgers(figures):
    assert figures["error"] < 0.03
    assert figures["slope"] == pytest.approx(figures["true_slope"], rel=0.1)


def poisson(figures):
    assert figures["error"] < 0.015


def wave_equation(figures):
    assert figures["error"] < 0.005


def beam(figures):
    assert figures["error"] < 0.002


def diffusivity(figures):
    assert figures["a"] == pytest.approx(0.2, rel=0.03)
    assert figures["error"] < 0.03


def own_activation(figures):
    assert figures["ok"]
    assert figures["snake_beyond"] < figures["tanh_beyond"] / 2


def own_function(figures):
    assert figures["right"]
    assert not figures["wrong"]
    assert figures["failures"] == ["double-backward", "third-order"]


@each_script_run
def test_figures_are_true(script, tmp_path, monkeypatch, capfd):
    """The script prints something, nothing of it on stderr, and writes nothing but `runs`."""
    monkeypatch.chdir(tmp_path)
    are_true = globals()[script.stem]  # each script needs a function of its name, above, that checks its figures
    are_true(importlib.import_module(f"examples.{script.stem}").main())
    out, err = capfd.readouterr()
    assert out
    assert err == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


@each_script
def test_is_a_command(script):
    last = ast.unparse(ast.parse(script.read_text(encoding="utf-8")).body[-1])
    assert re.fullmatch(r"if __name__ == '__main__':\n    main\((\*sys\.argv\[1:\])?\)", last)


def test_each_network_of_the_ensemble_learns_as_it_would_alone():
    from examples.ensemble import Ensemble, moons, train

    networks = [torchann.MLP([2, 5, 1], "tanh", "identity", dtype=torch.float64) for _ in range(3)]
    x, y = (tensor.double() for tensor in moons(20, seed=0))
    ensemble = Ensemble(networks)
    train(ensemble, x.expand(3, -1, -1), y.expand(3, -1, -1), steps=10)
    for network, answer in zip(networks, ensemble(x), strict=True):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(10):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(network(x), y).backward()
            optimizer.step()
        torch.testing.assert_close(answer, network(x), rtol=0, atol=1e-10)


def test_table_lists_every_script():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+\.py)\)", table)) == [script.name for script in SCRIPTS]


@each_script
def test_docstring_says_how_to_run_it(script):
    assert f"\npython examples/{script.name}" in ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))


def test_the_table_of_houses(tmp_path, monkeypatch, capsys):
    """The README's commands work, and the prices follow the rule in examples/README.md, but for their noise of 4 %."""
    from torchann.training import command

    monkeypatch.chdir(tmp_path)
    assert command.main(["--data", str(EXAMPLES / "houses.csv"), "--target", "price"]) == 0
    (run,) = Path("runs").iterdir()
    capsys.readouterr()
    assert command.main(["predict", str(run), str(EXAMPLES / "new-houses.csv")]) == 0
    head, *prices = capsys.readouterr().out.split()
    assert head == "price"
    houses = [line.split(",") for line in (EXAMPLES / "new-houses.csv").read_text().splitlines()[1:]]
    per_area = {"Bern": 4200, "Oslo": 3600, "Rome": 2800}
    for price, (area, rooms, city, garden) in zip(prices, houses, strict=True):
        area = int(area)
        rule = per_area[city] * area * (1 - 0.0008 * area) + 9000 * int(rooms) + 25000 * (garden == "yes")
        assert float(price) == pytest.approx(rule, rel=0.15)
    assert command.main(["evaluate", str(run)]) == 0
    assert "(80 samples)" in capsys.readouterr().out
