"""The calculation for one sample written out in numbers, as in the article: forward, case 1, case 2, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchann.tracing.records import LayerTrace


class Section(NamedTuple):
    heading: str
    lines: list[str]


class Scope(NamedTuple):
    """How much of a layer is shown.

    Args:
        sample: the index of the sample.
        neurons: at most so many neurons of a layer: those with the largest |δ|.
        terms: at most so many terms of a sum: the largest; the others are added up.
        rate: η, the learning rate; None to write the letter η.
    """

    sample: int = 0
    neurons: int = 8
    terms: int = 8
    rate: float | None = None


def is_small(layers: Sequence[LayerTrace]) -> bool:
    """Whether there is a sample, and its whole calculation fits on a page or two."""
    scope, shapes = Scope(), [layer.weight.shape for layer in layers]
    is_all_shown = all(outputs <= scope.neurons and inputs <= scope.terms for outputs, inputs in shapes)
    return len(layers[0].x) > 0 and is_all_shown and sum(outputs for outputs, _ in shapes) <= 16


def example(layers: Sequence[LayerTrace], error: float, target: Any, scope: Scope | None = None) -> list[Section]:
    """The calculation for one sample. Samples and neurons are numbered from 1, as in the article.

    Args:
        layers: of the trace, from input to output.
        error: E of all samples.
        target: y of all samples.
        scope: how much is shown; None for the default, with the first sample.
    """
    scope = scope or Scope()
    above = [*layers[1:], None]
    return [
        *(Section(*forward(layer, scope)) for layer in layers),
        total_error(error, len(layers[-1].o), scope),
        *(backward(*pair, target, scope) for pair in reversed(list(zip(layers, above, strict=True)))),
        *(Section(f"Update of {layer.name}: gradient descent", list(update(layer, scope))) for layer in layers),
    ]


def as_text(sections: list[Section]) -> str:
    return "\n".join(line for heading, lines in sections for line in (heading, *(f"  {line}" for line in lines)))


def as_markdown(sections: list[Section]) -> str:
    return "\n\n".join(f"**{heading}**\n\n" + "\n".join(f"- `{line}`" for line in lines) for heading, lines in sections)


# --- The steps --------------------------------------------------------------------------------------------------------


def forward(layer: LayerTrace, scope: Scope) -> tuple[str, list[str]]:
    outputs, inputs = layer.weight.shape
    lines = []
    for j in shown(layer, scope):
        words = f"Σ_i w_{j + 1},i·x_i"
        total = sum_of_products(layer.weight[j], layer.x[scope.sample], scope)
        if layer.bias is not None:
            words, total = f"{words} + b_{j + 1}", f"{total} + {factor(layer.bias[j])}"
        lines += [
            f"z_{j + 1} = {words} = {total} = {number(layer.z[scope.sample, j])}",
            f"o_{j + 1} = {layer.activation.name}(z_{j + 1}) = {number(layer.o[scope.sample, j])}",
        ]
    return f"Forward, {layer.name}: {inputs} inputs, {neurons(outputs, len(lines) // 2)}", lines


def total_error(error: float, samples: int, scope: Scope) -> Section:
    lines = [f"E = {number(error)}"]
    for_what = "Error" if samples == 1 else f"Error of {samples} samples; below, sample {scope.sample + 1} of them"
    return Section(for_what, lines)


def backward(layer: LayerTrace, above: LayerTrace | None, target: Any, scope: Scope) -> Section:
    """δ and the gradients of a layer: case 1 at the output, case 2 below it."""
    n = scope.sample
    indices = shown(layer, scope)
    lines = []
    for j in indices:
        grad_output, slope, delta = (tensor[n, j].item() for tensor in (layer.grad_output, layer.slope, layer.delta))
        lines += [
            f"∂E/∂o_{j + 1} = {from_above(layer, above, j, target, scope)}{number(grad_output)}",
            f"δ_{j + 1} = ∂E/∂o_{j + 1}·f′(z_{j + 1}) = {factor(grad_output)}·{factor(slope)} = {number(delta)}",
            *gradients(layer, j, delta, scope),
        ]
    case = "Case 1" if above is None else "Case 2"
    return Section(f"{case}, {layer.name}: {neurons(len(layer.weight), len(indices))}", lines)


def from_above(layer: LayerTrace, above: LayerTrace | None, j: int, target: Any, scope: Scope) -> str:
    """The terms of ∂E/∂o in case 1 or case 2; empty for other losses, or if other modules follow the layer."""
    if above is None:
        samples = divisor_of_case_1(layer, target)
        if samples is None:
            return ""
        o, y = layer.o[scope.sample, j], as_rows(target)[scope.sample, j]
        words, numbers = f"o_{j + 1} − y_{j + 1}", f"{number(o)} − {factor(y)}"
        return f"{words} = {numbers} = " if samples == 1 else f"({words})/{samples} = ({numbers})/{samples} = "
    if above.weight.shape[1] != len(layer.weight) or not close(above.delta @ above.weight, layer.grad_output):
        return ""
    products = sum_of_products(above.delta[scope.sample], above.weight[:, j], scope)
    return f"Σ_l δ_l·w_l,{j + 1} = {products} = "


def divisor_of_case_1(layer: LayerTrace, target: Any) -> int | None:
    """1 if ∂E/∂o = o − y, N if ∂E/∂o = (o − y)/N, a mean over the samples; else None."""
    if not isinstance(target, Tensor) or target.dim() == 0 or as_rows(target).shape != layer.o.shape:
        return None
    difference = layer.o - as_rows(target).to(layer.o.dtype)  # PyTorch does not subtract booleans
    divisors = (divisor for divisor in (1, len(layer.o)) if close(layer.grad_output * divisor, difference))
    return next(divisors, None)


def gradients(layer: LayerTrace, j: int, delta: float, scope: Scope) -> Iterator[str]:
    part = "" if len(layer.x) == 1 else "this sample's part of "
    x = layer.x[scope.sample]
    for i in largest(x, scope.terms):
        product = f"{factor(delta)}·{factor(x[i])} = {number(delta * x[i].item())}"
        yield f"{part}∂E/∂w_{j + 1},{i + 1} = δ_{j + 1}·x_{i + 1} = {product}"
    if layer.bias is not None:
        yield f"{part}∂E/∂b_{j + 1} = δ_{j + 1} = {number(delta)}"


def update(layer: LayerTrace, scope: Scope) -> Iterator[str]:
    for j in shown(layer, scope):
        for i in largest(layer.x[scope.sample], scope.terms):
            yield descend(f"w_{j + 1},{i + 1}", layer.weight[j, i], layer.weight_gradient[j, i], scope)
        if layer.bias is not None:
            yield descend(f"b_{j + 1}", layer.bias[j], layer.bias_gradient[j], scope)


def descend(name: str, value: Tensor, gradient: Tensor, scope: Scope) -> str:
    step = f"{name} ← {name} − η·∂E/∂{name} = {number(value)} − "
    if scope.rate is None:
        return f"{step}η·{factor(gradient)}"
    return f"{step}{number(scope.rate)}·{factor(gradient)} = {number(value - scope.rate * gradient)}"


# --- What is shown, and how -------------------------------------------------------------------------------------------


def shown(layer: LayerTrace, scope: Scope) -> list[int]:
    """The indices of the neurons with the largest |δ| for the sample, in order."""
    return largest(layer.delta[scope.sample], scope.neurons)


def largest(values: Tensor, count: int) -> list[int]:
    """The indices of the largest |values|, in order."""
    if len(values) <= count:
        return list(range(len(values)))
    return sorted(values.abs().topk(count).indices.tolist())


def neurons(count: int, shown: int) -> str:
    all_of_them = f"{count} neuron" + ("s" if count > 1 else "")
    return all_of_them if shown == count else f"{shown} of {all_of_them}, with the largest |δ|"


def sum_of_products(a: Tensor, b: Tensor, scope: Scope) -> str:
    products = a * b
    indices = largest(products, scope.terms)
    terms = [f"{factor(a[i])}·{factor(b[i])}" for i in indices]
    if len(indices) < len(products):
        rest = products.sum().item() - products[indices].sum().item()
        terms.append(f"{factor(rest)} ({len(products) - len(indices)} smaller terms)")
    return " + ".join(terms)


def number(value: Tensor | float) -> str:
    text = f"{float(value):.4g}"
    return text.replace("-", "−")


def factor(value: Tensor | float) -> str:
    return f"({number(value)})" if math.copysign(1, float(value)) < 0 else number(value)


def as_rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def close(a: Tensor, b: Tensor) -> bool:
    """Whether a and b are equal up to rounding, relative to the largest value."""
    scale = torch.cat([a.flatten(), b.flatten()]).abs().max().item()
    return math.isfinite(scale) and bool(
        torch.allclose(a, b.to(a.dtype), rtol=0, atol=scale * torch.finfo(a.dtype).eps ** 0.75)
    )


# --- Large networks ---------------------------------------------------------------------------------------------------


def summary(layers: Sequence[LayerTrace], error: float) -> str:
    """A table with a line for each layer."""
    head = ("layer", "activation", "I → O", "mean o", "mean |δ|", "‖W‖", "‖∂E/∂W‖", "largest share")
    lines = [head, *(cells(layer) for layer in layers)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    samples = len(layers[0].x)
    title = f"E = {number(error)}, {samples} sample" + ("s" if samples != 1 else "")
    return "\n".join([title, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)])


def cells(layer: LayerTrace) -> tuple[str, ...]:
    outputs, inputs = layer.weight.shape
    busiest = int(layer.mean_delta.argmax())
    return (
        layer.name,
        layer.activation.name,
        f"{inputs} → {outputs}",
        number(layer.o.mean()),
        number(layer.delta.abs().mean()),
        number(layer.weight.norm()),
        number(layer.weight_gradient.norm()),
        f"neuron {busiest + 1}: {layer.share[busiest]:.0%}",
    )
