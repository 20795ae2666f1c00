"""What the benchmarks measure memory and time with, by hand. No test asserts a time."""

import gc
from functools import partial

import pytest
import torch

from benchmarks import measure, memory, timing
from benchmarks.competitors import enter, make_problem
from benchmarks.rows import Row

# --- Memory -----------------------------------------------------------------------------------------------------------


def test_peak_by_hand():
    """Of 4,000, 8,000 and 16,000 bytes the first goes before the last comes; less comes afterwards."""

    def call():
        first = torch.empty(1000)
        second = torch.empty(2000)
        del first
        third = torch.empty(4000)
        del second, third
        return torch.ones(50).square().sum()

    assert memory.peak_bytes(call, "cpu") == 8000 + 16000


def test_peak_over_backward():
    """sin keeps nothing but x; backward makes cos x, then the gradient, while the output is there."""
    x = torch.randn(1000, requires_grad=True)
    error = torch.randn(1000)

    def call():
        x.grad = None
        x.sin().backward(error)

    call()
    x.grad = None
    assert memory.peak_bytes(call, "cpu") == 4000 + 4000 + 4000  # sin x, cos x, the gradient


def test_kept_by_hand():
    x, weight = torch.randn(10, 3), torch.randn(4, 3, requires_grad=True)

    def call():
        o = torch.sigmoid(x @ weight.t())  # o is kept, by sigmoid and by square alike
        return o.square().sum()

    assert memory.kept_bytes(call, [x, weight]) == 10 * 4 * 4
    assert memory.kept_bytes(call, [weight]) == 10 * 4 * 4 + 10 * 3 * 4


@pytest.mark.parametrize("name", ["eager", "dense", "mlp"])
def test_a_network_of_sigmoids_keeps_its_outputs(name):
    row = Row(5, (3, 4, 2, 1))
    problem = make_problem(row, "cpu")
    kept = measure.memory_of(enter(name, problem), problem, "cpu")["kept_bytes"]
    assert kept == row.samples * sum(row.widths[1:]) * 4


# --- Time -------------------------------------------------------------------------------------------------------------


def test_competitors_take_turns():
    log = []
    calls = {name: partial(log.append, name) for name in "abc"}
    seconds = timing.alternate(calls, "cpu", rounds=4, block_seconds=0)
    before = 4  # calls of each to find out how many make a block
    assert "".join(log[before * 3 :]) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_block_lasts_and_is_not_disturbed():
    was_on = []
    count = timing.calls_in_block(lambda: was_on.append(gc.isenabled()), "cpu", block_seconds=0.001)
    assert count > 1
    assert was_on == [True, False, False, False]
    assert gc.isenabled()


def test_ratio_and_spread_by_hand():
    assert timing.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0)
    assert timing.spread([7.0]) == (7.0, 0.0)
    assert timing.ratio([1.0, 30.0, 4.0], [2.0, 60.0, 4.0]).median == 0.5
