"""Files of PyTorch's own format, of checkpoints and of data, read so that nothing in them is executed."""

from __future__ import annotations

import pickle
import warnings
from typing import Any, BinaryIO

import torch


def load_plain(file: BinaryIO) -> Any:
    """What torch.save wrote, if that is tensors and plain values.

    Raises:
        ValueError: there is more in it, which is not executed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # which are not about what is wrong with it
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("one with more in it than tensors and plain values; it was not executed") from error
