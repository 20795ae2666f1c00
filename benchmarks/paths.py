"""Which code computes each activation of the table: `python -m benchmarks.paths` writes it to docs/performance.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.report import write_between
from torchann.activations import TABLE, Activation, Call
from torchann.fast import fused, onednn
from torchann.fast.triton import described
from torchann.formulas import IDENTITY

BEGIN, END = "<!-- paths -->", "<!-- /paths -->"
COLUMNS = ("activation", "reads", "f", "ē ⊙ f′", "second derivatives", "oneDNN", "native", "Triton")


def table() -> str:
    """One line for each activation, as Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(line, TABLE.values())]
    return "\n".join(f"| {' | '.join(each)} |" for each in lines)


def line(row: Activation) -> tuple[str, ...]:
    """The cells of an activation."""
    is_identity = row is IDENTITY
    _, f, _, delta = fused.calls_of(row) if row.aten else [()] * 4
    return (
        f"`{row.name}`",
        "nothing" if is_identity else "o" if row.reads_output else "z",
        "–" if is_identity else kind_of(f),
        "–" if is_identity else kind_of(delta),
        "zero" if fused.has_zero_second_derivative(row) else "fewer passes" if row in fused.ZETA else "formula",
        tick(onednn.attributes(row) is not None),
        tick(is_identity or bool(row.aten)),
        tick(described(row) is not None),
    )


def kind_of(call: Call) -> str:
    """What computes f over z, or ē ⊙ f′(z) over ē."""
    if not call:
        return "formula"
    name, *arguments = call
    if any(isinstance(argument, tuple) for argument in arguments):
        return "operations"
    base, _, overload = name.partition(".")
    return "kernel, in place" if base.endswith("_") or overload in fused.OUT.values() else "kernel"


def tick(is_there: bool) -> str:
    return "✓" if is_there else "–"


def write(page: Path) -> None:
    write_between(page, BEGIN, END, table())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paths", description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"), help="default: %(default)s")
    write(parser.parse_args().page)
