"""What goes wrong with data, in one line for a person."""

from __future__ import annotations


class DataError(ValueError):
    """Bad data: the message is one line that names the file, and the row and the column where there are any."""
