"""`train.py predict` and `evaluate`, on new rows of the user's own."""

import io
import re

import numpy as np
import polars as pl
import pytest
import torch
from command_line import call, unmonitored
from data_files import ROWS, WRITERS, digits, people, write, write_npz, write_pt

from torchann.training import Config, Model, command, train


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
        run = train(unmonitored(data=str(path), target="kind", hidden=(4,), epochs=1, logdir=str(tmp_path / "runs")))
        pipe = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe, encoding="cp1252", write_through=True))
        assert command.main(["predict", str(run.folder), str(path)]) == 0
        assert all(line.endswith(" δ") for line in pipe.getvalue().decode("utf-8").splitlines()[1:])

    @pytest.mark.parametrize(("missing", "expected"), [("drop", ""), ("mean", None)])
    def test_rows_that_lack_a_value(self, missing, expected, tmp_path, capsys):
        path = write(tmp_path, people())
        run = train(
            unmonitored(data=str(path), target="kind", missing=missing, hidden=(4,), epochs=2, logdir=str(tmp_path))
        )
        new = people(9).with_columns(age=pl.when(pl.int_range(pl.len()) != 4).then("age"))
        status, out, _ = call(capsys, "predict", run.folder, write(tmp_path, new))
        lines = out.split("\n")[1:-1]
        assert (status, len(lines)) == (0, 9)
        assert [line for line in lines if line == '""'] == (['""'] if expected == "" else [])
        _, out, _ = call(capsys, "evaluate", run.folder, write(tmp_path, new))
        assert f"({8 if missing == 'drop' else 9} samples)" in out

    def test_no_rows_are_left_to_score(self, tmp_path, capsys):
        path = write(tmp_path, people())
        run = train(
            unmonitored(data=str(path), target="kind", missing="drop", hidden=(4,), epochs=2, logdir=str(tmp_path))
        )
        new = write(tmp_path, people(9).with_columns(age=pl.lit(None)), name="new")
        status, out, err = call(capsys, "evaluate", run.folder, new)
        assert (status, out) == (2, "")
        assert err.endswith("new.csv: expected rows without missing values, got none\n")

    def test_arrays(self, tmp_path, capsys):
        x, y = digits()
        write_npz(tmp_path / "a.npz", x, y)
        run = train(unmonitored(data=str(tmp_path / "a.npz"), hidden=(8,), epochs=20, lr=0.05, logdir=str(tmp_path)))
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
    run = train(unmonitored(data=str(path), target="kind", hidden=(4,), epochs=2, logdir=str(tmp_path)))
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
