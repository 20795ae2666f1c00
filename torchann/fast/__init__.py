"""Implementations of the sweeps that are faster than the readable ones, and `choose`, which picks one.

Implementations are chosen here and nowhere else. Without this folder everything would work, only slower: each
implementation is a `sweeps.Sweeps`, and the tests compare it with `sweeps.READABLE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from torchann.activations import Activation
from torchann.fast import fused, inplace, products
from torchann.jets import Collapsed, Kind
from torchann.sweeps import READABLE, Optionals, Sweeps
from torchann.transforms import ORDINARY, tracing_state

FUSED = Sweeps(fused)  # which PyTorch can differentiate
FAST = Sweeps(products)  # out of place: for second derivatives
SMALL_FLOPS = 1 << 22  # multiplications in a product, from which on a call in Python costs next to nothing beside it
FEW = 8192  # entries of x, for `has_few_entries`
NAMES = ("auto", "readable", "inplace", "native", "triton")
HAS_TRITON = find_spec("triton") is not None  # imported with the first network on a GPU

native: Any = None  # `torchann.native.Native`, while that is enabled
forced = "auto"


def choose(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    seen_by: str | None = None,
) -> Sweeps:
    """The sweeps for a network; `seen_by` is what `transforms.onlooker` returned.

    The readable sweeps run under whatever watches single operations, and under torch.compile, which fuses the
    operations itself. On a GPU, ordinary autograd and torch.compile get Triton's kernels if these support the network.
    Otherwise the size decides.

    Raises:
        RuntimeError: `implementation` was told to use one that can't run here; the message says why.
    """
    if forced != "auto":
        return forced_choice(x, weights, biases, activations, seen_by)
    if seen_by is not None and seen_by != "compile":
        return READABLE
    if HAS_TRITON and x.is_cuda and (triton := triton_for(x, weights, activations)):
        return triton
    if seen_by is not None or type(x) not in ORDINARY:
        return READABLE
    rows, is_small = x.shape[0], True
    for weight, bias in zip(weights, biases, strict=True):
        if type(weight) not in ORDINARY or not (bias is None or type(bias) in ORDINARY):
            return READABLE
        is_small = is_small and rows * weight.numel() < SMALL_FLOPS
    if is_small:
        return native if native and native.supports(activations) else inplace.SMALL
    return inplace.for_network(x, weights)


def runs_in_blocks(
    x: Tensor,
    terms: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    kind: Kind,
    seen_by: str | None,
) -> bool:
    """Whether `series` runs a network's derivatives, and not the sweeps of `jets`.

    It does where nothing watches single operations, and where nothing but x and the parameters is differentiated: not
    the directions, the coefficients, or a tensor inside a plain callable.
    """
    if forced == "readable" or seen_by is not None or x.is_meta:
        return False
    constants = [*terms, kind.coefficients] if isinstance(kind, Collapsed) else terms
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in constants):
        return False
    tensors = [x, *terms, *weights, *biases]
    return all(each is None or type(each) in ORDINARY for each in tensors) and all(map(is_closed, activations))


def series_kernels(x: Tensor, kind: Kind) -> Any:
    """The kernels for the elementwise part of `series`, in C++ or Triton's; None for PyTorch's operations."""
    if forced in ("auto", "native") and native and native.series.supports(x, kind):
        return native.series
    if not (forced == "triton" or (forced == "auto" and HAS_TRITON and x.is_cuda)):
        return None
    from torchann.fast import series_triton

    return series_triton if series_triton.supports(x, kind) else None


def is_closed(activation: Activation) -> bool:
    """Whether f surely has no tensors of its own: if it has a df, is PyTorch's, or a module without parameters."""
    f = activation.f
    if isinstance(f, nn.Module):
        return type(f).__module__.startswith("torch.nn.") and not any(True for _ in f.parameters())
    return activation.df is not None or (getattr(f, "__module__", None) or "").split(".")[0] == "torch"


def has_few_entries(x: Tensor) -> bool:
    """Whether inference is as fast by PyTorch's operations, one by one, as by a sweep. False if sizes are symbols."""
    if torch.compiler.is_compiling() or tracing_state() is not None:
        return False
    return type(x) is Tensor and x.numel() < FEW and forced == "auto"


def forced_choice(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation], seen_by: str | None
) -> Sweeps:
    """What `implementation` asks for."""
    if forced == "readable":
        return READABLE
    subclasses = [type(t).__name__ for t in (x, *weights, *biases) if t is not None and type(t) not in ORDINARY]
    if seen_by is not None and not (forced == "triton" and seen_by == "compile"):
        reason = f"a {seen_by} is active, under which the readable sweeps run"
    elif subclasses:
        reason = f"a {subclasses[0]} may have operations of its own"
    elif forced == "inplace":
        return inplace.for_network(x, weights)
    elif forced == "native" and native is None:
        reason = "torchann.native was disabled"
    elif forced == "native" and native and native.supports(activations):
        return native
    elif forced == "triton" and (triton := triton_for(x, weights, activations)):
        return triton
    else:
        names = ", ".join(dict.fromkeys(activation.name for activation in activations))
        reason = f"it does not support {x.dtype} on {x.device}, tensors without entries, or an activation ({names})"
    raise RuntimeError(f"implementation {forced!r}: can't run here, as {reason}; choose 'auto' or 'readable'")


def choose_for_higher_derivatives(seen_by: str | None, is_differentiated: bool) -> Sweeps:
    """The sweeps for derivatives beyond the first; `is_differentiated` if their results are differentiated again."""
    if forced == "readable":
        return READABLE
    if is_differentiated:
        return FUSED
    return FAST if seen_by is None else READABLE


def triton_for(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> Sweeps | None:
    """Triton's kernels, if they support the network."""
    from torchann.fast import triton

    return triton.TRITON if triton.supports(x, weights, activations) else None


class implementation:
    """Choose the implementation of the sweeps, from now on, or in a `with` block.

    All give the same results. "readable" is the one to read and to step through: the formulas, layer after layer.

    Args:
        name: "auto" chooses for each call what is fastest; "readable"; "inplace"; "native", the node in C++ (see
            `torchann.native.enable`); "triton", on a GPU.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: there is no Triton, or the node in C++ is not enabled. A network that the implementation does not
            support raises it when it is called.

    Example:
        >>> import torch, torchann
        >>> net = torchann.MLP([3, 4, 1])
        >>> with torchann.implementation("readable"):
        ...     net(torch.ones(2, 3)).shape
        torch.Size([2, 1])
    """

    def __init__(self, name: str) -> None:
        global forced
        if name not in NAMES:
            raise ValueError(f"implementation: expected one of {', '.join(map(repr, NAMES))}, got {name!r}")
        if name == "native" and native is None:
            raise RuntimeError("implementation 'native': it is not enabled; call torchann.native.enable() first")
        if name == "triton" and not HAS_TRITON:
            raise RuntimeError("implementation 'triton': Triton is not installed")
        self.before = forced
        forced = name

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None:
        global forced
        forced = self.before
