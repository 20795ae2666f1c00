"""A whole network in one sweep: the formulas of one layer, applied layer after layer.

`weights`, `biases` and `activations` list the layers 1 … L from input to output, and `kept[l]` is s, what f′ and f″
of that layer read (the symbols stand in `formulas`). None among gradients and tangents means zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from torchann import formulas, kernels, transforms
from torchann.activations import Activation

Optionals = Sequence[Tensor | None]
T = TypeVar("T")


class Signals(NamedTuple):
    """What the backward sweep finds; in the double backward, the cotangents of the same."""

    x: Tensor | None  # ∂E/∂x
    weights: Optionals  # ∂E/∂W of each layer
    biases: Optionals  # ∂E/∂b
    deltas: Optionals = ()  # δ
    errors: Optionals = ()  # ē


class Wanted(NamedTuple):
    """Which gradients somebody needs."""

    x: bool
    weights: Sequence[bool]
    biases: Sequence[bool]

    @property
    def lowest(self) -> int:
        """The first layer that the backward sweep has to reach."""
        if self.x:
            return 0
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight or bias:
                return layer
        return len(self.weights)


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    keep: Sequence[bool] | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """The network's output, and s of each layer that is to keep it (`to_keep`; None for all), None of the others."""
    kept: list[Tensor | None] = []
    for weight, bias, activation, keeps in zip(weights, biases, activations, keep or every(weights), strict=True):
        z = kernels.pre_activation(x, weight, bias)
        x = formulas.activate(z, activation)
        s = x if activation.reads_output else z
        kept.append(s if keeps else None)
    return x, kept


def to_keep(activations: Sequence[Activation], weights_wanted: Sequence[bool]) -> list[bool]:
    """Which layers have to keep s for the backward sweep: for f′, or as what the layer above received."""
    if all(weights_wanted) and formulas.IDENTITY not in activations:
        return [True] * len(activations)
    above = (*weights_wanted[1:], False)
    return [
        wanted or not formulas.slope_is_constant(activation)
        for activation, wanted in zip(activations, above, strict=True)
    ]


def tangent(
    x_dot: Tensor | None,
    weight_dots: Optionals,
    bias_dots: Optionals,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Optionals,
    activations: Sequence[Activation],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """ȯ of the network and ż of each layer."""
    z_dots = []
    for layer, activation in enumerate(activations):
        received = layer_input(layer, x, kept, activations)
        t = kernels.tangent(received, weights[layer], x_dot, weight_dots[layer], bias_dots[layer])
        x_dot = None if t is None else kernels.delta(t, kept[layer], activation)
        z_dots.append(t)
    return x_dot, z_dots


def backward(
    grad_output: Tensor | None,
    zetas: Optionals,
    x: Tensor | None,
    weights: Optionals,
    kept: Optionals,
    activations: Sequence[Activation],
    wanted: Wanted,
    keep_signals: bool = False,
) -> Signals:
    """Case 1 and case 2: from ē of the last layer down, δ = ē ⊙ f′(z) + ζ and the gradients that it gives.

    ζ is what reaches z from above: from a double backward. ē and δ are returned only with `keep_signals`. Of x, the
    weights and `kept`, those may be None that the wanted gradients do not read.
    """
    depth, lowest = len(weights), wanted.lowest
    weight_grads, bias_grads = blank(depth), blank(depth)
    deltas, errors = (blank(depth), blank(depth)) if keep_signals else ([], [])
    error = grad_output
    for layer in range(depth - 1, lowest - 1, -1):
        delta = plus(zetas[layer], None if error is None else kernels.delta(error, kept[layer], activations[layer]))
        if keep_signals:
            errors[layer], deltas[layer] = error, delta
        if delta is None:
            continue
        if wanted.weights[layer]:
            weight_grads[layer] = kernels.weight_gradient(delta, layer_input(layer, x, kept, activations))
        if wanted.biases[layer]:
            bias_grads[layer] = formulas.bias_gradient(delta)
        if layer > lowest or wanted.x:
            error = kernels.input_gradient(delta, there(weights[layer]))
    return Signals(error if wanted.x else None, weight_grads, bias_grads, deltas, errors)


class Operands(NamedTuple, Generic[T]):
    """One T for each thing that the backward sweep was given: its cotangent, or whether that is needed."""

    x: T
    grad_output: T
    zetas: Sequence[T]
    weights: Sequence[T]
    z: Sequence[T]


def double_backward(
    cotangents: Signals,
    deltas: list[Tensor | None],
    errors: list[Tensor | None],
    x: Tensor | None,
    weights: Optionals,
    kept: Optionals,
    activations: Sequence[Activation],
    wanted: Operands[bool],
) -> Operands[Tensor | None]:
    """The backward sweep, differentiated: upwards, since its data ran down.

    With h for the cotangent of ē of the layer below (of ∂E/∂x at the input) and hW, hb for those of ∂E/∂W, ∂E/∂b:
        t = h Wᵀ + x hWᵀ + hb    to δ, and so to ζ
        δᵀ h                     to W
        δ hW                     to what the layer received
        t ⊙ ē ⊙ f″(z)            to z
        t ⊙ f′(z)                to ē, and is h of the next layer
    What reaches z goes on to x, W and b in the backward sweep of the forward pass's own node, where it joins all else
    that reaches z, so that ζ W, ζᵀ x and Σ ζ cost nothing of their own. `deltas` and `errors` are emptied on the way:
    what the sweep has passed is freed. Where f″ is zero everywhere but f′ is no constant (relu), z gets zeros, as in
    PyTorch.
    """
    depth = len(weights)
    to_zetas, to_weights, to_z = blank(depth), blank(depth), blank(depth)
    to_x = None
    h = cotangents.x
    for layer, activation in enumerate(activations):
        weight, s, delta, error = weights[layer], kept[layer], deltas[layer], errors[layer]
        deltas[layer] = errors[layer] = None
        weight_dot = cotangents.weights[layer]
        if delta is not None and h is not None and wanted.weights[layer]:
            to_weights[layer] = kernels.weight_gradient(delta, h)
        if delta is not None and weight_dot is not None:
            if layer == 0:
                to_x = kernels.input_gradient(delta, weight_dot) if wanted.x else None
            elif wanted.z[layer - 1]:
                to_input = kernels.input_gradient(delta, weight_dot)
                through_f = kernels.delta(to_input, kept[layer - 1], activations[layer - 1])
                to_z[layer - 1] = plus(to_z[layer - 1], through_f)
        bends = error is not None and wanted.z[layer] and not formulas.slope_is_constant(activation)
        if not (bends or wanted.zetas[layer] or wanted.grad_output or layer < depth - 1):
            break  # the last layer, and nobody asks for t
        of_n_rows = error if delta is None else delta
        received = of_n_rows if weight_dot is None else layer_input(layer, x, kept, activations)
        t = kernels.tangent(received, weight, h, weight_dot, cotangents.biases[layer])
        t = plus(t, cotangents.deltas[layer])
        to_zetas[layer] = t if wanted.zetas[layer] else None
        h = None if t is None else kernels.delta(t, s, activation)
        if bends and t is not None and h is not None and error is not None:
            to_z[layer] = kernels.zeta(t, h, error, there(s), activation)
        h = plus(h, cotangents.errors[layer])
    return Operands(to_x, h if wanted.grad_output else None, to_zetas, to_weights, to_z)


def layer_input(layer: int, x: Tensor | None, kept: Optionals, activations: Sequence[Activation]) -> Tensor:
    """What a layer received: x, or o of the layer below."""
    if layer == 0:
        return there(x)
    s, below = there(kept[layer - 1]), activations[layer - 1]
    return s if below.reads_output else formulas.activate(s, below)


def there(tensor: Tensor | None) -> Tensor:
    """The tensor, which was kept, as somebody wants what is computed with it."""
    assert tensor is not None
    return tensor


def every(weights: Sequence[Tensor]) -> list[bool]:
    """For `keep`: yes, each layer."""
    return [True] * len(weights)


def blank(depth: int) -> list[Tensor | None]:
    return [None] * depth


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    if transforms.is_zero(a):
        return b
    return a + b
