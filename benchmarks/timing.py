"""Times several calls that take turns in one process, so that a disturbance of the machine affects them all."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]


class Spread(NamedTuple):
    median: float
    iqr: float  # the distance between the quartiles


def alternate(calls: Mapping[str, Call], device: str, rounds: int, block_seconds: float) -> dict[str, list[float]]:
    """Seconds per call, one value for each round. In a round each call is repeated in a block; the order rotates."""
    counts = {name: calls_in_block(call, device, block_seconds) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(time_block(calls[name], counts[name], device) / counts[name])
        order = [*order[1:], order[0]]
    return seconds


def calls_in_block(call: Call, device: str, block_seconds: float) -> int:
    """The number of calls that takes `block_seconds`. The first calls, which are slower, are not used for it."""
    call()
    once = min(time_block(call, 1, device) for _ in range(3))
    return max(1, math.ceil(block_seconds / max(once, 1e-9)))


def time_block(call: Call, count: int, device: str) -> float:
    with no_garbage_collection():
        return STOPWATCHES[device](call, count)


def seconds_on_cpu(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def seconds_on_cuda(call: Call, count: int) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3


STOPWATCHES = {"cpu": seconds_on_cpu, "cuda": seconds_on_cuda}


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spread(values: list[float]) -> Spread:
    if len(values) < 2:
        return Spread(values[0], 0.0)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), high - low)


def ratio(seconds: list[float], reference: list[float]) -> Spread:
    """The ratio of the times in each round; a slow phase of the machine affects both times of a round."""
    return spread([ours / theirs for ours, theirs in zip(seconds, reference, strict=True)])
