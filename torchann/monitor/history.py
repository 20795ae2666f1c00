"""What each neuron did at the steps that the monitor traced, for the pictures of neurons × time."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from torchann.monitor.sample import Array
from torchann.tracing import Trace

MOST_STEPS = 256


class History:
    """The traced steps and, for each layer, the mean |δ| and the flatness of its neurons.

    Every layer has one column [O] for each step: NaN where the layer did not run. When there are `MOST_STEPS` columns,
    every second one is deleted.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.error: dict[str, list[Array]] = {}
        self.flatness: dict[str, list[Array]] = {}

    def add(self, step: int, seen: Trace) -> None:
        if len(self.steps) == MOST_STEPS:
            del self.steps[1::2]
            for columns in (*self.error.values(), *self.flatness.values()):
                del columns[1::2]
        add_column(self.error, {layer.name: as_floats(layer.mean_delta) for layer in seen.layers}, len(self.steps))
        add_column(self.flatness, {layer.name: as_floats(layer.flatness) for layer in seen.layers}, len(self.steps))
        self.steps.append(step)


def add_column(history: dict[str, list[Array]], found: dict[str, Array], before: int) -> None:
    """Append a column to each layer's; a layer that is new gets NaN for the `before` steps at which it did not run."""
    for name, column in found.items():
        history.setdefault(name, [np.full_like(column, np.nan)] * before)
    for name, columns in history.items():
        columns.append(found[name] if name in found else np.full_like(columns[0], np.nan))


def as_floats(values: Tensor) -> Array:
    return values.float().cpu().numpy()
