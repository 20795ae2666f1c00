"""The monitor of a run: `torchann.monitor` on the first test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from torchann.training.progress import say
from torchann.training.step import Trainer

if TYPE_CHECKING:
    from torchann.monitor import Monitor

SAMPLES = 128


@contextmanager
def monitored(trainer: Trainer, writer: SummaryWriter | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call after each optimizer step, with the number of the step."""
    if writer is None or trainer.config.monitor_every == 0:
        yield lambda step: None
    else:
        with monitor_of(trainer, writer) as monitor:
            yield monitor.step


def monitor_of(trainer: Trainer, writer: SummaryWriter | None) -> Monitor:
    from torchann.monitor import Monitor  # imported late, because it imports matplotlib, which takes long

    config, dataset, loss = trainer.config, trainer.dataset, trainer.loss
    return Monitor(
        trainer.network,
        writer,
        sample=dataset.sample(SAMPLES),
        loss=lambda output, y: loss.value(output, y).mean(),
        every=config.monitor_every,
        budget=config.monitor_budget,
        rate=config.lr,
        task=dataset.task,
        classes=dataset.classes,
        image_shape=dataset.preparation.shape,
        say=say,
    )
