"""The error for bad data."""

from __future__ import annotations


class DataError(ValueError):
    """Bad data: the message is one line that names the file and, if known, the row and the column."""
