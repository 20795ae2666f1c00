"""A whole network in one sweep: the formulas of one layer, applied layer after layer.

`weights`, `biases` and `activations` list the layers 1 … L from input to output. `kept[l]` is s of a layer: what its f′
and f″ read (`formulas` lists the symbols). A gradient or tangent of None is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from torchann import formulas
from torchann.activations import Activation

Optionals = Sequence[Tensor | None]


class Gradients(NamedTuple):
    """What the backward sweep computes. The double backward takes their cotangents in the same form."""

    x: Tensor | None  # ∂E/∂x
    weights: Optionals  # ∂E/∂W of each layer
    biases: Optionals  # ∂E/∂b
    deltas: Optionals = ()  # δ
    grad_outputs: Optionals = ()  # ē


class NeedsGrad(NamedTuple):
    """Which gradients are needed."""

    x: bool
    weights: Sequence[bool]
    biases: Sequence[bool]

    @property
    def lowest(self) -> int:
        """The first layer that the backward sweep has to reach."""
        if self.x:
            return 0
        for layer, needs in enumerate(zip(self.weights, self.biases, strict=True)):
            if any(needs):
                return layer
        return len(self.weights)


class BackwardInputs(NamedTuple):
    """One entry for each input of the backward sweep: its gradient, or whether that is needed."""

    x: Any
    grad_output: Any
    z_grads: Sequence[Any]
    weights: Sequence[Any]
    z: Sequence[Any]  # which the sweep reads in the form of s


class Sweeps:
    """The four sweeps over a network's layers.

    Args:
        layer: the formulas of one layer: the module `formulas`, or one with the same functions, only faster.
        is_small: whether they are for networks so small that a call in Python takes as long as a product of matrices.

    Attributes:
        node: None, or a function of x, weights, biases and activations that makes its own node in autograd's graph.
    """

    node: Callable[..., Tensor] | None = None

    def __init__(self, layer: Any, is_small: bool = False) -> None:
        self.layer = layer
        self.is_small = is_small

    @property
    def readable(self) -> Sweeps:
        """Sweeps that keep the same tensors and run where something watches single operations."""
        return READABLE

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The network's output, and s of each layer that `keep` says to keep (see `to_keep`), None of the others."""
        kept: list[Tensor | None] = []
        for weight, bias, activation, keeps in zip(weights, biases, activations, keep, strict=True):
            z = self.layer.pre_activation(x, weight, bias)
            x = self.layer.activate(z, activation)
            s = x if activation.reads_output else z
            kept.append(s if keeps else None)
        return x, kept

    def tangent(
        self,
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
            t = self.layer.tangent(received, weights[layer], x_dot, weight_dots[layer], bias_dots[layer])
            x_dot = None if t is None else self.layer.delta(t, kept[layer], activation)
            z_dots.append(t)
        return x_dot, z_dots

    def gradients(
        self,
        grad_output: Tensor,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        needs: NeedsGrad,
    ) -> Gradients:
        """First derivatives: `backward` without ζ. A faster implementation may empty the list `kept`."""
        return self.backward(grad_output, None, x, weights, kept, activations, needs)

    def backward(
        self,
        grad_output: Tensor | None,
        z_grads: Optionals | None,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        needs: NeedsGrad,
        with_deltas: bool = False,
    ) -> Gradients:
        """From ē of the last layer down (case 1, then case 2): δ = ē ⊙ f′(z) + ζ, and the gradients computed from δ.

        Args:
            grad_output: ē of the last layer.
            z_grads: ζ of each layer, which a double backward sends to z directly; None in a first derivative.
            x, weights, kept: what `forward` was given and kept. What the needed gradients do not read may be None.
            needs: which gradients to compute.
            with_deltas: whether to return δ and ē of each layer as well.
        """
        depth, lowest = len(weights), needs.lowest
        weight_grads, bias_grads, deltas, grad_outputs = blank(depth), blank(depth), blank(depth), blank(depth)
        for layer in range(depth - 1, lowest - 1, -1):
            activation = activations[layer]
            delta = None if grad_output is None else self.layer.delta(grad_output, kept[layer], activation)
            delta = self.layer.plus(z_grads[layer], delta) if z_grads else delta
            if with_deltas:
                grad_outputs[layer], deltas[layer] = grad_output, delta
            if delta is None:
                continue
            if needs.weights[layer]:
                weight_grads[layer] = self.layer.weight_gradient(delta, layer_input(layer, x, kept, activations))
            if needs.biases[layer]:
                bias_grads[layer] = self.layer.bias_gradient(delta)
            if layer > lowest or needs.x:
                grad_output = self.layer.input_gradient(delta, there(weights[layer]))
        return Gradients(grad_output if needs.x else None, weight_grads, bias_grads, deltas, grad_outputs)

    def double_backward(
        self,
        cotangents: Gradients,
        deltas: list[Tensor | None],
        grad_outputs: list[Tensor | None],
        x: Tensor | None,
        weights: Optionals,
        kept: Optionals,
        activations: Sequence[Activation],
        needs: BackwardInputs,
    ) -> BackwardInputs:
        """The derivative of the backward sweep. It runs from the first layer up, as the data of that sweep ran down.

        With h for the cotangent of ē of the layer below (of ∂E/∂x at the input) and hW, hb for those of ∂E/∂W, ∂E/∂b:
            t = h Wᵀ + x hWᵀ + hb    to δ, and the same to ζ
            δᵀ h                     to W
            δ hW                     to what the layer received
            t ⊙ ē ⊙ f″(z)            to z
            t ⊙ f′(z)                to ē, and is h of the next layer
        The gradient of z is returned as such. Autograd passes it to the node of the forward pass, whose backward sweep
        adds it to δ before it computes the gradients of x, W and b. So ζ W, ζᵀ x and Σ ζ take no products of their own.
        The entries of `deltas` and `grad_outputs` are set to None as the sweep passes them, which frees their memory.
        """
        depth = len(weights)
        to_z_grads, to_weights, to_z = blank(depth), blank(depth), blank(depth)
        to_x = None
        h = cotangents.x
        for layer, activation in enumerate(activations):
            weight, s, delta, grad_output = weights[layer], kept[layer], deltas[layer], grad_outputs[layer]
            deltas[layer] = grad_outputs[layer] = None
            weight_dot = cotangents.weights[layer]
            if delta is not None and h is not None and needs.weights[layer]:
                to_weights[layer] = self.layer.weight_gradient(delta, h)
            if delta is not None and weight_dot is not None:
                if layer == 0:
                    to_x = self.layer.input_gradient(delta, weight_dot) if needs.x else None
                elif needs.z[layer - 1]:
                    to_input = self.layer.input_gradient(delta, weight_dot)
                    through_f = self.layer.delta(to_input, kept[layer - 1], activations[layer - 1])
                    to_z[layer - 1] = self.layer.plus(to_z[layer - 1], through_f)
            bends = grad_output is not None and needs.z[layer] and not formulas.slope_is_constant(activation)
            if not (bends or needs.z_grads[layer] or needs.grad_output or layer < depth - 1):
                break  # at the last layer, if nothing needs its t
            of_n_rows = grad_output if delta is None else delta
            received = of_n_rows if weight_dot is None else layer_input(layer, x, kept, activations)
            t = self.layer.tangent(received, weight, h, weight_dot, cotangents.biases[layer])
            t = self.layer.plus(t, cotangents.deltas[layer])
            to_z_grads[layer] = t if needs.z_grads[layer] else None
            h = None if t is None else self.layer.delta(t, s, activation)
            if bends and t is not None and h is not None and grad_output is not None:
                to_z[layer] = self.layer.zeta(t, h, grad_output, there(s), activation)
            h = self.layer.plus(h, cotangents.grad_outputs[layer])
        return BackwardInputs(to_x, h if needs.grad_output else None, to_z_grads, to_weights, to_z)


READABLE = Sweeps(formulas)


def to_keep(activations: Sequence[Activation], needs_weights: Sequence[bool]) -> list[bool]:
    """Which layers have to keep s for the backward sweep: for f′, or as what the layer above received."""
    if all(needs_weights) and formulas.IDENTITY not in activations:
        return [True] * len(activations)
    above = (*needs_weights[1:], False)
    return [
        needs or not formulas.slope_is_constant(activation)
        for activation, needs in zip(activations, above, strict=True)
    ]


def layer_input(layer: int, x: Tensor | None, kept: Optionals, activations: Sequence[Activation]) -> Tensor:
    """What a layer received: x, or o of the layer below."""
    if layer == 0:
        return there(x)
    s, below = there(kept[layer - 1]), activations[layer - 1]
    return s if below.reads_output else formulas.activate(s, below)


def there(tensor: Tensor | None) -> Tensor:
    """The tensor, which is not None: it was kept because a needed gradient reads it."""
    assert tensor is not None
    return tensor


def blank(depth: int) -> list[Tensor | None]:
    return [None] * depth
