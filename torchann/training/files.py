"""Reading files of others: PyTorch's own format without executing anything in it, and errors in one line."""

from __future__ import annotations

import pickle
import warnings
from itertools import takewhile
from typing import Any, BinaryIO

import torch


def load_plain(file: BinaryIO) -> Any:
    """What torch.save wrote, if that is tensors and plain values.

    Raises:
        ValueError: it holds other objects; they are not created.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch's warnings don't say what is wrong with the file
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("one with more in it than tensors and plain values; it was not executed") from error


def in_one_line(error: BaseException) -> str:
    """The reason for an error, to go on after "got".

    Two lines of the message, as the first line of PyTorch's may be no more than a heading; none after a blank line,
    where polars gives advice.

    Example:
        >>> in_one_line(ValueError("Error(s) in loading:\\n  size mismatch")), in_one_line(KeyError("x"))
        ('Error(s) in loading: size mismatch', "one without 'x'")
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"one without {error}"
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(takewhile(bool, lines[:2])) or type(error).__name__
