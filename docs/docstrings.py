"""What Griffe, which reads the docstrings for the API pages, is told about ours."""

from __future__ import annotations

import re

import griffe


class Examples(griffe.Extension):
    """It knows a section "Examples" with doctests in it, but not "Example"."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
