"""Finds what is wrong in a backward pass, and says it in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchann.tracing import Disagreement, LayerTrace, Trace

FLAT = 0.05  # a neuron is saturated if its mean |f′| is below this part of the largest |f′|
MANY = 0.5  # a layer is reported if at least this share of its neurons is saturated, stuck or dead
FAR_APART = 1e3  # the ratio between the mean |δ| of two layers from which it is reported


class Problem(NamedTuple):
    """A warning.

    Args:
        cause: its kind, and the layer; the monitor warns once for each cause.
        words: what is wrong and what helps, in one line.
    """

    cause: tuple[str, str]
    words: str


def problems(trace: Trace) -> list[Problem]:
    """What is wrong, if anything. If a number is not finite, only that: everything else follows from it."""
    flat = [
        *(problem for layer in trace.layers[:-1] for problem in saturated(layer)),
        *(problem for layer in trace.layers for problem in dead(layer)),
    ]
    return list(not_finite(trace)) or [
        *(flat or stuck(trace)),  # a flat layer makes the outputs stuck: report one of the two
        *far_apart(trace.layers),
    ]


def not_finite(trace: Trace) -> Iterator[Problem]:
    """The first layer with a value that is not finite: in the forward pass, then in the backward pass."""
    for layer in trace.layers:
        for what, tensor in (("weights", layer.weight), ("outputs", layer.o)):
            if not tensor.isfinite().all():
                yield said_of_not_finite(layer, what)
                return
    for layer in reversed(trace.layers):
        if not layer.delta.isfinite().all():
            yield said_of_not_finite(layer, "error signals δ")
            return


def said_of_not_finite(layer: LayerTrace, what: str) -> Problem:
    return Problem(
        ("not finite", ""), f"{layer.name}: {what} are no longer finite: lower learning rate or clipped gradients"
    )


def saturated(layer: LayerTrace) -> Iterator[Problem]:
    """For hidden layers. An output layer saturates when it reaches targets of 0 and 1; see `stuck`."""
    part = fraction(is_saturated(layer) & ~is_silent(layer))
    if part >= MANY:
        yield Problem(
            ("saturated", layer.name),
            f"{layer.name}: {part:.0%} of units saturated: smaller initial weights or lower learning rate",
        )


def stuck(trace: Trace) -> Iterator[Problem]:
    """Outputs that are saturated at the same end for every sample, although their targets are at both ends."""
    layer, y = trace.layers[-1], trace.target
    if not (
        isinstance(y, Tensor) and isinstance(trace.output, Tensor) and y.shape == trace.output.shape == layer.o.shape
    ):
        return
    middle = (y.max() + y.min()) / 2
    changes = varies(y > middle)
    part = fraction((is_saturated(layer) & ~varies(layer.o > middle))[changes]) if changes.any() else 0
    if part >= MANY:
        yield Problem(
            ("stuck", layer.name),
            f"{layer.name}: {part:.0%} of the output units stuck, saturated at one end for every sample: "
            "lower learning rate or smaller initial weights",
        )


def dead(layer: LayerTrace) -> Iterator[Problem]:
    part = fraction(is_saturated(layer) & is_silent(layer))
    if part >= MANY:
        yield Problem(
            ("dead", layer.name),
            f"{layer.name}: {part:.0%} of units dead, with output 0 for every sample: lower learning rate, "
            "or biases that start above 0",
        )


def far_apart(layers: Sequence[LayerTrace]) -> Iterator[Problem]:
    """Hidden layers whose mean |δ| is far from the output layer's; names the one that is farthest."""
    *hidden, last = [(layer.delta.abs().mean().item(), layer.name) for layer in layers]
    if not hidden or last[0] == 0:
        return
    for kind, advice, (mean, name) in (
        ("vanishing", "other initial weights, fewer layers, or an activation with a steeper slope", min(hidden)),
        ("exploding", "smaller initial weights or clipped gradients", max(hidden)),
    ):
        ratio = mean / last[0]
        if (ratio < 1 / FAR_APART) if kind == "vanishing" else (ratio > FAR_APART):
            words = f"{name}: {kind} error signal, mean |δ| is {ratio:.1g} times that of {last[1]}: {advice}"
            yield Problem((kind, ""), words)


def disagreeing(trace: Trace, disagreement: Disagreement) -> Iterator[Problem]:
    """Gradients that differ by more than ε^¼: rounding is far below that, and a wrong formula far above it."""
    if any(not_finite(trace)):
        return  # `problems` reports that
    last = trace.layers[-1]
    eps = torch.finfo(last.o.dtype).eps
    if last.grad_output.norm() <= eps**0.5 * last.o.norm():
        return  # there is almost no error: o − y consists of rounding
    apart = {name: difference for name, difference in disagreement.gradients.items() if not difference <= eps**0.25}
    if apart and not disagreement.is_repeatable:
        yield Problem(
            ("not repeatable", ""),
            "the forward pass gives other values each time for the same samples, so gradients can't be compared with "
            "autograd's: keep its state in buffers, and take random numbers from PyTorch",
        )
        return
    for name, difference in apart.items():
        yield Problem(
            ("disagreement", name),
            f"{name}: the hand-derived gradient is {difference:.1%} off autograd's: "
            "check the activation's derivative with torchann.verify",
        )


# --- Neurons ----------------------------------------------------------------------------------------------------------


def is_saturated(layer: LayerTrace) -> Tensor:
    return layer.flatness > 1 - FLAT


def varies(which: Tensor) -> Tensor:
    """[N, O] to [O]: whether it is true for some samples but not for all."""
    return which.any(0) & ~which.all(0)


def is_silent(layer: LayerTrace) -> Tensor:
    """Whether the output is 0 for every sample, as of a dead relu, [O]."""
    return (layer.o == 0).all(0)


def has_no_gradient(layer: LayerTrace) -> Tensor:
    return (layer.delta == 0).all(0)


def fraction(neurons: Tensor) -> float:
    return neurons.double().mean().item()
