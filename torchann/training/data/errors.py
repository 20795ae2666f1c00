"""What goes wrong with data, in one line for a person."""

from __future__ import annotations


class DataError(ValueError):
    """Bad data: the message is one line that names the file, and the row and the column where there are any."""


def in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
