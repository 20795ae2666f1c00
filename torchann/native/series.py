"""The elementwise part of `torchann.fast.series` in C++, for collapsed series: one pass over memory for each layer.

The functions are those of `torchann.fast.series_triton`. They run while `torchann.native` is enabled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchann.activations import TABLE, Activation
from torchann.fast.series import is_quadratic
from torchann.jets import Collapsed, Kind

compiled: Any = None  # the extension, once enabled
CODES = frozenset(row for row in TABLE.values() if is_quadratic(row))


def supports(x: Tensor, kind: Kind) -> bool:
    """Whether the kernels cover this kind of series; they run where, besides, the activation is in `CODES`."""
    is_weighted = isinstance(kind, Collapsed) and kind.coefficients.dim() == 1
    return is_weighted and x.dtype in (torch.float32, torch.float64) and x.device.type == "cpu"


def activate_(stack: Tensor, bias: Tensor | None, kind: Collapsed, activation: Activation) -> None:
    """Write o = f(z) and its terms over the stack of z − b  [T, n, O]."""
    value = stack[0]
    if bias is not None:
        value += bias
    activation.f(value, out=value)  # type: ignore[call-arg]
    activate_terms_(stack, kind, activation)


def activate_terms_(stack: Tensor, kind: Collapsed, activation: Activation) -> None:
    """Write the terms of f(z) over those of z, in a stack [T, n, O] whose value is o already."""
    compiled.activate_terms_(stack, kind.weights, activation.slope)


def delta_(grads: Tensor, outputs: Tensor, kind: Collapsed, activation: Activation) -> None:
    """Write δ of the value and of the terms over the stack of their ē  [T, n, O]. outputs: the stack of o."""
    compiled.delta_(grads, outputs, kind.weights, activation.slope)
