"""Derivatives of a network with respect to its inputs, as series through it; `torchann.jets` has the mathematics.

`jet` and `laplacian` check their arguments and describe the input's series; `through_layers` computes the output's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchann import functions, jets, transforms
from torchann.activations import Activation, ActivationLike
from torchann.fast import runs_in_blocks
from torchann.functional.layers import (
    autocast,
    check_input,
    check_recordable,
    check_same,
    check_tensor,
    checked_layers,
    explain,
    fit,
)
from torchann.jets import Collapsed, Kind, Series, Taylor
from torchann.sweeps import Optionals, there


def jet(
    x: Tensor,
    terms: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    biases: Optionals | None = None,
    activations: ActivationLike | Sequence[ActivationLike] = "sigmoid",
) -> tuple[Tensor, list[Tensor]]:
    """The derivatives of t ↦ o(x(t)) at t = 0 along curves x(t) through a network; see `torchann.jet`.

    Args:
        x: x(0), [*, I].
        terms: ẋ, ẍ, … up to the order K, each [R, *, I] for R curves, with 1 in place of a dimension along which they
            are the same; None for zero. A map of the inputs (Fourier features, say) in front of the network gives them.
        weights, biases, activations: as in `mlp`.

    Returns:
        o [*, O], and its derivatives: K tensors [R, *, O].

    Raises:
        ValueError, TypeError: as `mlp`; there is no term, or one has another shape.

    Example:
        >>> x = torch.randn(5, 1)
        >>> curve = [x.cos()[None], -x.sin()[None]]  # of sin(x + t)
        >>> value, (first, second) = jet(x.sin(), curve, [torch.randn(1, 1)], activations="tanh")
        >>> second.shape
        torch.Size([1, 5, 1])
    """
    layers = checked_layers(weights, biases, activations)
    if not terms or terms[0] is None:
        raise ValueError("terms: expected at least a first derivative of x")
    check_input(x)
    coefficients: list[Tensor | None] = []
    for k, term in enumerate(terms):
        checked = None if term is None else as_term(f"terms[{k}]", term, x, terms[0])
        coefficients.append(None if checked is None else checked / math.factorial(k + 1))
    kind = Taylor(len(terms))
    value, *found = as_derivatives(kind, through_layers(kind, folded(x, coefficients), *layers), x)
    return value, found


def laplacian(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals | None = None,
    activations: ActivationLike | Sequence[ActivationLike] = "sigmoid",
    coefficients: Tensor | None = None,
    tangents: Tensor | None = None,
    second: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """o, its first derivatives along R directions, and Σ_r c_r ∂²o/∂v_r², in one sweep; see `torchann.laplacian`.

    Args:
        x: [*, I].
        weights, biases, activations: as in `mlp`.
        coefficients: c [R] or C [R, R]; None for ones.
        tangents: ẋ_r [R, *, I], with 1 in place of a dimension along which they are the same; None for the unit
            vectors, R = I.
        second: Σ_r c_r ẍ_r [*, I], where x is itself a function of what is differentiated by; None for zero.

    Returns:
        o [*, O], first derivatives [R, *, O], and the sum of second derivatives [*, O].

    Raises:
        ValueError, TypeError: as `mlp`, and as `torchann.laplacian`.

    Example:
        >>> value, first, laplacian_of_it = laplacian(torch.randn(5, 2), [torch.randn(1, 2)], activations="tanh")
        >>> first.shape, laplacian_of_it.shape
        (torch.Size([2, 5, 1]), torch.Size([5, 1]))
    """
    layers = checked_layers(weights, biases, activations)
    check_input(x)
    if tangents is None:
        kind, directions, rotation = second_order(x, coefficients)
    else:
        directions, rotation = as_term("tangents", tangents, x), None
        kind = Collapsed(as_coefficients(x, coefficients, tangents.shape[0]), is_laplacian=coefficients is None)
    if second is not None:
        second = like("second", second, x)
        if second.dim() != x.dim() or (sizes_are_numbers() and not broadcasts(second.shape, x.shape)):
            raise ValueError(f"second: expected shape {list(x.shape)}, got {list(second.shape)}")
        second = second.expand_as(x)
    value, first, last = as_derivatives(kind, through_layers(kind, folded(x, [directions, second]), *layers), x)
    return value, rotated(first, rotation), last


# --- The input's series -----------------------------------------------------------------------------------------------


def second_order(x: Tensor, coefficients: Tensor | None) -> tuple[Collapsed, Tensor, Tensor | None]:
    """The kind of series for the operator, its directions [R, 1 …, I], and what turns ∂o/∂v_r into ∂o/∂xᵢ, if any.

    C = V diag(c) Vᵀ: along the eigenvectors the operator is a weighted sum, which costs less than all pairs. Where C is
    differentiated or transformed, its eigenvectors need not have a derivative, and all pairs are taken.
    """
    found = as_coefficients(x, coefficients, x.shape[-1])
    if found.dim() == 2 and not found.requires_grad and transforms.onlooker() is None:
        symmetric = found.double() if x.dtype != torch.float64 else found
        values, vectors = torch.linalg.eigh(symmetric)
        values, vectors = values.to(x.dtype), vectors.to(x.dtype)
        return Collapsed(values), same_for_all(vectors.t(), x), vectors
    return Collapsed(found, is_laplacian=coefficients is None), unit_vectors(x), None


def as_coefficients(x: Tensor, coefficients: Tensor | None, count: int) -> Tensor:
    """c [R] or C [R, R] in x's dtype.

    Raises:
        ValueError: of another shape, or not symmetric.
    """
    if coefficients is None:
        return torch.ones(count, dtype=x.dtype, device=x.device)
    coefficients = like("coefficients", coefficients, x)
    if sizes_are_numbers() and coefficients.shape not in ((count,), (count, count)):
        raise ValueError(
            f"coefficients: expected shape [{count}] or [{count}, {count}], got {list(coefficients.shape)}"
        )
    can_be_read = transforms.onlooker() is None and not coefficients.is_meta
    if coefficients.dim() == 2 and can_be_read and not torch.allclose(coefficients, coefficients.t()):
        raise ValueError("coefficients: expected a symmetric matrix")
    return coefficients


def unit_vectors(x: Tensor) -> Tensor:
    """The I unit vectors, the same for all samples: [I, 1 …, I]."""
    return same_for_all(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), x)


def same_for_all(directions: Tensor, x: Tensor) -> Tensor:
    """Directions [R, I] as terms of x: [R, 1 …, I]."""
    return directions.reshape(directions.shape[0], *[1] * (x.dim() - 1), directions.shape[1])


def as_term(name: str, term: Tensor, x: Tensor, first: Tensor | None = None) -> Tensor:
    """A term [R, *, I] in x's dtype; raises if it has another shape, or another R than the first term."""
    term = like(name, term, x)
    if not sizes_are_numbers():
        return term
    if term.shape[-1:] != x.shape[-1:] or not broadcasts(term.shape[1:], x.shape):
        raise ValueError(f"{name}: expected shape [R, {', '.join(map(str, x.shape))}], got {list(term.shape)}")
    if first is not None and term.shape[0] != first.shape[0]:
        raise ValueError(f"{name}: expected R = {first.shape[0]}, as terms[0] has, got {term.shape[0]}")
    return term


def like(name: str, tensor: Tensor, x: Tensor) -> Tensor:
    """The tensor in x's dtype; raises if it has another one, unless autocast would cast both."""
    check_tensor(name, tensor)
    check_same(name, tensor, "x", x)
    return tensor.to(x.dtype)


def folded(x: Tensor, terms: Sequence[Tensor | None]) -> Series:
    """The series with x's leading dimensions as one: x [N, I], terms [R, N, I]."""
    return Series(x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0), [fold(term, x) for term in terms])


def fold(term: Tensor | None, x: Tensor) -> Tensor | None:
    """A term over rows: [R, N, I], or [R, 1, I] if it is the same for all; the collapsed one [N, I]."""
    if term is None:
        return None
    if term.dim() == x.dim():  # the collapsed one
        return term.flatten(0, -2) if x.dim() > 1 else term.unsqueeze(0)
    if x.dim() == 1:
        return term.unsqueeze(1)
    is_same_for_all = sizes_are_numbers() and all(size == 1 for size in term.shape[1:-1])
    if not is_same_for_all:
        term = term.expand(term.shape[0], *x.shape[:-1], term.shape[-1])
    return term.flatten(1, -2)


def broadcasts(shape: Sequence[int], onto: Sequence[int]) -> bool:
    """Whether a tensor of as many dimensions can be expanded to a shape."""
    return len(shape) == len(onto) and all(a in (1, b) for a, b in zip(shape, onto, strict=True))


def sizes_are_numbers() -> bool:
    """Whether sizes can be compared: under torch.jit.trace they are tensors."""
    return torch.compiler.is_compiling() or transforms.tracing_state() is None


# --- Through the layers -----------------------------------------------------------------------------------------------


def through_layers(
    kind: Kind, series: Series, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]
) -> Series:
    """The series of the output, over rows, from that of the input."""
    x, terms = series
    if transforms.is_autocast_on():
        x, weights, biases = autocast(x, weights, biases)
        terms = [term if term is None else term.to(x.dtype) for term in terms]
        if isinstance(kind, Collapsed):
            kind = Collapsed(kind.coefficients.to(x.dtype), kind.is_laplacian)
    if sizes_are_numbers() and not fit(x, weights, biases):
        explain(x, weights, biases, "weights[{}]", "biases[{}]")
    seen_by = transforms.onlooker()
    if runs_in_blocks(x, terms, weights, biases, activations, kind, seen_by):
        value, *terms = functions.series_node(kind, x, terms, weights, biases, activations)
        return Series(there(value), terms)
    activations = [differentiable(activation, seen_by) for activation in activations]
    return jets.forward(kind, Series(x, terms), weights, biases, activations, derivative(seen_by))[-1].o


def through_activation(kind: Kind, series: Series, activation: Activation) -> Series:
    """The same of an activation without a linear layer before it."""
    seen_by = transforms.onlooker()
    return jets.activate(kind, series, differentiable(activation, seen_by), derivative(seen_by))


def derivative(seen_by: str | None) -> Callable[..., Tensor]:
    """What `jets` differentiates an elementwise function by; `seen_by` is what `onlooker` returned."""
    return jets.by_autograd if seen_by in (None, "mode") else jets.by_transform


def differentiable(activation: Activation, seen_by: str | None) -> Activation:
    """The activation in a form whose derivatives are its df and d2f, whatever differentiates it.

    Raises:
        RuntimeError: df or d2f differs from the derivative that torch.compile or a recorder will have autograd compute.
    """
    recorder = "a jet under torch.compile" if seen_by == "compile" else seen_by and transforms.recording()
    if not recorder:
        return functions.by_own_derivatives(activation)
    if activation.df is not None:  # Dynamo takes no Function that has a jvp, and a recorder keeps no Function
        check_recordable(activation.key, recorder)
    return activation


# --- The output's derivatives -----------------------------------------------------------------------------------------


def as_derivatives(kind: Kind, series: Series, x: Tensor) -> list[Tensor]:
    """The value [*, O], and k! times the k-th term, [R, *, O], with x's leading dimensions; of the collapsed one s."""
    value, terms = series
    first = terms[0]
    assert first is not None
    full = first.shape[0], *value.shape
    shapes = [full, value.shape] if isinstance(kind, Collapsed) else [full] * kind.order
    factors = [1, 1] if isinstance(kind, Collapsed) else [math.factorial(k) for k in range(1, kind.order + 1)]
    found = [value]
    for term, shape, factor in zip(terms, shapes, factors, strict=True):
        found.append(value.new_zeros(shape) if term is None else (term if factor == 1 else term * factor).expand(shape))
    return [each.reshape(*each.shape[:-2], *x.shape[:-1], each.shape[-1]) for each in found]


def rotated(first: Tensor, rotation: Tensor | None) -> Tensor:
    """∂o/∂xᵢ from the derivatives along the directions of `second_order`."""
    return first if rotation is None else torch.tensordot(rotation.to(first.dtype), first, 1)
