"""Runs that are killed, stopped or damaged, and then resumed, end like one that was never stopped, bit by bit."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from killing import KILLED, at_call, bits, die, in_child
from test_checkpoint_files import DAMAGE

from torchann.training import checkpoint, command
from torchann.training.checkpoint import LAST, PREVIOUS
from torchann.training.interruption import Interruption

ROOT = Path(__file__).parents[1]
OPTIONS = ["--data", "digits", "--hidden", "8", "--batch-size", "8", "--seed", "1", "--device", "cpu"]
# 540 steps, and a checkpoint whenever one is possible, which makes 11. The monitor takes as long as all the steps, so it
# runs only in the tests that stop a run; its result has to be the same bits.
THREE_EPOCHS = [*OPTIONS, "--epochs", "3", "--save-every", "1e-9", "--monitor-every", "0"]
MONITORED = [*THREE_EPOCHS, "--monitor-every", "50"]
STEP = "torchann.training.step:Trainer.step"


# --- Run in a child process -------------------------------------------------------------------------------------------


def run(arguments, *call):
    """Runs `train.py`; `call` are the arguments of `at_call`, to kill or stop it at a call of a function."""
    torch.set_num_threads(1)
    if call:
        at_call(*call)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        sys.exit(command.main([str(argument) for argument in arguments]))


def write_half_and_die(path, write_to, *_, **__):
    """Takes the place of `checkpoint.write`."""
    whole = io.BytesIO()
    write_to(whole)
    with path.with_name(f"{path.name}.tmp").open("wb") as file:
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    die()


def terminate(*_):
    signal.raise_signal(signal.SIGTERM)


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)


def interrupt_twice(*_):
    interrupt()
    interrupt()


# --- Run and compare --------------------------------------------------------------------------------------------------


def new_run(logdir, options, *call):
    """Runs `train.py` in a child process; returns the run's folder and the exit status."""
    status = in_child(run, [*options, "--logdir", logdir], *call)
    (folder,) = logdir.iterdir()
    return folder, status


def resume(folder, *call):
    return in_child(run, ["--resume", folder], *call)


def result(folder):
    """All of a run's folder that has to be the same after it was resumed."""
    state = checkpoint.load(folder / "checkpoints")
    return {
        "state": bits({name: state[name] for name in ("trainer", "rows", "best")}),
        "weights": (folder / "model.safetensors").read_bytes(),
        "metrics": (folder / "metrics.csv").read_bytes(),
        "best": bits(torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["network"]),
    }


def assert_same_result(folder, expected):
    found = result(folder)
    assert [name for name in expected if found[name] != expected[name]] == []


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_bad(capsys, folder, *parts):
    """Asserts that `--resume` ends with status 2 and one line of error, and changes no file."""
    before = contents(folder)
    status = command.main(["--resume", str(folder)])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    for part in parts:
        assert str(part) in err
    assert contents(folder) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder, status = new_run(tmp_path_factory.mktemp("finished"), THREE_EPOCHS)
    assert status == 0
    return folder


@pytest.fixture(scope="module")
def expected(finished):
    return result(finished)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run's folder, to be damaged."""
    return shutil.copytree(finished, tmp_path / finished.name)


KILLS = [
    *[(STEP, number) for number in (1, 64, 65, 180, 181, 300, 450, 540)],
    *[("os:fsync", number) for number in (9, 21, 35)],
    # Killed between the two renames of a checkpoint, before both, and before the rename of best.pt.
    *[("os:replace", number) for number in (5, 6, 13, 14, 24)],
    *[("torchann.training.checkpoint:write", number, write_half_and_die) for number in (4, 8, 12, 16)],
    ("torchann.training.record:Record.write_metrics", 2),
    ("torchann.training.checkpoint:save_weights", 1),
]


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize("call", KILLS, ids=lambda call: f"{call[0].rpartition(':')[2]}-{call[1]}")
    def test_ends_the_same(self, tmp_path, expected, call):
        folder, status = new_run(tmp_path, THREE_EPOCHS, *call)
        assert status == KILLED
        assert resume(folder) == 0
        assert_same_result(folder, expected)

    def test_twice_in_a_row(self, tmp_path, expected):
        folder, _ = new_run(tmp_path, THREE_EPOCHS, STEP, 200)
        assert resume(folder, "os:replace", 2) == KILLED
        assert resume(folder, STEP, 70) == KILLED
        assert resume(folder) == 0
        assert_same_result(folder, expected)

    @pytest.mark.parametrize(
        "more",
        [
            ["--accumulate", "7"],
            ["--optimizer", "sgd", "--schedule", "cosine", "--warmup", "50", "--clip", "0.1"],
            ["--optimizer", "adamw", "--loss", "cross_entropy", "--amp", "bf16"],
            ["--amp", "fp16"],
            ["--data", "diabetes", "--dtype", "float64", "--patience", "1"],
        ],
        ids=" ".join,
    )
    def test_with_other_options(self, tmp_path_factory, more):
        reference, *runs = (tmp_path_factory.mktemp("run") for _ in range(4))
        finished, status = new_run(reference, [*THREE_EPOCHS, *more])
        assert status == 0
        for logdir, action, stopped in zip(runs, (die, interrupt, terminate), (KILLED, 130, 143), strict=True):
            folder, status = new_run(logdir, [*THREE_EPOCHS, *more], STEP, 100, action)
            assert status == stopped
            assert resume(folder) == 0
            assert_same_result(folder, result(finished))

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_before_the_first_checkpoint_it_cannot_be_resumed(self, tmp_path, capsys, number):
        folder, status = new_run(tmp_path, THREE_EPOCHS, "os:replace", number)
        assert status == KILLED
        assert_bad(capsys, folder, "expected a checkpoint, got no file" if number > 1 else "config.json")


# --- Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
class TestStopped:
    @pytest.mark.parametrize("number", [1, 100, 180, 540])
    @pytest.mark.parametrize(("action", "status"), [(interrupt, 130), (terminate, 143), (interrupt_twice, 130)])
    def test_ends_the_same(self, tmp_path, expected, number, action, status):
        folder, found = new_run(tmp_path, MONITORED, STEP, number, action)
        assert found == status
        assert not (folder / "summary.json").exists()
        assert resume(folder) == 0
        assert_same_result(folder, expected)

    def test_then_killed(self, tmp_path, expected):
        folder, _ = new_run(tmp_path, MONITORED, STEP, 100, terminate)
        assert resume(folder, STEP, 20) == KILLED
        assert resume(folder) == 0
        assert_same_result(folder, expected)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_prints_the_command_that_resumes(self, tmp_path, number, status):
        """In a fresh process, in which no test has changed anything."""
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *OPTIONS, "--epochs", "100000", "--logdir", str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        process.stdout.readline()  # the line of the first epoch
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        (folder,) = tmp_path.iterdir()
        first, last = err.splitlines()
        assert process.returncode == status
        assert first == f"{number.name}: the step will be finished and saved; another Ctrl-C stops at once"
        assert last.endswith(f"go on with: python train.py --resume {folder}")
        # An epoch has 180 steps; the signal may arrive before the next step.
        assert checkpoint.load(folder / "checkpoints")["trainer"]["steps"] >= 180


class TestInterruption:
    def test_notes_the_first_signal_and_stops_at_a_second_ctrl_c(self, capfd):
        with Interruption() as interruption:
            assert interruption.requested is None
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert interruption.requested == "SIGTERM"
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err.count("another Ctrl-C stops at once") == 1

    def test_leaves_the_handlers_as_they_were(self):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with Interruption():
            assert signal.getsignal(signal.SIGINT) != before[0]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_does_nothing_in_another_thread(self):
        found = []

        def enter():
            with Interruption() as interruption:
                found.append((interruption.requested, signal.getsignal(signal.SIGINT)))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert found == [(None, signal.getsignal(signal.SIGINT))]


# --- Finished, and damaged ------------------------------------------------------------------------------------------------


class TestFinished:
    def test_says_so_and_changes_nothing(self, copy, capsys):
        before = contents(copy)
        assert command.main(["--resume", str(copy)]) == 0
        out, err = capsys.readouterr()
        assert "had ended already" in out
        assert err == ""
        assert contents(copy) == before


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def edit(**options):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **options}))

    return change


def replace_checkpoints(damage):
    def change(folder):
        for name in (LAST, PREVIOUS):
            (folder / "checkpoints" / name).unlink()
            damage(folder / "checkpoints" / name)

    return change


# What is wrong with a run's folder, the function that makes it so, and a part of the message.
BAD_RUNS = [
    ("no folder", shutil.rmtree, "config.json: No such file"),
    ("no config", remove("config.json"), "config.json: No such file"),
    ("an empty config", write("config.json", ""), "config.json: expected JSON"),
    ("a truncated config", write("config.json", '{"data": "dig'), "config.json: expected JSON"),
    ("a list for a config", write("config.json", "[]"), "config.json: expected JSON"),
    ("an unknown option", edit(depth=3), "config.json: depth: unknown option"),
    ("a bad option", edit(lr=-1), "config.json: --lr: expected a positive number"),
    ("another network", edit(hidden=[9]), "of a run with hidden = [8], not [9]"),
    ("more layers", edit(hidden=[8, 8]), "of a run with hidden = [8], not [8, 8]"),
    ("another optimizer", edit(optimizer="sgd", epochs=4), "optimizer"),
    ("no checkpoints", lambda folder: shutil.rmtree(folder / "checkpoints"), "expected a checkpoint, got no file"),
    *[(f"a checkpoint that is {name}", replace_checkpoints(damage), f"{LAST}: expected") for name, damage, _ in DAMAGE],
]  # fmt: skip


@pytest.mark.parametrize(("damage", "part"), [row[1:] for row in BAD_RUNS], ids=[row[0] for row in BAD_RUNS])
class TestBadRuns:
    def test_are_refused_in_one_line(self, copy, capsys, damage, part):
        damage(copy)
        assert_bad(capsys, copy, copy, part)
        assert not list(copy.rglob("executed"))


def test_missing_data_are_refused_in_one_line(copy, capsys):
    edit(data="gone.csv")(copy)
    assert_bad(capsys, copy, "--data: expected a file, or one of digits", "got 'gone.csv'")


@pytest.mark.parametrize(("name", "damage"), [row[:2] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(tmp_path, expected, copy, capsys, name, damage):
    (copy / "checkpoints" / LAST).unlink()
    (copy / "summary.json").unlink()
    damage(copy / "checkpoints" / LAST)
    assert command.main(["--resume", str(copy)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(copy / "checkpoints" / LAST) in line
    assert not list(copy.rglob("executed"))
    assert_same_result(copy, expected)
