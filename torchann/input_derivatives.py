"""Derivatives of a network with respect to its inputs, in one forward sweep: `jet`, `laplacian`, `gradient`.

These read the layers of a module and call `torchann.functional.series`; `jets` has the mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from torchann import activations as table
from torchann.activations import Activation
from torchann.conversion import Sequential
from torchann.functional.layers import check_input
from torchann.functional.series import (
    as_derivatives,
    folded,
    like,
    rotated,
    same_for_all,
    second_order,
    through_activation,
    through_layers,
    unit_vectors,
)
from torchann.jets import Kind, Taylor
from torchann.modules import ELEMENTWISE, MLP, Dense
from torchann.transforms import has_hooks, without_compile


class Jet(NamedTuple):
    """The value [*, O] and its derivatives along R directions; `derivatives[k - 1]` [R, *, O] is the k-th."""

    value: Tensor
    derivatives: tuple[Tensor, ...]


class Laplacian(NamedTuple):
    """u [*, O], ∇u [*, O, I] and Δu, or another second-order operator, [*, O]."""

    value: Tensor
    gradient: Tensor
    laplacian: Tensor


def jet(net: nn.Module, x: Tensor, directions: Tensor | None = None, order: int = 2) -> Jet:
    """The derivatives of t ↦ net(x + t v) at t = 0, up to an order, along each direction v, in one forward sweep.

    Args:
        net: `MLP`, `Dense`, `nn.Linear`, or an `nn.Sequential` (nested, converted) of these, elementwise activations,
            `nn.Identity` and dropout in eval mode.
        x: [*, I].
        directions: [R, I], the same for all samples, or [R, *, I], in x's dtype; None for the I unit vectors.
        order: K ≥ 1.

    Returns:
        value [*, O], and derivatives: the k-th is derivatives[k − 1], [R, *, O]. Differentiable to any order with
        respect to x, the directions and the parameters.

    Raises:
        TypeError: a layer can't be in a jet (the message names it); x or directions is no floating-point tensor; or
            dtypes differ.
        ValueError: a shape does not fit, or order is no positive integer.

    Example:
        >>> import torch
        >>> net = MLP([2, 8, 1], "tanh", "identity")
        >>> u = jet(net, torch.randn(5, 2), torch.tensor([[1.0, 0.0]]), order=3)
        >>> u.value.shape, u.derivatives[2].shape  # u and u_xxx
        (torch.Size([5, 1]), torch.Size([1, 5, 1]))
    """
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise ValueError(f"order: expected a positive integer, got {order!r}")
    check_input(x)
    first = unit_vectors(x) if directions is None else as_directions(directions, x)
    value, *terms = through(net, Taylor(order), x, [first, *[None] * (order - 1)])
    return Jet(value, tuple(terms))


def laplacian(net: nn.Module, x: Tensor, coefficients: Tensor | None = None) -> Laplacian:
    """u, ∇u and Σᵢ cᵢ ∂²u/∂xᵢ² of a network, in one forward sweep; by default Δu.

    Args:
        net: as in `jet`.
        x: [*, I].
        coefficients: None for Δ; c [I] for Σᵢ cᵢ ∂²u/∂xᵢ², of any sign (1, −1: the wave operator; 1, 0: u_xx of
            (x, t)); C [I, I], symmetric, for Σᵢⱼ Cᵢⱼ ∂ᵢ∂ⱼ u. In x's dtype.

    Returns:
        value [*, O], gradient [*, O, I], laplacian [*, O]. Differentiable to any order with respect to x, the
        coefficients and the parameters.

    Raises:
        TypeError: as in `jet`.
        ValueError: a shape does not fit, or C is not symmetric.

    Example:
        >>> import torch
        >>> net = MLP([2, 8, 1], "tanh", "identity")
        >>> u = laplacian(net, torch.randn(5, 2))
        >>> u.value.shape, u.gradient.shape, u.laplacian.shape
        (torch.Size([5, 1]), torch.Size([5, 1, 2]), torch.Size([5, 1]))
    """
    check_input(x)
    kind, directions, rotation = second_order(x, coefficients)
    value, first, last = through(net, kind, x, [directions, None])
    return Laplacian(value, rotated(first, rotation).movedim(0, -1), last)


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    """∇u of a network, [*, O, I], in one forward sweep. For a scalar output of many inputs, autograd is as fast.

    Example:
        >>> import torch
        >>> gradient(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), torch.randn(5, 2)).shape
        torch.Size([5, 3, 2])
    """
    return jet(net, x, order=1).derivatives[0].movedim(0, -1)


class WithLaplacian(nn.Module):
    """A network whose forward is `laplacian(net, x, coefficients)`: for DistributedDataParallel, which needs a forward.

    Args:
        net: as in `jet`.
        coefficients: as in `laplacian`; a buffer of the module, so that it moves with it.

    Example:
        >>> import torch
        >>> WithLaplacian(MLP([2, 8, 1], "tanh", "identity"))(torch.randn(5, 2)).laplacian.shape
        torch.Size([5, 1])
    """

    def __init__(self, net: nn.Module, coefficients: Tensor | None = None) -> None:
        super().__init__()
        self.net = net
        self.coefficients: Tensor | None
        self.register_buffer("coefficients", coefficients)

    def forward(self, x: Tensor) -> Laplacian:
        return laplacian(self.net, x, self.coefficients)


def through(net: nn.Module, kind: Kind, x: Tensor, terms: Sequence[Tensor | None]) -> list[Tensor]:
    """The derivatives of the output, from the series of the input."""
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    activations: list[Activation] = []
    series = folded(x, terms)

    def run() -> None:
        nonlocal series
        if weights:
            series = through_layers(kind, series, weights, biases, activations)
        for layers in (weights, biases, activations):
            layers.clear()

    for layer in layers_of(net):
        if isinstance(layer, Activation) and weights and activations[-1] is table.TABLE["identity"]:
            activations[-1] = layer
        elif isinstance(layer, Activation):  # there is no linear layer before it
            run()
            series = through_activation(kind, series, layer)
        else:
            weights.append(layer[0])
            biases.append(layer[1])
            activations.append(table.TABLE["identity"])
    run()
    return as_derivatives(kind, series, x)


# Their layers are read and their forward is not called, so a subclass with another forward is refused.
READ = (MLP, Dense, nn.Linear, nn.Sequential, Sequential, nn.Identity, nn.Dropout)


def layers_of(net: nn.Module, name: str = "net") -> Iterator[Activation | tuple[Tensor, Tensor | None]]:
    """The linear layers, as (W, b), and the activations of a network, from input to output.

    Raises:
        TypeError: a module can't be in a jet; the message names it.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"{name}: expected an nn.Module, got {type(net).__name__}")
    net = without_compile(net) or net
    if has_hooks(net):
        raise TypeError(f"{name}: a {type(net).__name__} with hooks can't be in a jet, which calls no forward of it")
    if isinstance(net, READ) and all(type(net).forward is not each.forward for each in READ):
        raise TypeError(f"{name}: a {type(net).__name__} can't be in a jet, as it has a forward of its own")
    if isinstance(net, MLP):
        for index, dense in enumerate(net.layers):
            yield from layers_of(dense, f"{name}.layers[{index}]")
    elif isinstance(net, Dense):
        yield net.weight, net.bias
        yield table.get(net.activation)
    elif isinstance(net, nn.Linear):
        yield net.weight, net.bias
    elif isinstance(net, nn.Sequential):
        for index, layer in enumerate(net):
            yield from layers_of(layer, f"{name}[{index}]")
    elif isinstance(net, nn.Identity) or (isinstance(net, nn.Dropout) and not net.training):
        return
    elif isinstance(net, ELEMENTWISE):
        yield table.get(net)
    else:
        kind = f"{type(net).__name__} in training" if isinstance(net, nn.Dropout) else type(net).__name__
        raise TypeError(
            f"{name}: a {kind} can't be in a jet; expected MLP, Dense, nn.Linear, an elementwise activation, "
            "nn.Identity or an nn.Sequential of these"
        )


def as_directions(directions: Tensor, x: Tensor) -> Tensor:
    """Directions [R, I] or [R, *, I] as terms of x."""
    directions = like("directions", directions, x)
    if directions.dim() == 2 and directions.shape[1:] == x.shape[-1:]:
        return same_for_all(directions, x)
    if directions.shape[1:] != x.shape:
        expected = f"[R, {x.shape[-1]}] or [R, {', '.join(map(str, x.shape))}]"
        raise ValueError(f"directions: expected shape {expected}, got {list(directions.shape)}")
    return directions
