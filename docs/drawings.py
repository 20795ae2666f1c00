"""The drawings, as SVG in the colours of the page around them: legible on a light and on a dark one."""

from __future__ import annotations

import math
import re

RADIUS = 22


def macro(name):
    if name not in DRAWINGS:
        raise LookupError(f"drawing({name!r}): no such drawing; known: {', '.join(DRAWINGS)}")
    return DRAWINGS[name]()


def neuron():
    inputs = [(50, 45 + 60 * i) for i in range(3)]
    total, output = (250, 105), (390, 105)
    parts = []
    for i, place in enumerate(inputs, 1):
        parts += [arrow(place, total, f"w_{{j{i}}}"), node(place, f"x_{i}", "input")]
    parts += [
        arrow((250, 190), total, "b_j", at=0.3),
        arrow(total, output, "z_j"),
        arrow(output, (500, 105), ends_at_node=False),
        node(total, "Σ"),
        node(output, "f"),
        text((522, 105), "o_j"),
    ]
    return figure(560, 215, parts, "A neuron: its inputs, weighted and added up with the bias, go through f.")


def network():
    inputs = [(70, 75 + 60 * i) for i in range(3)]
    hidden = [(270, 45 + 60 * i) for i in range(4)]
    output = (470, 135)
    parts = []
    for a, start in enumerate(inputs, 1):
        for b, end in enumerate(hidden, 1):
            marked = (a, b) == (3, 4)
            parts.append(arrow(start, end, "w_{43}" if marked else "", "marked" if marked else "faint", at=0.5))
    for b, start in enumerate(hidden, 1):
        parts.append(arrow(start, output, f"w_{{1{b}}}", at=0.45))
    parts += [node(place, f"x_{i}", "input") for i, place in enumerate(inputs, 1)]
    parts += [node(place, f"o_{j}") for j, place in enumerate(hidden, 1)]
    parts += [node(output, "o_1"), arrow(output, (545, 135), ends_at_node=False), text((615, 135), "E = ½(o_1−y_1)²")]
    labels = ((70, "inputs, i"), (270, "hidden layer, j"), (470, "output layer, k"))
    parts += [text((x, 270), label, "caption") for x, label in labels]
    alt = "Three inputs, four hidden neurons, one output; w with indices 4 and 3 leads from input 3 to hidden neuron 4."
    return figure(690, 285, parts, alt)


def case_2():
    k, above = (110, 105), [(370, 45), (370, 105), (370, 165)]
    parts = []
    for place, name in zip(above, ("1", "2", "l"), strict=True):
        parts.append(arrow(place, k, f"δ_{name} w_{{{name}k}}", "back", at=0.4))
    parts += [node(place, f"δ_{name}", "back") for place, name in zip(above, ("1", "2", "l"), strict=True)]
    parts += [
        arrow((20, 105), k, "", "faint"),
        node(k, "o_k"),
        text((110, 155), "ē_k = Σ_l δ_l w_{lk}", "back"),
        text((110, 200), "neuron k", "caption"),
        text((370, 212), "the neurons l that receive from k", "caption"),
    ]
    return figure(
        520, 230, parts, "Case 2: a neuron collects what comes back from each neuron that receives its output."
    )


DRAWINGS = {"neuron": neuron, "network": network, "case 2": case_2}


# --- What they are made of --------------------------------------------------------------------------------------------


def figure(width, height, parts, description):
    marker = (
        '<marker id="{0}" class="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
    )
    markers = "".join(marker.format(kind) for kind in ("tip", "tip-back", "tip-faint", "tip-marked"))
    return (
        f'<figure class="drawing"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{description}" '
        f'style="max-width: {width}px"><defs>{markers}</defs>{"".join(parts)}</svg></figure>'
    )


def node(place, label, kind=""):
    x, y = place
    return f'<circle class="node {kind}" cx="{x}" cy="{y}" r="{RADIUS}"/>' + text(place, label, kind)


def arrow(start, end, label="", kind="", at=0.5, ends_at_node=True):
    """From the edge of a node to the edge of another, with a label beside it."""
    (x1, y1), (x2, y2) = start, end
    length = math.hypot(x2 - x1, y2 - y1)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    stop = RADIUS + 2 if ends_at_node else 0
    x1, y1, x2, y2 = x1 + RADIUS * dx, y1 + RADIUS * dy, x2 - stop * dx, y2 - stop * dy
    tip = f"tip-{kind}" if kind else "tip"
    line = (
        f'<line class="arrow {kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" marker-end="url(#{tip})"/>'
    )
    place = (x1 + at * (x2 - x1), y1 + at * (y2 - y1))
    return line + (text(place, label, f"label {kind}") if label else "")


def text(place, label, kind=""):
    """`w_{jk}` has jk below the line."""
    x, y = place
    plain, *rest = re.split(r"_(\{.*?\}|\w)", label)
    spans = [plain]
    for index, after in zip(rest[::2], rest[1::2], strict=True):
        spans += [f'<tspan class="index" dy="5">{index.strip("{}")}</tspan>', f'<tspan dy="-5">{after}</tspan>']
    return f'<text class="{kind}" x="{x}" y="{y}">{"".join(spans)}</text>'
