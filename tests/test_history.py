"""What the monitor remembers of each neuron: one column for each step, whatever ran."""

import numpy as np
import torch
from torch import nn

import torchann
from torchann.monitor import pictures
from torchann.monitor.history import MOST_STEPS, History

SAMPLE = torch.rand(4, 2), torch.rand(4, 1)


class Skipping(nn.Module):
    """`middle` runs only where the caller says so."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (torchann.Dense(*sizes) for sizes in ((2, 3), (3, 3), (3, 1)))
        self.is_deep = False

    def forward(self, x):
        x = self.first(x)
        return self.last(self.middle(x) if self.is_deep else x)


def add(history, net, step, is_deep):
    net.is_deep = is_deep
    seen = torchann.trace(net, *SAMPLE, torchann.HalfSquaredErrorLoss())
    history.add(step, seen)
    return {layer.name: layer.mean_delta.numpy() for layer in seen.layers}


def test_a_layer_that_is_skipped_has_nan_at_that_step():
    history, net = History(), Skipping()
    seen = [add(history, net, step, is_deep) for step, is_deep in enumerate((False, True, False, True))]
    for values in (history.error, history.flatness):
        assert list(map(len, values.values())) == [4, 4, 4]
        assert [bool(np.isnan(column).all()) for column in values["middle"]] == [True, False, True, False]
        assert np.isfinite(values["first"]).all()
    np.testing.assert_array_equal(history.error["middle"][3], seen[3]["middle"])
    shown = {axes.get_ylabel(): axes.images for axes in pictures.error_over_time(history.steps, history.error).axes}
    assert shown["middle"][0].get_array().mask.all(axis=0).tolist() == [True, False, True, False]
    assert shown["middle"][0].norm.vmax == max(column.max() for each in seen for column in each.values())


def test_steps_and_columns_stay_together_as_they_get_thinner():
    history, net = History(), Skipping()
    for step in range(MOST_STEPS + 1):
        add(history, net, step, is_deep=step % 3 > 0)
    assert [step % 3 == 0 for step in history.steps] == [bool(np.isnan(c).all()) for c in history.error["middle"]]
    assert history.steps[-1] == MOST_STEPS
