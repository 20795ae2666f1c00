"""Compares torchann with its alternatives: `python -m benchmarks`. Needs the extra `bench`."""

import os

# Else the profiler prints two lines for each measurement of memory. PyTorch reads it when it is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
