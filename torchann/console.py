"""What the commands print has letters that not every encoding has: δ, ✓, names from the user's data."""

from __future__ import annotations

import codecs
import io
import sys


def speak_utf8() -> None:
    """Print in UTF-8 from here on: a pipe or a file on Windows would have another encoding, and refuse the letters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(encoding="utf-8", errors=stream.errors)
