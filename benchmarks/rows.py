"""The table of what is measured: the networks, their tasks and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

# What is computed with the network; see `competitors.TASKS`.
Task = Literal["gradients", "input gradient", "physics"]

# The dtype, and ε of a product's operands: the distance from 1 to the next larger number.
PRECISIONS = {
    "float32": (torch.float32, 2**-23),
    "tf32": (torch.float32, 2**-10),
    "bfloat16": (torch.bfloat16, 2**-7),
}


@dataclass(frozen=True)
class Target:
    """`competitor` ≤ `at_most` × `against`, in time or in peak memory."""

    at_most: float
    competitor: str = "mlp"
    against: str = "eager"
    quantity: Literal["time", "peak"] = "time"


@dataclass(frozen=True)
class Row:
    """A network, forward and backward."""

    samples: int
    widths: tuple[int, ...]
    activation: str = "sigmoid"
    output_activation: str | None = None  # None: the same as `activation`
    task: Task = "gradients"
    x_needs_gradient: bool = False
    precision: str = "float32"
    captured: bool = False  # in a CUDA graph
    targets: tuple[Target, ...] = ()

    @property
    def depth(self) -> int:
        return len(self.widths) - 1

    @property
    def activations(self) -> list[str]:
        return [self.activation] * (self.depth - 1) + [self.output_activation or self.activation]

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision][0]

    @property
    def tolerance(self) -> float:
        """The largest accepted difference to eager's gradient, relative to that gradient's largest element.

        Summing n terms in two different orders gives results that differ by about ε √n, where ε is that of float32, in
        which all rows are summed. Each layer rounds about four more times. A shorter dtype also rounds the inputs and
        outputs of a product. The factor 2 allows for sums whose terms partly cancel.
        """
        longest_sum = max(self.samples, *self.widths)
        _, eps = PRECISIONS[self.precision]
        return 2 * max(eps, 2**-23 * (longest_sum**0.5 + 4 * self.depth))

    @property
    def qualities(self) -> list[str]:
        return [
            *([self.activation] if self.activation != "sigmoid" else []),
            *([self.task] if self.task != "gradients" else []),
            *([self.precision] if self.precision != "float32" else []),
            *(["CUDA graph"] if self.captured else []),
        ]

    @property
    def name(self) -> str:
        """The name for `--rows`, such as `4x3-4-1`."""
        sizes = f"{self.samples}x{'-'.join(map(str, self.widths))}"
        return "-".join([sizes, *(quality.lower().replace(" ", "-") for quality in self.qualities)])

    @property
    def title(self) -> str:
        """Such as `65536 × [32]*6`."""
        is_uniform = len(set(self.widths)) == 1
        widths = f"[{self.widths[0]}]*{len(self.widths)}" if is_uniform else f"{list(self.widths)}".replace(", ", ",")
        return ", ".join([f"{self.samples} × {widths}", *self.qualities])


def cpu_targets(time: float = 1.0, peak: float = 1.0, dense: float | None = None) -> tuple[Target, ...]:
    of_dense = () if dense is None else (Target(dense, "dense"),)
    of_mlp = (Target(time), Target(1.0, against="compiled"), Target(peak, quantity="peak"))
    of_convert = (Target(1.03, "convert"), Target(1.03, "convert", against="mlp"))
    return (*of_mlp, *of_dense, *of_convert, Target(time, "native mlp"))


CPU = (
    Row(4, (3, 4, 1), targets=cpu_targets()),
    Row(64, (64, 64, 32, 10), targets=cpu_targets()),
    Row(256, (64, 256, 256, 10), targets=cpu_targets(dense=1.05)),
    Row(1024, (256, 512, 512, 64), targets=cpu_targets(0.95, dense=1.05)),
    Row(8192, (50,) * 6, targets=cpu_targets(0.9, peak=0.8)),
    Row(65536, (32,) * 6, targets=cpu_targets(0.75, peak=0.8, dense=1.05)),
    Row(65536, (64,) * 6, targets=cpu_targets(0.75, peak=0.8)),
    Row(16384, (256,) * 4, targets=cpu_targets(0.9)),
    Row(4096, (1024,) * 3, targets=cpu_targets()),
    # The performance test of NVIDIA's Apex, tests/L0/run_mlp/test_mlp.py: x needs a gradient, relu is in place.
    Row(1024, (480, 1024, 1024, 512, 256, 1), "relu", x_needs_gradient=True, targets=cpu_targets(0.97)),
    Row(1024, (256, 512, 512, 64), task="input gradient", x_needs_gradient=True, targets=cpu_targets()),
    # Points (t, x) of viscous Burgers; the output is linear, as is usual for such a network.
    Row(4096, (2, 64, 64, 64, 64, 1), "tanh", "identity", "physics", x_needs_gradient=True, targets=cpu_targets()),
)

# Other activations, in a narrow network of many samples and in a wide one
CPU += tuple(
    Row(samples, widths, activation, targets=cpu_targets())
    for activation in ("silu", "gelu", "leaky_relu", "softplus", "sine")
    for samples, widths in ((65536, (64,) * 5), (1024, (256, 512, 512, 64)))
)

CUDA = tuple(
    Row(samples, widths, precision=precision, captured=captured)
    for precision in ("bfloat16", "tf32")
    for samples, widths, captured in (
        (8192, (4096,) * 3, False),
        (2**20, (64,) * 5, False),
        (64, (64, 64, 32, 10), True),
    )
)

ROWS = {"cpu": CPU, "cuda": CUDA}


class Sweep(NamedTuple):
    """Rows that differ in one size, to see how cost grows with it."""

    name: str
    label: str  # of the axis
    rows: dict[int, Row]  # by that size


SWEEPS = (
    Sweep("batch", "samples, [64]*4", {n: Row(n, (64,) * 4) for n in (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)}),
    Sweep("width", "width w, 1024 × [w]*4", {w: Row(1024, (w,) * 4) for w in (4, 8, 16, 32, 64, 128, 256, 512, 1024)}),
    Sweep("depth", "layers L, 1024 × [64]*(L + 1)", {d: Row(1024, (64,) * (d + 1)) for d in (1, 2, 4, 8, 16, 32)}),
)
