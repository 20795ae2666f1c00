"""What is learned of a column, and the preparation that is made of it."""

import json

import numpy as np
import pytest
from data_files import load_table, people, write

from torchann.training.data import DataError, Preparation
from torchann.training.data.learning import Moments


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

    @pytest.mark.parametrize("empty", [np.full((3, 1), np.nan), np.empty((0, 1))])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_piece_without_values_changes_nothing(self, empty, place):
        values = np.array([[1.0], [2.0], [6.0]])
        pieces = [values[:1], values[1:]]
        moments = Moments(1)
        for piece in (*pieces[:place], empty, *pieces[place:]):
            moments.add(piece)
        (column,) = moments.columns("file", ("a",))
        assert (column.mean, column.scale) == (pytest.approx(3, rel=1e-15), pytest.approx(values.std(), rel=1e-15))

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
