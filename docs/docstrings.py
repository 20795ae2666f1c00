"""What Griffe, which reads the docstrings for the API pages, is told about ours."""

from __future__ import annotations

import re

import griffe


class Docstrings(griffe.Extension):
    """It knows a section "Examples" with doctests in it, but not "Example"; and nothing of shapes."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            text = re.sub(r"^(?! *(?:>>>|\.\.\. |\[(?!\*))).*$", shapes_as_code, text, flags=re.M)
            obj.docstring.value = text


def shapes_as_code(line: re.Match[str]) -> str:
    """`[*, O]` in a line of prose, where Markdown would take the star for emphasis."""
    return re.sub(
        r"(?<!`)\[(?:\*(?=[],])|[A-Z](?=[],])|sizes)(?:[^][`]|\[[^]]*\])*\]", lambda shape: f"`{shape[0]}`", line[0]
    )
