"""Two parts in C++, which are optional: `enable()` compiles them on first use, with a C++ compiler and ninja.

- `network.cpp`: the network's node, for networks so small that Python takes longer than the arithmetic. Training steps
  of small networks with the table's activations run through it.
- `series.cpp`: the elementwise part of derivatives with respect to the inputs (see `torchann.fast.series`).

The tests of the Python path run over them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from torchann import fast, functions
from torchann.activations import Activation
from torchann.fast import FAST
from torchann.fast.fused import calls_of
from torchann.fast.inplace import Small
from torchann.formulas import IDENTITY
from torchann.native import series
from torchann.sweeps import READABLE, Optionals

compiled: Any = None  # the extension, once enabled
ADDRESSES: dict[Activation, int] = {}  # where the extension keeps the kernels of an activation


def enable() -> None:
    """Compile the parts in C++ (once: PyTorch keeps what it compiled), and use them from now on.

    Raises:
        RuntimeError: there is no C++ compiler or no ninja, or compiling failed; Python stays in use.

    Example:
        >>> import torchann
        >>> torchann.native.enable()  # doctest: +SKIP
    """
    global compiled
    from torch.utils.cpp_extension import load  # takes a while to import

    sources = [str(Path(__file__).parent / name) for name in ("network.cpp", "series.cpp")]
    compiled = series.compiled = load("torchann_native", sources, extra_cflags=["-O3"])
    fast.native = Native()


def disable() -> None:
    """Go back to the node in Python, for what is computed from now on."""
    global compiled
    compiled = series.compiled = fast.native = None


class Native(Small):
    """The node in C++ in ordinary autograd; elsewhere, the Python sweeps for small networks."""

    series = series  # the kernels for derivatives with respect to the inputs

    def node(
        self, x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]
    ) -> Tensor:
        return compiled.network(x, weights, biases, [ADDRESSES[row] for row in activations])

    def supports(self, activations: Sequence[Activation]) -> bool:
        """Whether PyTorch has kernels for all of them; they are handed to the extension when they are first met."""
        for row in activations:
            if row not in ADDRESSES:
                if not (row.aten or row is IDENTITY):
                    return False
                ADDRESSES[row] = compiled.activation(calls_of(row) if row.aten else (), row.reads_output)
        return True


def differentiable_gradients(
    grad_output: Tensor,
    x: Tensor | None,
    weights: Optionals,
    biases: Optionals,
    kept: Optionals,
    activations: Sequence[int],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The C++ node calls this if its gradients are differentiated again, or if a mode watches.

    What was not kept is None. Of x, a weight or a bias whose value is not read, only the place in the graph is used.
    """
    by_address = {address: row for row, address in ADDRESSES.items()}
    rows = [by_address[address] for address in activations]
    needs_grad = functions.as_needs_grad(needs)
    seen_by, differentiated = functions.in_backward(grad_output)
    if differentiated:
        kept = functions.kept_in_graph(FAST, [x, *weights, *biases], kept, rows)
        found = functions.differentiable_backward(grad_output, None, x, weights, kept, rows, needs_grad, seen_by)
    else:
        found = READABLE.gradients(grad_output, x, weights, list(kept), rows, needs_grad)
    return [found.x, *found.weights, *found.biases]
