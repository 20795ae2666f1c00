"""Derivatives with respect to the inputs, which travel with the forward sweep: truncated series through a network.

Along directions v_r (r = 1 … R), the value of a layer is followed by derivatives of t ↦ o(x + t v_r) at t = 0:

    symbol                  shape       meaning
    x, z, o                 [N, ·]      values: what a layer receives, its pre-activation, its output
    x_k, z_k, o_k           [R, N, ·]   coefficients of tᵏ, k = 1 … K: the k-th derivative along v_r, over k!
    s                       [N, ·]      Σ_r c_r ö_r, "collapsed": what Σ_r c_r ∂²/∂v_r² needs of the second derivatives
    ē, ē_k, ē_s                         ∂E/∂ of a value and of the terms behind it; δ likewise, of pre-activations

A linear layer maps each term by itself: z = x Wᵀ + b, z_k = x_k Wᵀ, and s likewise. Of an activation o = f(z) both
passes are products of series. With w the series of f′(z):

    forward     o′ = f′(z) z′:  k o_k = Σⱼ j z_j w_{k−j}  (j = 1 … k)
    backward    ∂o_k/∂z_j = w_{k−j}:  δ_j = Σ_k w_{k−j} ⊙ ē_k  (k = j … K), and δ of the value sums over r, too

Collapsed, with ȧ, ḃ the first terms of two series and s_a, s_b their last ones:

    product     (ab)˙_r = a ḃ_r + ȧ_r b,  s_ab = a s_b + s_a b + 2 Σ c_r ȧ_r ḃ_r
    forward     ȯ_r = f′ ż_r,  s_o = f′ s_z + f″ Σ c_r ż_r²
    backward    δ = w ē + Σ_r ẇ_r ē_r + s_w ē_s,  δ_r = w ē_r + 2 c_r ẇ_r ē_s,  δ_s = w ē_s

A term of None is zero.
"""

# No `from __future__ import annotations`: torch.package can't load a dataclass whose annotations are strings.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from torchann import formulas
from torchann.activations import Activation, Elementwise
from torchann.formulas import plus
from torchann.sweeps import Optionals

Term: TypeAlias = Tensor | None


class Series(NamedTuple):
    """A value [N, ·] and the terms behind it, as the kind of series (`Taylor`, `Collapsed`) has them."""

    value: Tensor
    terms: Sequence[Term]


def times(a: Term, b: Term) -> Term:
    return None if a is None or b is None else a * b


def total(terms: Sequence[Term]) -> Term:
    found: Term = None
    for term in terms:
        found = plus(found, term)
    return found


# --- Kinds of series --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taylor:
    """The coefficients of t, t², … tᴷ along each direction: terms x_k [R, N, ·]."""

    order: int

    def compose(self, derivatives: Sequence[Term], z: Series) -> list[Term]:
        """The terms of g(z), by Faà di Bruno: g(z) = Σₙ g⁽ⁿ⁾ / n! ⊙ (z(t) − z(0))ⁿ. derivatives: g⁽¹⁾, g⁽²⁾, …"""
        found: list[Term] = [None] * self.order
        power: list[Term] = list(z.terms)  # of (z(t) − z(0))ⁿ
        factorial = 1
        for n, derivative in enumerate(derivatives[: self.order], start=1):
            factorial *= n
            scaled = None if derivative is None else derivative / factorial
            found = [plus(a, times(scaled, b)) for a, b in zip(found, power, strict=True)]
            if n < self.order:
                power = self.shifted_product(power, z.terms)
        return found

    def shifted_product(self, a: Sequence[Term], b: Sequence[Term]) -> list[Term]:
        """The coefficients of t … tᴷ of the product of two series without a constant."""
        return [total([times(a[i - 1], b[k - i - 1]) for i in range(1, k)]) for k in range(1, self.order + 1)]

    def transposed_product(self, w: Series, grads: Sequence[Term]) -> list[Term]:
        """δ of the value and of the terms. grads: ē, ē_1 … ē_K."""
        slopes = [w.value, *w.terms]
        deltas = [
            total([times(slopes[k - j], grads[k]) for k in range(j, self.order + 1)]) for j in range(1, self.order + 1)
        ]
        of_terms = total([times(slopes[k], grads[k]) for k in range(1, self.order + 1)])
        return [plus(times(w.value, grads[0]), None if of_terms is None else of_terms.sum(0)), *deltas]


@dataclass(frozen=True)
class Collapsed:
    """The first derivatives [R, N, ·] and s = Σ_r c_r ö_r [N, ·]."""

    coefficients: Tensor  # c [R], or C [R, R] for Σ_qr C_qr ∂²/∂v_q∂v_r
    is_laplacian: bool = False  # whether every c is known to be 1

    order = 2

    @cached_property
    def weights(self) -> list[float]:
        """c as numbers."""
        return [1.0] * len(self.coefficients) if self.is_laplacian else self.coefficients.tolist()

    def weighted_square(self, a: Tensor, b: Tensor) -> Tensor:
        """Σ_r c_r a_r ⊙ b_r  [N, ·]"""
        return (self.scaled(a) * b).sum(0)

    def scaled(self, a: Tensor) -> Tensor:
        """c_r a_r, or Σ_q C_rq a_q  [R, N, ·]"""
        if self.coefficients.dim() == 1:
            return self.coefficients.view(-1, 1, 1) * a
        return torch.tensordot(self.coefficients, a, 1)

    def compose(self, derivatives: Sequence[Term], z: Series) -> list[Term]:
        """The terms of g(z): g′ ż_r and g′ s + g″ Σ c_r ż_r²."""
        first, last = z.terms
        g1, g2 = derivatives[:2]
        square = None if first is None or g2 is None else g2 * self.weighted_square(first, first)
        return [times(g1, first), plus(times(g1, last), square)]

    def transposed_product(self, w: Series, grads: Sequence[Term]) -> list[Term]:
        """δ of the value and of the terms. grads: ē, ē_r, ē_s."""
        w1, w_s = w.terms
        grad, grad_first, grad_last = grads
        of_first = times(w1, grad_first)
        cross = None if w1 is None or grad_last is None else 2 * self.scaled(w1) * grad_last
        return [
            total([times(w.value, grad), None if of_first is None else of_first.sum(0), times(w_s, grad_last)]),
            plus(times(w.value, grad_first), cross),
            times(w.value, grad_last),
        ]


Kind: TypeAlias = Taylor | Collapsed


# --- An activation ----------------------------------------------------------------------------------------------------


def derivatives(activation: Activation, z: Tensor, o: Tensor, order: int, by: Callable[..., Tensor]) -> list[Term]:
    """f′(z), f″(z), … up to the order; None where one is zero everywhere.

    Where f′ is a polynomial in o (sigmoid: o − o²), so is every derivative: each is the last one's derivative by o,
    times f′. They are computed as multiples of f′, which keeps their digits where f saturates. Elsewhere df, d2f and
    d3f are used as far as they go; `by` differentiates an elementwise function further.
    """
    if activation.slope is not None:
        slope, quotient = list(activation.slope), [1.0]
        first = evaluate(slope, o)
        found = [first]
        for _ in range(order - 1):
            quotient = added(multiplied(derived(quotient), slope), multiplied(quotient, derived(slope)))
            found.append(times(first, evaluate(quotient, o)))
        return found
    known = [function for function in (activation.df, activation.d2f, activation.d3f) if function is not None]
    values: list[Term] = []
    for function in known[:order]:
        if function is torch.zeros_like:  # f″ of relu
            return [*values, *[None] * (order - len(values))]
        values.append(function(o if activation.reads_output else z))
    last: Elementwise = activation.f
    if known:
        deepest = known[-1]
        last = (lambda z: deepest(activation.f(z))) if activation.reads_output else deepest
    while len(values) < order:
        last = differentiated(last, by)
        values.append(last(z))
    return values


def differentiated(function: Elementwise, by: Callable[..., Tensor]) -> Elementwise:
    return lambda z: by(function, z)


def by_autograd(function: Elementwise, z: Tensor) -> Tensor:
    """The derivative of an elementwise function, connected to z."""
    with torch.enable_grad():
        at = z if z.requires_grad else z.detach().requires_grad_()
        value = function(at)
        if not value.requires_grad:
            return torch.zeros_like(z)
        (found,) = torch.autograd.grad(value.sum(), at, create_graph=True, materialize_grads=True)
    return found if z.requires_grad else found.detach()


def by_transform(function: Elementwise, z: Tensor) -> Tensor:
    """The same by torch.func, which torch.compile and transforms look through."""
    pull: Any = torch.func.vjp(function, z)[1]
    return pull(torch.ones_like(z))[0]


def evaluate(polynomial: Sequence[float], o: Tensor) -> Term:
    """Σₙ cₙ oⁿ, by Horner's rule; None where it is zero."""
    *lower, value = list(polynomial) or [0.0]
    if not any(polynomial):
        return None
    found: Any = value
    for coefficient in reversed(lower):
        found = found * o + coefficient
    return found if isinstance(found, Tensor) else torch.full_like(o, found)


def derived(polynomial: Sequence[float]) -> list[float]:
    return [n * c for n, c in enumerate(polynomial)][1:]


def added(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip_longest(a, b, fillvalue=0.0)]


def multiplied(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """The coefficients of the product of two polynomials."""
    found = [0.0] * max(len(a) + len(b) - 1, 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            found[i + j] += x * y
    return found


# --- A network --------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """The series that the backward pass of one layer reads."""

    x: Series
    z: Series
    o: Series


def forward(
    kind: Kind,
    x: Series,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    by: Callable[..., Tensor] = by_autograd,
) -> list[Layer]:
    """All layers. Every operation is one of PyTorch's, out of place, and differentiable to any order."""
    layers: list[Layer] = []
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        z = Series(formulas.pre_activation(x.value, weight, bias), linear_terms(x, weight))
        layers.append(Layer(x, z, activate(kind, z, activation, by)))
        x = layers[-1].o
    return layers


def linear_terms(x: Series, weight: Tensor) -> list[Term]:
    """z_k = x_k Wᵀ: the terms of a linear layer, to which b adds nothing."""
    return [None if term is None else formulas.pre_activation(term, weight, None) for term in x.terms]


def activate(kind: Kind, z: Series, activation: Activation, by: Callable[..., Tensor] = by_autograd) -> Series:
    """o = f(z) of a series."""
    if formulas.slope_is_constant(activation):
        return z
    o = activation.f(z.value)
    return Series(o, kind.compose(derivatives(activation, z.value, o, kind.order, by), z))


def backward(
    kind: Kind,
    grads: Sequence[Term],
    layers: Sequence[Layer],
    weights: Sequence[Tensor],
    activations: Sequence[Activation],
    by: Callable[..., Tensor] = by_autograd,
) -> tuple[Term, list[Term], list[Term]]:
    """∂E/∂x, ∂E/∂W and ∂E/∂b of each layer, from ē of the output's value and terms.

    ∂E/∂W is the sum of δᵀ x over the value and all terms; b is added to the value alone.
    """
    weight_grads: list[Term] = [None] * len(weights)
    bias_grads: list[Term] = [None] * len(weights)
    for layer in range(len(weights) - 1, -1, -1):
        x, z, o = layers[layer]
        deltas = delta(kind, grads, z, o.value, activations[layer], by)
        weight_grads[layer] = total([weight_gradient(d, t) for d, t in zip(deltas, [x.value, *x.terms], strict=True)])
        bias_grads[layer] = None if deltas[0] is None else formulas.bias_gradient(deltas[0])
        grads = [None if each is None else each @ weights[layer] for each in deltas]
    return grads[0], weight_grads, bias_grads


def weight_gradient(delta: Term, x: Term) -> Term:
    """δᵀ x, summed over the directions; x may be the same for all rows: [R, 1, I]."""
    if delta is None or x is None:
        return None
    x = x.expand(*delta.shape[:-1], x.shape[-1])
    return formulas.weight_gradient(delta.reshape(-1, delta.shape[-1]), x.reshape(-1, x.shape[-1]))


def delta(
    kind: Kind,
    grads: Sequence[Term],
    z: Series,
    o: Tensor,
    activation: Activation,
    by: Callable[..., Tensor] = by_autograd,
) -> list[Term]:
    """δ of the value and of the terms from their ē: the transposed product with the series of f′(z)."""
    if formulas.slope_is_constant(activation):
        return list(grads)
    slope, *further = derivatives(activation, z.value, o, kind.order + 1, by)
    assert slope is not None
    return kind.transposed_product(Series(slope, kind.compose(further, z)), grads)
