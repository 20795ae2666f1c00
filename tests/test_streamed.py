"""Tables that are streamed: their order, where a run resumes, and the memory that they take."""

import os
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from command_line import ROOT, unmonitored
from data_files import ROWS, load_table, people, write

from torchann.training import Config, train
from torchann.training.data import streamed as streaming
from torchann.training.errors import Interrupted
from torchann.training.step import Trainer


class TestStreaming:
    @pytest.fixture
    def path(self, tmp_path, monkeypatch):
        monkeypatch.setattr(streaming, "GROUP", 5 * 30)
        monkeypatch.setattr(streaming, "MIXED", 3)
        return write(tmp_path, people())

    def test_order_depends_on_seed_and_epoch_alone(self, path):
        first, again, other = (load_table(path, stream=True, seed=seed) for seed in (1, 1, 2))
        orders = [torch.cat([x for x, _ in dataset.batches(epoch, 16)]) for dataset, epoch in
                  ((first, 1), (again, 1), (first, 2), (other, 1))]  # fmt: skip
        assert torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])
        assert not torch.equal(orders[0], orders[3])

    def test_rows_of_several_groups_are_mixed(self, path):
        ages = people()["age"].to_list()
        dataset = load_table(path, stream=True)
        column = dataset.preparation.features[0]
        x, _ = next(dataset.batches(1, 40))
        places = {
            min(range(ROWS), key=lambda row: abs(ages[row] - value))
            for value in (x[:, 0] * column.scale + column.mean).tolist()
        }
        assert len({place // 30 for place in places}) == 3

    @pytest.mark.parametrize("size", [7, 16, 1000])
    @pytest.mark.parametrize("stream", [False, True])
    def test_starts_at_any_batch(self, path, stream, size, monkeypatch):
        monkeypatch.setattr("torchann.training.data.memory.GATHERED", 500)
        dataset = load_table(path, stream=stream)
        batches = list(dataset.batches(2, size))
        assert [len(x) for x, _ in batches[:-1]] == [size] * (len(batches) - 1)
        for start in range(len(batches)):
            rest = list(dataset.batches(2, size, start=start))
            assert len(rest) == len(batches) - start
            for ours, theirs in zip(rest, batches[start:], strict=True):
                assert all(map(torch.equal, ours, theirs))
                # Where x lies decides how a BLAS rounds.
                assert ours[0].data_ptr() % 64 == theirs[0].data_ptr() % 64

    def test_its_file_goes_with_it(self, path):
        dataset = load_table(path, stream=True)
        folder = dataset.groups.path.parent
        assert folder.exists()
        del dataset
        assert not folder.exists()

    def test_a_large_file_is_streamed_unasked(self, path, monkeypatch):
        monkeypatch.setattr("torchann.training.data.loading.STREAMED_FROM", 1000)
        assert isinstance(load_table(path), streaming.Streamed)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_run_stopped_amid_an_epoch_resumes_to_the_same_bits(self, stream, path, tmp_path, monkeypatch):
        config = unmonitored(
            data=str(path), target="kind", stream=stream, hidden=(4,), batch_size=7, epochs=2, logdir=str(tmp_path)
        )
        whole, step = train(config), Trainer.step

        def interrupted(trainer, x, y):
            step(trainer, x, y)
            if trainer.steps == 5:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Trainer, "step", interrupted)
        with pytest.raises(Interrupted) as stop:
            train(config)
        monkeypatch.setattr(Trainer, "step", step)
        rest = train(config, resume=stop.value.folder)
        assert all(map(torch.equal, whole.network.parameters(), rest.network.parameters()))

    def test_a_run_resumes_to_the_same_bits(self, path, tmp_path):
        options = {
            "data": str(path),
            "target": "kind",
            "stream": True,
            "hidden": (4,),
            "logdir": str(tmp_path / "runs"),
        }
        whole = train(Config(**options, epochs=4))
        half = train(Config(**options, epochs=2))
        config = half.folder / "config.json"
        config.write_text(config.read_text().replace('"epochs": 2', '"epochs": 4'))
        rest = train(Config(**options, epochs=4), resume=half.folder)
        assert all(map(torch.equal, whole.network.parameters(), rest.network.parameters()))
        assert (whole.folder / "metrics.csv").read_bytes() == (rest.folder / "metrics.csv").read_bytes()

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_table(self, tmp_path):
        """A CSV of a million rows is measured by `python -m benchmarks.streaming`."""
        random = np.random.default_rng(0)
        few, many = 500_000, 2_000_000  # more than the row groups that are mixed
        frame = pl.DataFrame({f"x{i}": random.normal(size=many) for i in range(20)}).with_columns(kind=pl.col("x0") > 0)
        peaks = [
            peak_of_training(write(tmp_path, frame[:rows], "parquet", f"rows{rows}"), tmp_path, "--stream")
            for rows in (few, many)
        ]
        assert peaks[1] - peaks[0] < 20 * (many - few) * 4  # the rows more, in float32


def peak_of_training(path, folder, *options):
    """Most memory that a process took, in bytes."""
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from torchann.training import command
status = command.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""
    arguments = ["--data", path, "--target", "kind", "--epochs", 1, "--batch-size", 4096, "--logdir", folder, *options]
    environment = {**os.environ, "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"}  # polars frees at once
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    return int(done.stdout.splitlines()[-1])
