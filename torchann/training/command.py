"""The command `train.py`: what goes wrong becomes one line and an exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from torchann.training.checkpoint import CheckpointError
from torchann.training.config import parse
from torchann.training.data import DataError
from torchann.training.distributed import is_first_process
from torchann.training.errors import ConfigError, Interrupted, TrainingError
from torchann.training.loop import train


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit status."""
    try:
        asked = parse(arguments)
        train(asked.config, asked.resume)
    except (ConfigError, DataError, CheckpointError) as error:
        return complain(f"error: {error}", status=2)
    except TrainingError as error:
        return complain(f"error: {error}", status=1)
    except Interrupted as stop:
        return complain(f"{stop}; go on with: python train.py --resume {shlex.quote(str(stop.folder))}", stop.status)
    except KeyboardInterrupt:
        return complain("interrupted", status=130)
    return 0


def complain(message: str, status: int) -> int:
    """One line; of many processes the first alone says it."""
    if is_first_process():
        print(f"train.py: {message}", file=sys.stderr)
    return status
