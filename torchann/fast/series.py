"""The series of `jets` in blocks of rows: all layers of a block before the next, its terms stacked in one product.

A stack is one tensor [T, n, ·]: the value of n rows, then their terms. So a linear layer is one product, and what a
block needs stays in the cache. On other devices than the CPU the whole batch is one block.

If f′ is a polynomial of degree 2 in o (sigmoid, tanh), the backward pass reads only the stack of outputs, which the
next layer's ∂E/∂W reads anyway. With p(o) = f′, p′ and p″ its derivatives by o, the series of f′(z) is

    w = p(o),  ẇ_r = p′ ȯ_r,  s_w = p′ s + p″ Σ c_r ȯ_r²,  w_k = p′ o_k + ½ p″ Σᵢ o_i o_{k−i}  (i = 1 … k − 1)

For other activations the stack of z is kept, and `jets.activate` and `jets.delta` compute their terms.
"""

# No `from __future__ import annotations`: torch.package can't load a dataclass whose annotations are strings.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchann import formulas, jets
from torchann.activations import Activation
from torchann.fast import products
from torchann.jets import Collapsed, Kind, Series, Term
from torchann.sweeps import Gradients, NeedsGrad, Optionals, there

BLOCK_BYTES = 5 << 19  # of the widest stack; measured on Zen 4 with 1 MiB of second-level cache a core, two cores
MIN_ROWS = 32


class Kept(NamedTuple):
    """What the backward pass reads of one layer in one block."""

    outputs: Tensor | None  # their stack [T, n, O]
    z: Series | None = None  # where f′ is not read from the outputs
    value: Tensor | None = None  # of the first layer: o alone, where its terms are cheaply computed again
    square: Tensor | None = None  # Σ c_r ż_r², where it takes many passes to compute it again


@dataclass(frozen=True)
class InBlocks:
    """One network and one kind of series."""

    kind: Kind
    directions: int  # R
    activations: Sequence[Activation]
    kernels: Any = None  # `series_triton` or `native.series`, where they run

    @property
    def height(self) -> int:
        """T: how many terms a stack has."""
        return 2 + self.directions if isinstance(self.kind, Collapsed) else 1 + self.kind.order * self.directions

    def terms(self, stack: Tensor) -> list[Tensor]:
        """The terms of a stack, as views: [R, n, ·] each; the collapsed one [n, ·]."""
        if isinstance(self.kind, Collapsed):
            return [stack[1:-1], stack[-1]]
        return list(stack[1:].view(self.kind.order, self.directions, *stack.shape[1:]))

    def rows(self, samples: int, weights: Sequence[Tensor]) -> int:
        """How many rows a block has: all blocks about as many."""
        if weights[0].device.type != "cpu":
            return samples or 1
        widest = max(weight.shape[0] for weight in weights)
        most = max(BLOCK_BYTES // (self.height * widest * weights[0].element_size()), MIN_ROWS)
        count = -(-samples // most)
        return -(-samples // max(count, 1)) or 1

    # --- Forward ------------------------------------------------------------------------------------------------------

    def forward(
        self, x: Series, weights: Sequence[Tensor], biases: Optionals, keep: bool
    ) -> tuple[Tensor, list[list[Kept]]]:
        """The stack of the output [T, N, O], and what the backward pass reads of each block."""
        samples = x.value.shape[0]
        output = x.value.new_empty(self.height, samples, weights[-1].shape[0])
        kept: list[list[Kept]] = []
        for start, block in blocks(x, self.rows(samples, weights)):
            stack, of_block = self.forward_block(block, weights, biases)
            output[:, start : start + stack.shape[1]] = stack
            if keep:
                kept.append(of_block)
        return output, kept

    def forward_block(self, x: Series, weights: Sequence[Tensor], biases: Optionals) -> tuple[Tensor, list[Kept]]:
        stack, kept = self.first_layer(x, weights[0], biases[0])
        for weight, bias, activation in zip(weights[1:], biases[1:], self.activations[1:], strict=True):
            kept.append(self.layer(self.product(stack, weight.t()), bias, activation))
            stack = there(kept[-1].outputs)
        if self.activations[-1] is IDENTITY:
            kept[-1] = Kept(None)
        return stack, kept

    def first_layer(self, x: Series, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, list[Kept]]:
        """The input's terms may be zero, or the same for all rows: then one row of them is enough."""
        z = Series(formulas.pre_activation(x.value, weight, bias), jets.linear_terms(x, weight))
        stack = x.value.new_empty(self.height, *z.value.shape)
        kept = self.activate(z, stack, self.activations[0])
        if is_quadratic(self.activations[0]) and all(term is None or term.shape[-2] == 1 for term in x.terms):
            kept = Kept(None, value=stack[0].clone())
        return stack, [kept]

    def layer(self, z_stack: Tensor, bias: Tensor | None, activation: Activation) -> Kept:
        """The stack of outputs, from that of z, to whose value b has yet to be added."""
        if self.has_kernels(activation):
            self.kernels.activate_(z_stack, bias, self.kind, activation)
            return Kept(z_stack)
        if bias is not None:
            z_stack[0] += bias
        if activation is IDENTITY:
            return Kept(z_stack)
        in_place = is_quadratic(activation) and isinstance(self.kind, Collapsed)
        stack = z_stack if in_place else torch.empty_like(z_stack)
        return self.activate(Series(z_stack[0], self.terms(z_stack)), stack, activation)

    def has_kernels(self, activation: Activation) -> bool:
        return self.kernels is not None and activation in self.kernels.CODES

    def computed_again(self, kept: Kept, x: Series, weight: Tensor) -> Kept:
        """The first layer's stack, from o and the input's terms."""
        if kept.value is None:
            return kept
        stack = kept.value.new_empty(self.height, *kept.value.shape)
        stack[0] = kept.value
        return Kept(stack, square=self.activate_terms(jets.linear_terms(x, weight), stack, self.activations[0]))

    def product(self, stack: Tensor, matrix: Tensor) -> Tensor:
        """One product over all rows of all terms."""
        height, rows, width = stack.shape
        return products.pre_activation(stack.view(height * rows, width), matrix.t()).view(height, rows, matrix.shape[1])

    def activate(self, z: Series, stack: Tensor, activation: Activation) -> Kept:
        """Fill the stack, which may be that of z, with o and its terms."""
        if not is_quadratic(activation):
            self.fill(stack, jets.activate(self.kind, z, activation))
            return Kept(stack, None if activation is IDENTITY else z)
        activation.f(z.value, out=stack[0])  # type: ignore[call-arg]
        return Kept(stack, square=self.activate_terms(z.terms, stack, activation))

    def activate_terms(self, z: Sequence[Term], stack: Tensor, activation: Activation) -> Tensor | None:
        """Fill in the terms behind o. Returns Σ c_r ż_r² if the backward pass will read it."""
        if self.has_kernels(activation):
            self.fill_terms(stack, z)
            self.kernels.activate_terms_(stack, self.kind, activation)
            return None
        slope = polynomial(activation, stack[0])
        if isinstance(self.kind, Collapsed):
            return activate_collapsed(self.kind, z, stack[1:], slope)
        activate_taylor(z, self.terms(stack), slope)
        return None

    # --- Backward -----------------------------------------------------------------------------------------------------

    def backward(
        self,
        grad_output: Tensor,
        x: Series,
        weights: Sequence[Tensor],
        kept: list[list[Kept]],
        needs: NeedsGrad,
    ) -> Gradients:
        """∂E/∂x, ∂E/∂W and ∂E/∂b of each layer from ∂E/∂ of the output's stack [T, N, O]. Empties `kept`."""
        weight_grads = [
            torch.zeros_like(weight) if needed else None for weight, needed in zip(weights, needs.weights, strict=True)
        ]
        bias_grads = [
            weight.new_zeros(weight.shape[0]) if needed else None
            for weight, needed in zip(weights, needs.biases, strict=True)
        ]
        x_grad = torch.empty_like(x.value) if needs.x else None
        for start, block in blocks(x, self.rows(x.value.shape[0], weights)):
            of_block = kept.pop(0)
            if needs.lowest <= 1:  # δ of the first layer, or ∂E/∂W of the second, reads it
                of_block[0] = self.computed_again(of_block[0], block, weights[0])
            grads = grad_output[:, start : start + block.value.shape[0]].clone(memory_format=torch.contiguous_format)
            for layer in range(len(weights) - 1, needs.lowest - 1, -1):
                self.delta_(grads, of_block.pop(), self.activations[layer])
                bias_grad, weight_grad = bias_grads[layer], weight_grads[layer]
                if bias_grad is not None:
                    bias_grad += formulas.bias_gradient(grads[0])
                if weight_grad is not None and layer:
                    weight_grad.addmm_(grads.flatten(0, 1).t(), there(of_block[-1].outputs).flatten(0, 1))
                elif weight_grad is not None:
                    self.add_first_weight_gradient(weight_grad, grads, block)
                if layer > needs.lowest:
                    grads = self.product(grads, weights[layer])
            if x_grad is not None:
                x_grad[start : start + len(block.value)] = formulas.input_gradient(grads[0], weights[0])
        return Gradients(x_grad, weight_grads, bias_grads)

    def add_first_weight_gradient(self, weight_grad: Tensor, deltas: Tensor, x: Series) -> None:
        weight_grad.addmm_(deltas[0].t(), x.value)
        for delta, term in zip(self.terms(deltas), x.terms, strict=True):
            if term is None:
                continue
            if term.shape[-2] == 1 and delta.shape[-2] != 1:  # the same for all rows
                delta = delta.sum(-2, keepdim=True)
            weight_grad.addmm_(delta.reshape(-1, delta.shape[-1]).t(), term.reshape(-1, term.shape[-1]))

    def delta_(self, grads: Tensor, kept: Kept, activation: Activation) -> None:
        """Write δ of the value and of the terms over their ē."""
        if activation is IDENTITY:
            return
        outputs = there(kept.outputs)
        if not is_quadratic(activation):
            assert kept.z is not None
            value, *terms = jets.delta(self.kind, [grads[0], *self.terms(grads)], kept.z, outputs[0], activation)
            self.fill(grads, Series(there(value), terms))
            return
        if self.has_kernels(activation):
            self.kernels.delta_(grads, outputs, self.kind, activation)
            return
        slope = polynomial(activation, outputs[0])
        if isinstance(self.kind, Collapsed):
            delta_collapsed(self.kind, grads, outputs, slope, kept.square)
        else:
            delta_taylor(grads[0], self.terms(grads), self.terms(outputs), slope)

    def fill(self, stack: Tensor, series: Series) -> None:
        """Copy a series into a stack."""
        stack[0] = series.value
        self.fill_terms(stack, series.terms)

    def fill_terms(self, stack: Tensor, terms: Sequence[Term]) -> None:
        for place, term in zip(self.terms(stack), terms, strict=True):
            if term is None:
                place.zero_()
            else:
                place.copy_(term)


IDENTITY = formulas.IDENTITY


def blocks(x: Series, rows: int) -> Iterator[tuple[int, Series]]:
    """Consecutive rows of the input's series, with the number of the first."""
    samples = x.value.shape[0]
    for start in range(0, samples or 1, rows):
        part = slice(start, start + rows)
        terms = [term if term is None or term.shape[-2] == 1 else term[..., part, :] for term in x.terms]
        yield start, Series(x.value[part], terms)


# --- f′ a polynomial of degree 2 in o ---------------------------------------------------------------------------------


class Slope(NamedTuple):
    """p(o) = f′(z); p′(o) = factor · base, which for tanh, −2 o, takes no pass over memory; and p″, a number."""

    value: Tensor
    base: Tensor
    factor: float
    second: float


def is_quadratic(activation: Activation) -> bool:
    return activation.slope is not None and len(activation.slope) == 3


def polynomial(activation: Activation, o: Tensor) -> Slope:
    """p = c₀ + c₁ o + c₂ o² and its derivatives."""
    assert activation.slope is not None
    constant, linear, square = activation.slope
    start = o * linear if linear else o.new_tensor(constant)
    value = torch.addcmul(start, o, o, value=square)
    if linear and constant:
        value.add_(constant)
    base = torch.add(o.new_tensor(linear), o, alpha=2 * square) if linear else o
    return Slope(value, base, 1.0 if linear else 2 * square, 2 * square)


FEW = 8  # directions up to which a pass for each is faster than a product over all of them, which is then added up


def weighted_sum(kind: Collapsed | None, a: Tensor, b: Tensor) -> Tensor:
    """Σ_r c_r a_r b_r, or Σ_qr C_qr a_q b_r  [n, ·]; with a kind of None, Σ_r a_r b_r."""
    if kind is not None and kind.coefficients.dim() == 2:
        return kind.weighted_square(a, b)
    weights = [1.0] * len(b) if kind is None else kind.weights
    found: Tensor | None = None
    if sum(map(bool, weights)) <= FEW:
        for weight, left, right in zip(weights, a, b, strict=True):
            if not weight:
                continue
            if found is None:
                found = torch.mul(left, right) if weight == 1 else torch.mul(left, right).mul_(weight)
            else:
                found.addcmul_(left, right, value=weight)
        return torch.zeros_like(b[0]) if found is None else found
    product = a * b
    return product.sum(0) if set(weights) == {1.0} else torch.tensordot(product.new_tensor(weights), product, 1)


def has_few_squares(kind: Collapsed) -> bool:
    """Whether backward computes Σ c_r ȯ_r² again. From three terms on, that takes more time than keeping it saves."""
    return kind.coefficients.dim() == 1 and sum(map(bool, kind.weights)) <= 2


def activate_collapsed(kind: Collapsed, z: Sequence[Term], o: Tensor, slope: Slope) -> Tensor | None:
    """ȯ_r = p ż_r,  s_o = p (s_z + p′ Σ c_r ż_r²).  o, the stack [R + 1, n, ·] of the results, may be that of z.

    Returns Σ c_r ż_r² if `delta_collapsed` needs it.
    """
    first, last = there(z[0]), z[1]
    square = weighted_sum(kind, first, first)
    if last is None:
        torch.mul(square * slope.factor, slope.base, out=o[-1])
    else:
        torch.addcmul(last, slope.base, square, value=slope.factor, out=o[-1])
    torch.mul(first, slope.value, out=o[:-1])
    o[-1].mul_(slope.value)
    return None if has_few_squares(kind) else square


def delta_collapsed(kind: Collapsed, grads: Tensor, o: Tensor, slope: Slope, square: Tensor | None) -> None:
    """δ = p ē + p′ (Σ ȯ_r ē_r + s ē_s) + p″ Σ c_r ȯ_r² ē_s,  δ_r = p ē_r + 2 c_r p′ ȯ_r ē_s,  δ_s = p ē_s

    In place, over the stack of ē. square: Σ c_r ż_r², by which Σ c_r ȯ_r² = p² Σ c_r ż_r².
    """
    first, grad, grad_first, grad_last = o[1:-1], grads[0], grads[1:-1], grads[-1]
    cross = weighted_sum(None, o[1:], grads[1:])
    if square is None:
        products = [(r, weight, torch.mul(first[r], grad_last)) for r, weight in enumerate(kind.weights) if weight]
        grads.mul_(slope.value)
        for r, weight, product in products:
            grad.addcmul_(first[r], product, value=slope.second * weight)
            grad_first[r].addcmul_(product, slope.base, value=2 * slope.factor * weight)
    else:
        scaled = slope.base * grad_last
        grads.mul_(slope.value)
        squares = (slope.value * square).mul_(grad_last)  # δ_s = p ē_s by now
        grad.add_(squares, alpha=slope.second)
        if kind.is_laplacian:
            grad_first.addcmul_(first, scaled, value=2 * slope.factor)
        else:
            grad_first.addcmul_(kind.scaled(first), scaled, value=2 * slope.factor)
    grad.addcmul_(cross, slope.base, value=slope.factor)


def activate_taylor(z: Sequence[Term], o: Sequence[Tensor], slope: Slope) -> None:
    """o_k = Σⱼ (j / k) z_j w_{k−j}"""
    w: list[Tensor] = [slope.value]
    for k in range(1, len(o) + 1):
        found, term = o[k - 1], z[k - 1]
        if term is None:
            found.zero_()
        else:
            torch.mul(term, slope.value, out=found)
        for j in range(1, k):
            earlier = z[j - 1]
            if earlier is not None:
                found.addcmul_(earlier.expand_as(found), w[k - j], value=j / k)
        if k < len(o):
            w.append(slope_term(o, slope, k))


def slope_term(o: Sequence[Tensor], slope: Slope, k: int) -> Tensor:
    """w_k = p′ o_k + ½ p″ Σᵢ o_i o_{k−i}"""
    found = slope.base * o[k - 1]
    if slope.factor != 1:
        found.mul_(slope.factor)
    for i in range(1, k):
        found.addcmul_(o[i - 1], o[k - i - 1], value=slope.second / 2)
    return found


def delta_taylor(grad: Tensor, grads: Sequence[Tensor], o: Sequence[Tensor], slope: Slope) -> None:
    """δ = p ē + Σ_r Σ_k w_k ē_k,  δ_j = Σ_k w_{k−j} ē_k"""
    w = [slope.value, *(slope_term(o, slope, k) for k in range(1, len(o) + 1))]
    grad.mul_(slope.value)
    for k, each in enumerate(grads, start=1):
        grad.add_((w[k] * each).sum(0))
    for j, each in enumerate(grads, start=1):  # each reads itself and later ones
        each.mul_(slope.value)
        for k in range(j + 1, len(grads) + 1):
            each.addcmul_(w[k - j], grads[k - 1])
