#!/usr/bin/env python
"""Train an MLP whose gradients were derived by hand; `python train.py --help` lists the options."""

import os
import sys
from collections.abc import Sequence

# Read when PyTorch loads: threads that wait for each other sleep. On cores that others use as well, threads that spin
# can make training a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    from torchann.training import ConfigError, TrainingError, parse, train
except ImportError as error:
    sys.exit(f"train.py: error: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn what goes wrong into one line and an exit status: 2 for a bad value."""
    try:
        train(parse(arguments))
    except ConfigError as error:
        return complain(f"error: {error}", status=2)
    except TrainingError as error:
        return complain(f"error: {error}", status=1)
    except KeyboardInterrupt:
        return complain("interrupted", status=130)
    return 0


def complain(message: str, status: int) -> int:
    print(f"train.py: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
