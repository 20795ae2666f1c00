"""Arrays of the user's own, in files of each format."""

import gzip
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from command_line import call, unmonitored
from data_files import all_rows, digits, sorted_rows, write_npz, write_pt

from torchann.training import train
from torchann.training.data import DataError, load


def write_safetensors(path, x, y):
    safetensors.torch.save_file({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, path)


def idx_bytes(values):
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.astype(np.uint8).tobytes()
    )


def write_idx(folder, images, labels, suffix=""):
    pack = gzip.compress if suffix else bytes
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx_bytes(images)))
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx_bytes(labels)))
    return path


class TestArrays:
    @pytest.mark.parametrize(
        ("suffix", "writer"),
        [("npz", write_npz), ("pt", write_pt), ("pth", write_pt), ("safetensors", write_safetensors)],
    )
    def test_class_numbers(self, suffix, writer, tmp_path):
        x, y = digits()
        path = tmp_path / f"digits.{suffix}"
        writer(path, x, y)
        dataset = load(str(path), seed=0, device="cpu", dtype=torch.float64)
        assert (dataset.task, dataset.classes, dataset.inputs) == ("classification", ("0", "1", "2"), 4)
        train, test = all_rows(dataset)
        means = np.array([column.mean for column in dataset.preparation.features])
        scales = np.array([column.scale for column in dataset.preparation.features])
        by_hand = np.concatenate([(x - means) / scales, np.eye(3)[y]], axis=1)
        np.testing.assert_allclose(sorted_rows(train, test), sorted(map(tuple, by_hand.tolist())), rtol=1e-6, atol=1e-7)

    def test_tensors_without_names(self, tmp_path, capsys):
        x, y = map(torch.from_numpy, digits())
        torch.save((x, y), tmp_path / "pair.pt")
        torch.save({"x": x, "y": y}, tmp_path / "named.pt")
        torch.save(x, tmp_path / "x.pt")
        pair, named = (load(str(tmp_path / name), seed=0, device="cpu") for name in ("pair.pt", "named.pt"))
        assert pair.preparation == named.preparation
        run = train(unmonitored(data=str(tmp_path / "pair.pt"), epochs=1, logdir=str(tmp_path / "runs")))
        status, out, _ = call(capsys, "predict", run.folder, tmp_path / "x.pt")
        assert (status, len(out.splitlines())) == (0, 61)

    @pytest.mark.parametrize("outputs", [None, 2])
    def test_values_are_regression(self, outputs, tmp_path):
        x, _ = digits()
        y = x[:, 0] if outputs is None else x[:, :outputs]
        write_npz(tmp_path / "v.npz", x, y)
        dataset = load(str(tmp_path / "v.npz"), seed=0, device="cpu", dtype=torch.float64)
        assert (dataset.task, dataset.outputs) == ("regression", outputs or 1)
        train, _ = all_rows(dataset)
        torch.testing.assert_close(train[1], train[0][:, : outputs or 1], rtol=1e-6, atol=1e-7)

    def test_one_column_is_that_of_one_dimension(self, tmp_path):
        x, y = digits()
        for values in (y, x[:, 0]):
            write_npz(tmp_path / "flat.npz", x, values)
            write_npz(tmp_path / "column.npz", x, values[:, None])
            flat, column = (load(str(tmp_path / f"{name}.npz"), seed=0, device="cpu") for name in ("flat", "column"))
            assert column.preparation == flat.preparation

    def test_names(self, tmp_path):
        x, y = digits()
        np.savez(tmp_path / "n.npz", x=x, y=np.array(["low", "mid", "top"])[y])
        np.savez(tmp_path / "c.npz", x=x, y=y, classes=np.array(["low", "mid", "top", "never"]))
        named, numbered = (load(str(tmp_path / name), seed=0, device="cpu") for name in ("n.npz", "c.npz"))
        assert (named.classes, numbered.classes) == (("low", "mid", "top"), ("low", "mid", "top", "never"))
        assert torch.equal(all_rows(named)[0][1], all_rows(numbered)[0][1][:, :3])

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_idx_pairs(self, suffix, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (50, 6, 5))
        path = write_idx(tmp_path, images, np.arange(50) % 10, suffix)
        dataset = load(str(path), seed=0, device="cpu", dtype=torch.float64)
        assert (dataset.inputs, dataset.outputs, dataset.preparation.shape) == (30, 10, (6, 5))
        train, test = all_rows(dataset)
        columns = dataset.preparation.features
        raw = torch.cat([train[0], test[0]]) * torch.tensor([c.scale for c in columns]) + torch.tensor(
            [c.mean for c in columns]
        )
        assert sorted(map(tuple, raw.round().int().tolist())) == sorted(map(tuple, images.reshape(50, 30).tolist()))

    def test_missing_values(self, tmp_path):
        x, y = digits()
        x[3, 1] = np.nan
        write_npz(tmp_path / "m.npz", x, y)
        with pytest.raises(DataError, match=r"m\.npz: x: row 4, column 2: expected a number, got nan"):
            load(str(tmp_path / "m.npz"), seed=0, device="cpu")
        dropped, filled = (load(str(tmp_path / "m.npz"), seed=0, device="cpu", missing=how) for how in ("drop", "mean"))
        assert dropped.train_samples + dropped.test_samples == 59
        assert 0.0 in torch.cat([part[0][:, 1] for part in all_rows(filled)]).tolist()
