"""The training loop's options: what each does to the steps, on one process and on two."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import unmonitored
from safetensors.torch import load_file

from torchann.training import Config, TrainingError, command, train
from torchann.training.config import read_config
from torchann.training.data import load
from torchann.training.distributed import ProcessGroup
from torchann.training.errors import ConfigError
from torchann.training.step import Trainer

ROOT = Path(__file__).parents[1]
EXACT = {"rtol": 1e-6, "atol": 1e-9}


def trainer_for(**options):
    config = Config(
        **{"data": "wine", "hidden": (7,), "dtype": "float64", "device": "cpu", "optimizer": "sgd", **options}
    )
    dataset = load(config.data, seed=config.seed, device="cpu", dtype=torch.float64)
    return Trainer(config, dataset, ProcessGroup(torch.device("cpu")))


def after_an_epoch(**options):
    trainer = trainer_for(**options)
    for x, y in trainer.batches():
        trainer.step(x, y)
    return trainer


def folder_after(tmp_path, **options):
    config = unmonitored(
        **{"data": "wine", "hidden": (7,), "epochs": 2, "device": "cpu", "logdir": str(tmp_path), **options}
    )
    return train(config)


class TestOneProcess:
    def test_accumulated_batches_make_the_step_of_one_large_batch(self):
        """Of 142 training samples, so that the last step has 2 batches instead of 3, the last one of 7 samples."""
        many, one = after_an_epoch(batch_size=9, accumulate=3), after_an_epoch(batch_size=27)
        assert many.steps == one.steps == math.ceil(142 / 27)
        for mine, reference in zip(many.network.parameters(), one.network.parameters(), strict=True):
            torch.testing.assert_close(mine, reference, **EXACT)

    def test_the_learning_rate_warms_up_and_falls_as_a_cosine(self):
        trainer = trainer_for(schedule="cosine", warmup=4, lr=0.5, epochs=2, batch_size=32)
        rates = []
        for _ in range(2):
            for x, y in trainer.batches():
                trainer.step(x, y)
                rates.append(trainer.optimizer.param_groups[0]["lr"])
            trainer.epoch, trainer.batch = trainer.epoch + 1, 0
        assert len(rates) == trainer.last_step == 10
        assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
        assert rates[4:] == pytest.approx([0.25 * (1 + math.cos(math.pi * n / 6)) for n in range(6)])

    def test_gradients_are_clipped(self):
        trainer = trainer_for(clip=1e-3)
        trainer.step(*next(iter(trainer.batches())))
        norm = torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-3)

    def test_patience_stops_early_and_keeps_the_best(self, tmp_path):
        result = folder_after(tmp_path, epochs=200, lr=0.5, patience=3)
        epochs, best = result.summary["epochs"], result.summary["best"]
        assert epochs == best["epoch"] + 3 < 200
        saved = torch.load(result.folder / "checkpoints" / "best.pt", weights_only=True)["network"]
        torch.testing.assert_close(load_file(result.folder / "model.safetensors"), dict(saved), rtol=0, atol=0)

    @pytest.mark.parametrize("amp", ["bf16", "fp16"])
    def test_mixed_precision_learns_about_the_same(self, amp, tmp_path):
        mixed, single = (folder_after(tmp_path, amp=each, epochs=5).summary for each in (amp, "off"))
        assert mixed["train_loss"] == pytest.approx(single["train_loss"], rel=0.05)
        assert mixed["train_loss"] != single["train_loss"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"amp": "bf16", "dtype": "float64"}, "--amp: expected off where --dtype is float64, got 'bf16'"),
            ({"cuda_graph": True}, "--cuda-graph: expected a CUDA device, got cpu"),
        ],
    )
    def test_options_that_would_do_nothing_are_refused(self, options, message):
        with pytest.raises(ConfigError, match=message):
            trainer_for(**options)

    @pytest.mark.slow
    def test_a_compiled_network_takes_the_same_steps(self):
        compiled, eager = after_an_epoch(compile=True), after_an_epoch()
        for mine, reference in zip(compiled.network.parameters(), eager.network.parameters(), strict=True):
            torch.testing.assert_close(mine, reference, **EXACT)

    def test_float64_is_float64(self, tmp_path):
        result = folder_after(tmp_path, dtype="float64")
        assert {tensor.dtype for tensor in load_file(result.folder / "model.safetensors").values()} == {torch.float64}

    def test_a_step_reads_no_number_back_from_the_device(self):
        trainer = trainer_for()
        x, y = next(iter(trainer.batches()))
        reads = []

        class Watching(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if func is torch.ops.aten._local_scalar_dense.default:
                    reads.append(func)
                return func(*args, **(kwargs or {}))

        with Watching():
            trainer.step(x, y)
            assert reads == []
            x.sum().item()
        assert len(reads) == 1


class TestNotFinite:
    def test_names_epoch_batch_and_layer_and_keeps_the_checkpoint(self, tmp_path):
        with pytest.raises(TrainingError, match=r"in epoch 1, batch \d+, first in the .*layer \d") as caught:
            folder_after(tmp_path, data="diabetes", optimizer="sgd", lr=1e30)
        (folder,) = tmp_path.iterdir()
        assert str(folder / "checkpoints" / "last.pt") in str(caught.value)
        saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
        assert saved  # loads, as it was before training

    def test_finds_the_batch(self, tmp_path, monkeypatch):
        """A loss that is NaN in the 3rd batch of the 2nd epoch, because of a layer's bias."""
        original = Trainer.step

        def step(self, x, y):
            if (self.epoch, self.batch) == (2, 2):
                with torch.no_grad():
                    self.network.layers[1].bias.fill_(torch.nan)
            return original(self, x, y)

        monkeypatch.setattr(Trainer, "step", step)
        with pytest.raises(TrainingError, match="epoch 2, batch 3"):
            folder_after(tmp_path, epochs=3)


def run_here(tmp_path, *arguments):
    """Runs `train.py` in this process; returns the run's folder."""
    logdir = tmp_path / f"here-{len(list(tmp_path.iterdir()))}"
    assert command.main([*map(str, arguments), "--logdir", str(logdir)]) == 0
    (folder,) = logdir.iterdir()
    return folder


def run_on_two(tmp_path, *arguments):
    """Runs `train.py` on two processes; returns the run's folder and what was printed."""
    logdir = tmp_path / f"on-two-{len(list(tmp_path.iterdir()))}"
    done = subprocess.run(
        [*ON_TWO, *map(str, arguments), "--logdir", str(logdir)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = logdir.iterdir()
    return folder, done.stdout


ON_TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(ROOT / "train.py")]
OPTIONS = ["--data", "digits", "--hidden", 12, "--dtype", "float64", "--epochs", 3, "--batch-size", 31, "--seed", 4]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
class TestTwoProcesses:
    @pytest.mark.parametrize(
        "more",
        [[], ["--accumulate", 3, "--clip", 0.1, "--schedule", "cosine", "--warmup", 5]],
        ids=["plain", "with options"],
    )
    def test_give_the_result_of_one_process(self, tmp_path, more):
        one = run_here(tmp_path, *OPTIONS, *more)
        two, printed = run_on_two(tmp_path, *OPTIONS, *more)
        weights, expected = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
        torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-6)
        for mine, reference in zip(read_rows(two), read_rows(one), strict=True):
            assert mine == pytest.approx(reference, rel=1e-6)  # each sample counted once, in training and evaluation
        assert printed.count("epoch 3/3") == 1  # one process prints

    def test_resume_with_another_number_of_processes(self, tmp_path):
        expected = run_here(tmp_path, *OPTIONS)
        half, _ = run_on_two(tmp_path, *OPTIONS[:6], "--epochs", 2, *OPTIONS[8:])
        config = read_config(half / "config.json").as_dict() | {"epochs": 3}
        (half / "config.json").write_text(json.dumps(config))
        assert command.main(["--resume", str(half)]) == 0
        torch.testing.assert_close(
            load_file(half / "model.safetensors"), load_file(expected / "model.safetensors"), rtol=1e-6, atol=1e-6
        )

    def test_a_bad_option_is_reported_once(self, tmp_path):
        done = subprocess.run([*ON_TWO, "--lr", "0"], capture_output=True, text=True)
        assert done.returncode != 0
        assert done.stderr.count("train.py: error: --lr: expected a positive number") == 1


def read_rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
