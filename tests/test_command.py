"""`train.py` as a command: what it prints, and the status that it ends with."""

import io
import os
import signal
import subprocess
import sys

import pytest
from command_line import ROOT, call_main, load_script, read_json, unmonitored

from torchann.training import train


def test_a_loss_that_is_not_finite_stops_the_run_with_one_line(tmp_path, capsys):
    arguments = ("--data", "diabetes", "--optimizer", "sgd", "--lr", "1e30", "--logdir", tmp_path)
    assert call_main(*arguments) == 1
    *warnings, line = capsys.readouterr().err.splitlines()
    assert all(warning.startswith("monitor: step 1: ") for warning in warnings)
    assert "finite" in line
    assert "--lr" in line


def test_the_output_ends_with_where_everything_is(tmp_path, capsys):
    logdir = tmp_path / "my runs"
    assert call_main("--data", "iris", "--epochs", 2, "--logdir", logdir) == 0
    lines = capsys.readouterr().out.splitlines()
    (folder,) = logdir.iterdir()
    summary = read_json(folder / "summary.json")
    assert [line.split("  ")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[1].split("  ", 1)[1] == lines[2].split(maxsplit=1)[1]  # the final figures are those of the last epoch
    assert f"test {summary['test_accuracy']:.1%}" in lines[2]
    assert lines[-2].split(maxsplit=1) == ["run", str(folder)]
    assert lines[-1] == f"tensorboard --logdir '{logdir}'"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_no_lines(tmp_path, monkeypatch):
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    train(unmonitored(data="iris", epochs=2, logdir=str(tmp_path)))
    assert "epoch 1/2" not in out.getvalue()
    assert "2/2" in err.getvalue()
    assert "loss" in err.getvalue()


def command(*arguments):
    return [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]


def test_a_bad_value_leaves_no_traceback():
    done = subprocess.run(command("--lr", "-1"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "train.py: error: --lr: expected a positive number, got -1.0\n"


def test_an_interrupt_is_one_line_and_status_130(tmp_path):
    arguments = command("--data", "iris", "--epochs", 10**6, "--logdir", tmp_path)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("epoch")  # it trains
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    (folder,) = tmp_path.iterdir()
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(f"go on with: python train.py --resume {folder}")


@pytest.mark.parametrize("package", ["sklearn", "tensorboard", "tqdm", "safetensors"])
def test_a_missing_package_is_one_line(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith("torchann.training")]:
        monkeypatch.delitem(sys.modules, name)  # so that it is imported once more
    with pytest.raises(SystemExit) as stop:
        load_script()
    (line,) = stop.value.code.splitlines()  # Python prints it, and exits with status 1
    assert {"sklearn": "scikit-learn"}.get(package, package) in line
    assert "pip install 'torchann[train]'" in line


@pytest.mark.slow
def test_the_defaults_reach_96_percent_within_a_minute(tmp_path):
    before = os.times()
    done = subprocess.run(command(), cwd=tmp_path, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "tensorboard --logdir runs"
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-digits")
    assert read_json(folder / "summary.json")["test_accuracy"] >= 0.96
    # Processor time, which others on the machine don't lengthen much.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 60
