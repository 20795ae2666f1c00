"""The memory of a call: the peak, and what the forward pass saves for the backward pass."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], Any]


def peak_bytes(call: Call, device: str) -> int:
    """The most memory that is allocated at once during the call, beyond what was allocated before."""
    return PEAKS[device](call)


def peak_bytes_on_cpu(call: Call) -> int:
    """The exact peak of PyTorch's allocator: the profiler records every allocation (+) and release (−).

    Memory that a library allocates itself, such as for packing a product's operands, is not included.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        call()
    level = peak = 0
    for change in memory_changes(recorded):
        level += change
        peak = max(peak, level)
    return peak


def memory_changes(recorded: profile) -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0]
    return [event["args"]["Bytes"] for event in sorted(changes, key=lambda event: event["ts"])]


def peak_bytes_on_cuda(call: Call) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


PEAKS = {"cpu": peak_bytes_on_cpu, "cuda": peak_bytes_on_cuda}


def kept_bytes(call: Call, given: Iterable[Tensor]) -> int:
    """The bytes that autograd saves for backward: each storage once, without the `given` parameters and inputs."""
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # keeps it alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for storage in kept.values())
