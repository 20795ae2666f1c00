"""The monitor of a run: what `torchann.monitor` shows of its first test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.utils.tensorboard import SummaryWriter

from torchann.training.progress import say
from torchann.training.step import Trainer

SAMPLES = 128


@contextmanager
def monitored(trainer: Trainer, writer: SummaryWriter | None) -> Iterator[Callable[[int], None]]:
    """Gives what is to be called after each step of the optimizer, with the number of the step."""
    config, dataset, loss = trainer.config, trainer.dataset, trainer.loss
    if writer is None or config.monitor_every == 0:
        yield lambda step: None
        return
    from torchann.monitor import Monitor  # here, as matplotlib takes long to import

    with Monitor(
        trainer.network,
        writer,
        sample=dataset.sample(SAMPLES),
        loss=lambda output, y: loss.value(output, y).mean(),
        every=config.monitor_every,
        rate=config.lr,
        task=dataset.task,
        classes=dataset.classes,
        image_shape=dataset.preparation.shape,
        say=say,
    ) as monitor:
        yield monitor.step
