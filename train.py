#!/usr/bin/env python
"""Train an MLP whose gradients were derived by hand.

python train.py [options]               `--help` lists the options
torchrun --nproc-per-node N train.py …  on N processes
python train.py predict RUN FILE        predictions for new rows
python train.py evaluate RUN [FILE]     loss and accuracy or error
"""

import os
import sys
from collections.abc import Sequence

# Makes waiting threads sleep. By default they spin, which can make training a hundred times slower on cores that other
# programs use as well. PyTorch reads the variable when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    from torchann.training import command
except ImportError as error:
    sys.exit(f"train.py: error: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for bad options and data, 1 if training fails, 130 or 143 after a signal."""
    return command.main(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
