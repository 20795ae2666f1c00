"""The process group: one process, or those that `torchrun` started."""

from __future__ import annotations

import gc
import os
from typing import Any, Self

import torch
from torch import Tensor, distributed


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


class ProcessGroup:
    """The processes that train together, one or many; use it in a `with` statement.

    Attributes:
        rank: the number of this process, from 0. Only rank 0 writes files.
        size: the number of processes.
        device: the device of this process; with several GPUs, the one of its local rank.
    """

    def __init__(self, device: torch.device) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.size > 1 else 0
        if self.size > 1 and device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self.device = device

    def __enter__(self) -> Self:
        if self.size > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size > 1:
            if kind is None:
                distributed.barrier()  # leaving the group while another process communicates would crash that process
            # DistributedDataParallel holds the group in a reference cycle. Without gc.collect() the group's threads
            # outlive the interpreter, and crash the process when they ask for the interpreter's lock.
            gc.collect()
            distributed.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch, in order; for the last processes it may be empty."""
        return batch if self.size == 1 else batch.tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, stacked along a new first dimension."""
        if self.size == 1:
            return values.unsqueeze(0)
        all_values = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(all_values, values)
        return torch.stack(all_values)

    def min(self, value: int) -> int:
        if self.size == 1:
            return value
        values = torch.tensor(value, device=self.device)
        distributed.all_reduce(values, distributed.ReduceOp.MIN)
        return int(values)

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]
