#!/usr/bin/env python
"""Train an MLP whose gradients were derived by hand.

python train.py [options]               `--help` lists the options
torchrun --nproc-per-node N train.py …  on N processes
python train.py predict RUN FILE        predictions for new rows
python train.py evaluate RUN [FILE]     how good they are
"""

import os
import sys
from collections.abc import Sequence

# Read when PyTorch loads: threads that wait for each other sleep. On cores that others use as well, threads that spin
# can make training a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    from torchann.training import command
except ImportError as error:
    sys.exit(f"train.py: error: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 2 for bad options and data, 1 where training fails, 130 and 143 after a signal."""
    return command.main(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
