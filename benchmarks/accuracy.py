"""How exact each activation is: the largest error of o and of f′ over many z, ours beside PyTorch's under autograd.

    python -m benchmarks.accuracy      write the table of docs/activations.md

An error is counted in units in the last place (ulp) of the exact value, or of 1 where that is smaller. The exact
value is that of float64. f′ is the gradient that a layer with the weight 1 passes on for ē = 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import report
from benchmarks.report import ReportError
from torchann.activations import TABLE, Activation
from torchann.console import speak_utf8
from torchann.functional import dense

BEGIN, END = "<!-- accuracy -->", "<!-- /accuracy -->"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINKS = (-6, -3, -1.25, -1, -0.5, -0.25, 0, 0.1, 0.25, 0.5, 0.7, 1, 1.25, 1.75, 3, 6, 20)


class Errors(NamedTuple):
    """The largest errors of an activation in one dtype, in ulp."""

    output: float
    output_of_pytorch: float
    slope: float
    slope_of_pytorch: float


def main() -> int:
    speak_utf8()
    table = page_table(TABLE.values())
    try:
        report.write_between(Path("docs/activations.md"), BEGIN, END, table)
    except ReportError as error:
        print(f"benchmarks.accuracy: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


def page_table(rows: Iterable[Activation]) -> str:
    names = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
    lines = [
        "| | " + " | ".join(f"{name}: o | f′ | f′, PyTorch" for name in names) + " |",
        "|---" + "|---:" * 3 * len(names) + "|",
    ]
    for row in rows:
        found = [errors(row, dtype) for dtype in DTYPES]
        cells = [f"{each.output:.2f} | {each.slope:.2f} | {each.slope_of_pytorch:.2f}" for each in found]
        lines.append(f"| `{row.name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def errors(row: Activation, dtype: torch.dtype) -> Errors:
    one = torch.ones(1, 1, dtype=dtype)
    z = F.linear(points(dtype), one)  # in which the product may have made denormal numbers zero
    output, slope = output_and_slope(lambda z: dense(z, one, None, row), z)
    output_of_pytorch, slope_of_pytorch = output_and_slope(row.f, z)
    exact_output, exact_slope = output_and_slope(row.f, z.double())
    return Errors(
        largest_error(output, exact_output),
        largest_error(output_of_pytorch, exact_output),
        largest_error(slope, exact_slope),
        largest_error(slope_of_pytorch, exact_slope),
    )


def points(dtype: torch.dtype) -> Tensor:
    """z from −10⁴ to 10⁴, denormal ones, and kinks with the numbers beside them  [N, 1]"""
    small = torch.logspace(-45, 4, 500, dtype=torch.float64)
    even = [torch.linspace(-end, end, 4001, dtype=torch.float64) for end in (12, 100)]
    kinks = torch.tensor([*KINKS, -88, 88], dtype=torch.float64)
    z = torch.cat([*even, small, -small, kinks]).to(dtype)
    below, above = (torch.nextafter(z, torch.full_like(z, end)) for end in (-torch.inf, torch.inf))
    return torch.cat([below, z, above]).unique().unsqueeze(1)


def output_and_slope(f: Callable[[Tensor], Tensor], z: Tensor) -> Sequence[Tensor]:
    """f(z), and its gradient for ē = 1"""
    z = z.clone().requires_grad_()
    output = f(z)
    return output.detach(), torch.autograd.grad(output, z, torch.ones_like(output))[0]


def largest_error(found: Tensor, exact: Tensor) -> float:
    """In ulp of the exact value, or of 1 where that is smaller. What overflows the dtype of `found` is left out."""
    info = torch.finfo(found.dtype)
    unit = info.eps * torch.exp2(exact.abs().clamp(min=1).log2().floor())
    return ((found - exact).abs() / unit)[exact.abs() <= info.max].max().item()


if __name__ == "__main__":
    raise SystemExit(main())
