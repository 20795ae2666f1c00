"""Tables of the user's own: what is learned from them, and how they are split."""

import numpy as np
import polars as pl
import pytest
import torch
from data_files import ROWS, WRITERS, all_rows, load_table, people, sorted_rows, write

from torchann.training.data import DataError
from torchann.training.data import streamed as streaming


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

    @pytest.mark.parametrize(
        ("last", "complaint"), [("oops,y", "column 'x': expected a number"), ("2,y,3", "expected 2")]
    )
    def test_a_line_break_in_a_cell_begins_no_row(self, last, complaint, tmp_path):
        path = tmp_path / "quoted.csv"
        rows = ['1,"two\nlines"', "", *(f"{number},z" for number in range(20)), last]
        path.write_text("\n".join(["x,kind", *rows]))
        with pytest.raises(DataError, match=rf"quoted\.csv: row {1 + len(rows)}(, |: ){complaint}"):
            load_table(path)

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
