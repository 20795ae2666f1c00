"""Output in UTF-8: the commands print characters that not every encoding has, such as δ, ✓ and names from data."""

from __future__ import annotations

import codecs
import io
import sys


def speak_utf8() -> None:
    """Print in UTF-8 from now on. On Windows, pipes and files have another encoding by default, and δ would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(encoding="utf-8", errors=stream.errors)
