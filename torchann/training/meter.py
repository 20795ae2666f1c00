"""The mean loss, and the accuracy or the error, over batches. They stay on the device until they are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchann.training.choices import Loss
from torchann.training.data import Preparation
from torchann.training.distributed import ProcessGroup


class Meter:
    """Collects batches and sums them up later, many at a time: adding a batch is no more than an append.

    The rounding of the sums depends on which batches are summed up together. For reproducible results, call `add_up`
    after the same batches in every run.
    """

    def __init__(self, preparation: Preparation, loss: Loss, device: torch.device) -> None:
        self.loss, self.device = loss, device
        self.scale = preparation.target_scale.to(device) if preparation.task == "regression" else None
        self.clear()

    def clear(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # of losses, scores, samples
        self.pending: list[tuple[Tensor, Tensor]] = []

    def add(self, output: Tensor, y: Tensor) -> None:
        """A batch's outputs and its targets."""
        self.pending.append((output, y))

    def add_up(self) -> Tensor:
        """Add the pending batches to the sums; returns the total loss of each of these batches."""
        if not self.pending:
            return self.sums.new_zeros(0)
        sizes = [len(y) for _, y in self.pending]
        output, y = (torch.cat([batch[index] for batch in self.pending]) for index in (0, 1))
        losses = self.loss.value(output.to(y.dtype), y).double()
        if self.scale is None:
            score = (output.argmax(dim=1) == y.argmax(dim=1)).sum().double()
        else:
            score = ((output.double() - y) * self.scale).square().mean(dim=1).sum()
        self.sums += torch.stack([losses.sum(), score, torch.full_like(score, len(y))])
        self.pending.clear()
        return torch.stack([part.sum() for part in losses.split(sizes)])

    @property
    def samples(self) -> int:
        return int(self.sums[2])

    def read(self) -> dict[str, float]:
        """`loss`, and `accuracy` or `error`: the root mean square error in the target's own units."""
        loss, score, samples = self.sums.tolist()
        figures = {"loss": loss / samples}
        if self.scale is None:
            figures["accuracy"] = score / samples
        else:
            figures["error"] = (score / samples) ** 0.5
        return figures

    def state_dict(self, processes: ProcessGroup) -> dict[str, Any]:
        """With several processes, only to be called while no batch is pending."""
        return {
            "sums": processes.gather(self.sums),
            "pending": [[tensor.clone() for tensor in batch] for batch in self.pending],
        }

    def load_state_dict(self, state: dict[str, Any], processes: ProcessGroup) -> None:
        """Each process gets its own sums back. If the number of processes has changed, the first gets the total."""
        self.clear()
        sums = state["sums"].to(self.device)
        if len(sums) == processes.size:
            self.sums = sums[processes.rank]
        elif processes.is_first:
            self.sums = sums.sum(0)
        self.pending = [tuple(tensor.to(self.device) for tensor in batch) for batch in state["pending"]]
