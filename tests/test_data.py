"""Files of the user's own: what is learned from them, how they are split, streamed and predicted."""

import gzip
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

from torchann.training import Config, Model, command, train
from torchann.training.data import DataError, Preparation, load
from torchann.training.data import streamed as streaming
from torchann.training.data.learning import Moments
from torchann.training.errors import Interrupted
from torchann.training.step import Trainer

ROOT = Path(__file__).parents[1]
ROWS = 200


def people(rows=ROWS, seed=0):
    """A table with numbers, names and booleans; both targets can be learned from it."""
    random = np.random.default_rng(seed)
    age = random.normal(50, 10, rows)
    city = random.choice(["Rome", "Oslo", "Bern"], rows)
    member = random.choice([True, False], rows)
    price = 2 * age + 30 * (city == "Rome") + 5 * member
    return pl.DataFrame(
        {"age": age, "city": city, "member": member, "price": price, "kind": np.where(price > 115, "high", "low")}
    )


WRITERS = {
    "csv": lambda frame, path: frame.write_csv(path),
    "tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "parquet": lambda frame, path: frame.write_parquet(path),
    "csv.gz": lambda frame, path: path.write_bytes(gzip.compress(frame.write_csv().encode())),
}


def write(folder, frame, suffix="csv", name="people"):
    path = folder / f"{name}.{suffix}"
    WRITERS[suffix](frame, path)
    return path


def load_table(path, target="kind", **options):
    return load(str(path), **{"seed": 3, "device": "cpu", "dtype": torch.float64, "target": target, **options})


def all_rows(dataset):
    return [torch.cat(parts) for parts in zip(*dataset.batches(1, 16), strict=True)], [
        torch.cat(parts) for parts in zip(*dataset.test_batches(), strict=True)
    ]


def sorted_rows(*parts):
    """As a set of rows, which order doesn't change."""
    return sorted(map(tuple, torch.cat([torch.cat([x, y], dim=1) for x, y in parts]).tolist()))


class TestTables:
    @pytest.mark.parametrize("suffix", WRITERS)
    def test_every_format_gives_the_same_data(self, suffix, tmp_path):
        expected, dataset = (
            load_table(write(tmp_path, people())),
            load_table(write(tmp_path, people(), suffix, "other")),
        )
        assert dataset.preparation == expected.preparation
        for ours, theirs in zip(all_rows(dataset), all_rows(expected), strict=True):
            assert all(map(torch.equal, ours, theirs))

    @pytest.mark.parametrize("stream", [False, True])
    def test_inputs_are_those_worked_out_by_hand(self, stream, tmp_path, monkeypatch):
        monkeypatch.setattr(streaming, "GROUP", 5 * 30)  # rows of 5 values: 30 in a group
        frame = people()
        dataset = load_table(write(tmp_path, frame), stream=stream)
        train, test = all_rows(dataset)
        mean, scale = (dataset.preparation.features[0].mean, dataset.preparation.features[0].scale)
        ages = train[0][:, 0] * scale + mean
        # Standardised by the training rows alone.
        assert ages.mean().item() == pytest.approx(mean)
        assert ages.std(correction=0).item() == pytest.approx(scale)
        assert dataset.preparation.feature_names == (
            "age", "city=Bern", "city=Oslo", "city=Rome", "member=false", "member=true", "price",
        )  # fmt: skip
        assert dataset.classes == ("high", "low")
        columns = [(frame["age"] - mean) / scale]
        columns += [frame["city"] == city for city in ("Bern", "Oslo", "Rome")]
        columns += [~frame["member"], frame["member"]]
        columns += [(frame["price"] - dataset.preparation.features[3].mean) / dataset.preparation.features[3].scale]
        columns += [frame["kind"] == kind for kind in ("high", "low")]
        by_hand = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
        np.testing.assert_allclose(
            sorted_rows(train, test), sorted(map(tuple, by_hand.tolist())), rtol=1e-9, atol=1e-12
        )

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_fifth_is_for_the_test_and_no_row_is_in_both(self, stream, tmp_path):
        dataset = load_table(write(tmp_path, people().with_row_index("id")), stream=stream)
        train, test = all_rows(dataset)
        assert len(test[0]) == dataset.test_samples == ROWS // 5
        assert len(train[0]) == dataset.train_samples == ROWS - ROWS // 5
        ids = torch.cat([train[0][:, 0], test[0][:, 0]])
        assert len(ids.unique()) == ROWS

    @pytest.mark.parametrize(
        ("target", "values", "options", "task", "classes"),
        [
            ("t", ["a", "b"], {}, "classification", ("a", "b")),
            ("t", [True, False], {}, "classification", ("false", "true")),
            ("t", [10, 9], {}, "classification", ("9", "10")),
            ("t", [1.5, 2.5], {}, "regression", ()),
            ("t", [1.0, 2.0], {}, "classification", ("1", "2")),
            ("t", list(range(25)), {}, "regression", ()),
            ("t", [10, 9], {"task": "regression"}, "regression", ()),
            ("t", [1.5, 2.5], {"task": "classification"}, "classification", ("1.5", "2.5")),
            ("t", ["1.50", "1.5", "01.5"], {"task": "classification"}, "classification", ("01.5", "1.5", "1.50")),
            ("t", list(range(25)), {"task": "classification"}, "classification", tuple(map(str, range(25)))),
        ],
    )
    def test_the_task_goes_by_the_target_and_can_be_set(self, target, values, options, task, classes, tmp_path):
        count = 4 * len(values)
        frame = pl.DataFrame({"x": np.arange(float(count)), target: values * 4})
        for suffix in ("csv", "parquet"):
            dataset = load_table(write(tmp_path, frame, suffix), target, **options)
            assert (dataset.task, dataset.classes) == (task, classes)

    @pytest.mark.parametrize("low", [2**53, 2**63])
    def test_large_whole_numbers_stay_apart(self, low, tmp_path):
        kinds = pl.Series([low, low + 1] * 10, dtype=pl.UInt64)
        frame = pl.DataFrame({"x": np.arange(20.0), "kind": kinds})
        for suffix in ("csv", "parquet"):
            assert load_table(write(tmp_path, frame, suffix)).classes == (str(low), str(low + 1))

    @pytest.mark.parametrize("cell", ["", "NA", "NaN", "  "])
    @pytest.mark.parametrize("stream", [False, True])
    def test_missing_values(self, cell, stream, tmp_path):
        path = tmp_path / "holes.csv"
        lines = [f"{number},{'ab'[number % 2]},{'uv'[number % 2]}" for number in range(20)]
        lines[4], lines[7] = f"{cell},a,u", f"7,{cell},v"
        path.write_text("\n".join(["x,name,kind", *lines]) + "\n")
        with pytest.raises(DataError, match=r"holes\.csv: row 6, column 'x': expected a value, got none"):
            load_table(path, stream=stream)
        dropped, filled = (load_table(path, missing=how, stream=stream) for how in ("drop", "mean"))
        assert dropped.train_samples + dropped.test_samples == 18
        assert filled.train_samples + filled.test_samples == 20
        rows = sorted_rows(*all_rows(filled))
        assert (0.0, 1.0, 0.0, 1.0, 0.0) in rows  # the mean
        assert sum(row[1:3] == (0.0, 0.0) for row in rows) == 1  # no name

    def test_blank_lines_are_no_rows(self, tmp_path):
        path = write(tmp_path, people())
        with_blanks = tmp_path / "blanks.csv"
        with_blanks.write_text(path.read_text().replace("\n", "\n\n", 3) + "\n\n")
        assert load_table(with_blanks).preparation == load_table(path).preparation

    def test_a_category_of_the_test_rows_alone_is_known(self, tmp_path):
        frame = people().with_row_index("id").with_columns(city=pl.format("city {}", pl.col("id") // 2))
        dataset = load_table(write(tmp_path, frame.drop("id")))
        x = all_rows(dataset)[1][0]
        assert (x[:, 1 : 1 + ROWS // 2].sum(1) == 1).all()

    def test_bytes_of_a_mark_and_spaces_in_the_header(self, tmp_path):
        path = tmp_path / "marked.csv"
        path.write_bytes(b"\xef\xbb\xbfx , kind\n" + b"".join(b"%d, %s\n" % (i, b"ab"[i % 2 :][:1]) for i in range(20)))
        dataset = load_table(path)
        assert (dataset.preparation.feature_names, dataset.classes) == (("x",), ("a", "b"))


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
        config = Config(
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


# --- Arrays -----------------------------------------------------------------------------------------------------------


def digits(count=60):
    random = np.random.default_rng(0)
    y = np.arange(count) % 3
    return (random.normal(size=(count, 4)) + y[:, None]).astype(np.float32), y


def write_npz(path, x, y):
    np.savez(path, x=x, y=y)


def write_pt(path, x, y):
    torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, path)


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
        run = train(Config(data=str(tmp_path / "pair.pt"), epochs=1, logdir=str(tmp_path / "runs")))
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


# --- What is learned --------------------------------------------------------------------------------------------------


class TestMoments:
    @pytest.mark.parametrize("offset", [0, 1e9])
    def test_pieces_give_the_moments_of_the_whole(self, offset):
        values = np.random.default_rng(0).normal(size=(1000, 3)) * [1, 5, 0] + offset
        values[::7, 0] = np.nan
        moments = Moments(3)
        for piece in np.array_split(values, [0, 10, 11, 500]):
            moments.add(piece)
        columns = moments.columns("file", ("a", "b", "c"))
        np.testing.assert_allclose([c.mean for c in columns], np.nanmean(values, axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose([c.scale for c in columns[:2]], np.nanstd(values, axis=0)[:2], rtol=1e-6)
        assert columns[2].scale == 1  # constant

    def test_a_column_without_values(self):
        moments = Moments(1)
        moments.add(np.full((3, 1), np.nan))
        with pytest.raises(DataError, match="file: column 'a': expected values in the training rows, got none"):
            moments.columns("file", ("a",))


def test_a_preparation_survives_json(tmp_path):
    for target in ("kind", "price"):
        preparation = load_table(write(tmp_path, people()), target).preparation
        again = Preparation.from_dict(json.loads(json.dumps(preparation.to_dict())))
        assert again == preparation
        assert again.is_close_to(preparation)


# --- Predicting -------------------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    """`train.py`'s exit status, and what it printed."""
    capsys.readouterr()  # what was printed before
    status = command.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """For each target a run on people.csv, in its folder."""
    folder = tmp_path_factory.mktemp("trained")
    path = write(folder, people())
    options = {"data": str(path), "hidden": (8,), "epochs": 30, "lr": 0.02, "logdir": str(folder / "runs")}
    return folder, {target: train(Config(**options, target=target)) for target in ("kind", "price")}


class TestPredict:
    @pytest.mark.parametrize("suffix", WRITERS)
    def test_new_rows_need_no_options(self, suffix, trained, tmp_path, capsys):
        _, runs = trained
        new = (
            people(50, seed=1)
            .drop("kind")
            .with_columns(note=pl.lit("not used"))
            .select(["note", "price", "member", "city", "age"])
        )
        status, out, _ = call(capsys, "predict", runs["kind"].folder, write(tmp_path, new, suffix))
        assert status == 0
        head, *lines = out.splitlines()
        assert head == "kind"
        truth = people(50, seed=1)["kind"].to_list()
        assert len(lines) == 50
        assert sum(map(str.__eq__, lines, truth)) >= 40

    def test_are_what_the_network_says_in_the_targets_units(self, trained, tmp_path, capsys):
        _, runs = trained
        new = people(50, seed=1)
        out = tmp_path / "predicted.csv"
        status, shown, _ = call(capsys, "predict", runs["price"].folder, write(tmp_path, new), "--out", out)
        assert (status, shown) == (0, "")
        predicted = pl.read_csv(out)
        assert predicted.columns == ["price"]
        model = Model.load(runs["price"].folder)
        typed = new.with_columns(pl.col("member").cast(pl.String))
        column = model.preparation.target[0]
        by_hand = model.network(model.preparation.encode(typed, torch.float32)).double() * column.scale + column.mean
        np.testing.assert_allclose(predicted["price"].to_numpy(), by_hand.detach().squeeze(1).numpy(), rtol=1e-12)
        assert np.abs(predicted["price"] - new["price"]).max() < 30

    def test_evaluate_scores_them(self, trained, tmp_path, capsys):
        _, runs = trained
        best = runs["kind"].summary["best"]
        status, out, _ = call(capsys, "evaluate", runs["kind"].folder)
        assert status == 0
        assert out == f"loss {best['test_loss']:.6g}  accuracy {best['test_accuracy']:.6g}  ({ROWS // 5} samples)\n"
        new = people(50, seed=1)
        _, predicted, _ = call(capsys, "predict", runs["kind"].folder, write(tmp_path, new))
        _, scored, _ = call(capsys, "evaluate", runs["kind"].folder, write(tmp_path, new))
        right = sum(map(str.__eq__, predicted.splitlines()[1:], new["kind"]))
        assert f"accuracy {right / 50:.6g}  (50 samples)" in scored

    def test_evaluate_gives_errors_in_the_targets_units(self, trained, tmp_path, capsys):
        _, runs = trained
        path = write(tmp_path, people(50, seed=1))
        _, predicted, _ = call(capsys, "predict", runs["price"].folder, path)
        values = np.array(predicted.splitlines()[1:], dtype=float)
        error = np.sqrt(np.mean((values - people(50, seed=1)["price"].to_numpy()) ** 2))
        _, scored, _ = call(capsys, "evaluate", runs["price"].folder, path)
        assert float(re.search(r"error (\S+)", scored)[1]) == pytest.approx(error, rel=1e-5)

    def test_names_come_as_utf8_whatever_the_encoding_there(self, tmp_path, monkeypatch):
        path = write(tmp_path, people().with_columns(pl.col("kind").cast(pl.String) + " δ"))
        run = train(Config(data=str(path), target="kind", hidden=(4,), epochs=1, logdir=str(tmp_path / "runs")))
        pipe = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe, encoding="cp1252", write_through=True))
        assert command.main(["predict", str(run.folder), str(path)]) == 0
        assert all(line.endswith(" δ") for line in pipe.getvalue().decode("utf-8").splitlines()[1:])

    @pytest.mark.parametrize(("missing", "expected"), [("drop", ""), ("mean", None)])
    def test_rows_that_lack_a_value(self, missing, expected, tmp_path, capsys):
        path = write(tmp_path, people())
        run = train(Config(data=str(path), target="kind", missing=missing, hidden=(4,), epochs=2, logdir=str(tmp_path)))
        new = people(9).with_columns(age=pl.when(pl.int_range(pl.len()) != 4).then("age"))
        status, out, _ = call(capsys, "predict", run.folder, write(tmp_path, new))
        lines = out.split("\n")[1:-1]
        assert (status, len(lines)) == (0, 9)
        assert [line for line in lines if line == '""'] == (['""'] if expected == "" else [])
        _, out, _ = call(capsys, "evaluate", run.folder, write(tmp_path, new))
        assert f"({8 if missing == 'drop' else 9} samples)" in out

    def test_no_rows_are_left_to_score(self, tmp_path, capsys):
        path = write(tmp_path, people())
        run = train(Config(data=str(path), target="kind", missing="drop", hidden=(4,), epochs=2, logdir=str(tmp_path)))
        new = write(tmp_path, people(9).with_columns(age=pl.lit(None)), name="new")
        status, out, err = call(capsys, "evaluate", run.folder, new)
        assert (status, out) == (2, "")
        assert err.endswith("new.csv: expected rows without missing values, got none\n")

    def test_arrays(self, tmp_path, capsys):
        x, y = digits()
        write_npz(tmp_path / "a.npz", x, y)
        run = train(Config(data=str(tmp_path / "a.npz"), hidden=(8,), epochs=20, lr=0.05, logdir=str(tmp_path)))
        write_pt(tmp_path / "new.pt", x[:7], y[:7])
        status, out, _ = call(capsys, "predict", run.folder, tmp_path / "new.pt")
        assert status == 0
        assert len(out.splitlines()) == 8
        assert set(out.splitlines()[1:]) <= {"0", "1", "2"}
        status, out, _ = call(capsys, "evaluate", run.folder, tmp_path / "new.pt")
        assert status == 0
        assert out.endswith("(7 samples)\n")


def test_other_data_under_the_same_name_are_refused(tmp_path, capsys):
    path = write(tmp_path, people())
    run = train(Config(data=str(path), target="kind", hidden=(4,), epochs=2, logdir=str(tmp_path)))
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    for other in (people(seed=5), people().with_columns(city=pl.concat_str("city", "member"))):
        write(tmp_path, other)
        for arguments, message in (
            (("--resume", run.folder), "of a run with other data than"),
            (("evaluate", run.folder), f"{path}: expected the data that {run.folder} was trained with, got other ones"),
        ):
            status, out, err = call(capsys, *arguments)
            assert (status, out) == (2, "")
            assert message in err
    assert {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()} == before
