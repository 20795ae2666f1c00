"""Which implementation of the sweeps runs: the readable one of `sweeps`, or a faster one with the same results.

This is the one place that chooses. The readable sweeps run wherever a transform watches each operation; the tests hold
the others to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from torchann import blocks, modes, sweeps
from torchann.activations import Activation
from torchann.sweeps import Signals


class Implementation(NamedTuple):
    forward: Callable[..., tuple[Tensor, list[Tensor]]]  # as `sweeps.forward`
    backward: Callable[..., Signals]  # as `sweeps.backward` without signals kept; may empty the list `kept`
    in_blocks: bool = False


READABLE = Implementation(sweeps.forward, sweeps.backward)


def choose(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> Implementation:
    """The implementation for a network; that of its backward sweep is the one of its forward sweep."""
    if not (blocks.suit(activations) and modes.plain()):
        return READABLE
    rows = blocks.rows_of_block(x, weights)
    return Implementation(
        partial(blocks.forward, rows=rows), partial(blocks.backward, rows=rows), in_blocks=rows < x.shape[0]
    )
