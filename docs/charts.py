"""What the charts and tables that the site computes have in common."""

from __future__ import annotations

import io
import platform
import re

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

import torchann

INK, COLOURS = "#010203", ("#3b82c4", "#d9662b", "#4a9d5b", "#9b6bc7")


def panels(count):
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def style(axes, x, y):
    axes.set_facecolor("none")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(which="both", colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def legend(axes):
    axes.legend(frameon=False, labelcolor=INK)


def as_svg(figure, description):
    """In the page itself, with the page's own ink."""
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'width="[^"]*pt" height="[^"]*pt"', f'role="img" aria-label="{description}"', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r' id="[a-z0-9]+([._][a-z0-9]+)+"', "", svg)  # of parts that nothing refers to
    return '<figure class="chart">' + re.sub(r"\n\s*", " ", svg) + "</figure>"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def machine():
    versions = f"PyTorch {torch.__version__}, Python {platform.python_version()}, torchann {torchann.__version__}"
    return f"{versions}, on the CPU ({platform.system()} {platform.machine()})"
