"""The monitor's budget: it costs no more than it may."""

import pytest

from torchann.monitor.budget import Budget


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_budget_is_never_exceeded():
    clock = Clock()
    budget = Budget(0.05, {"numbers": 0.0, "pictures": 0.5}, clock)
    done = {"numbers": 0, "pictures": 0}
    for _ in range(20_000):
        clock.now += 0.01
        for kind, seconds in (("numbers", 0.02), ("pictures", 1.0)):
            if budget.affords(kind):
                with budget.spend(kind):
                    clock.now += seconds
                done[kind] += 1
        spent = sum(budget.spent.values())
        # One look that takes longer than the last is unforeseen; the next ones wait until it is paid for.
        assert spent <= 0.05 * (clock.now - spent) + 0.52
    assert budget.spent["numbers"] == pytest.approx(0.025 * 200, rel=0.02)
    assert 4 <= done["pictures"] <= 5


def fail_after_a_second(clock):
    clock.now += 1
    raise ZeroDivisionError


def test_work_that_fails_is_paid_for():
    clock = Clock()
    budget = Budget(0.5, {"work": 0.0}, clock)
    with pytest.raises(ZeroDivisionError), budget.spend("work"):
        fail_after_a_second(clock)
    assert not budget.affords("work")


def test_the_first_look_is_not_charged():
    clock = Clock()
    budget = Budget(0.05, {"numbers": 0.0}, clock)
    with budget.spend("numbers"):
        clock.now += 1
    budget.restart()
    assert budget.affords("numbers")
    with budget.spend("numbers"):
        clock.now += 1
    clock.now += 39
    assert not budget.affords("numbers")
    clock.now += 1
    assert budget.affords("numbers")
