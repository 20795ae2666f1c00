"""torchann side by side with what a user would pick instead: `python -m benchmarks`, which needs the extra `bench`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when PyTorch loads; else each measure of memory prints two lines
