"""What each neuron did at the steps that were looked at, for the pictures of neurons × time."""

from __future__ import annotations

from torchann.monitor.sample import Array
from torchann.tracing import Trace

MOST_STEPS = 256


class History:
    """Steps, and for each layer mean |δ| and flatness of its neurons, [O] a step; thinned out as it gets long."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.error: dict[str, list[Array]] = {}
        self.flatness: dict[str, list[Array]] = {}

    def add(self, step: int, seen: Trace) -> None:
        if len(self.steps) == MOST_STEPS:
            del self.steps[1::2]
            for columns in (*self.error.values(), *self.flatness.values()):
                del columns[1::2]
        self.steps.append(step)
        for layer in seen.layers:
            self.error.setdefault(layer.name, []).append(layer.mean_delta.float().cpu().numpy())
            self.flatness.setdefault(layer.name, []).append(layer.flatness.float().cpu().numpy())
