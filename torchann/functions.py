"""The autograd Functions: what is saved, what is needed, and which sweep answers. The mathematics is in `sweeps`.

One Function is a whole network; a single layer is a network of depth one. Beside its output o it returns a tensor
`kept` for each layer, which in the graph stands for z: its cotangent is that of z (ζ in the formulas) and so is its
tangent, although its values may be those of o = f(z), from which f′ and f″ are read. That gives a double backward
a place to put ζ, and z itself need not be stored. `OutputOf` turns such a tensor into o where derivatives are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from torchann import formulas, kernels, native, small, sweeps
from torchann.activations import Activation
from torchann.dispatch import choose, choose_compiled
from torchann.modes import forward_mode_on, is_batched, plain, transforming
from torchann.sweeps import Operands, Optionals, Signals, Wanted, blank


def network(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    checkpoint: int | None = None,
) -> Tensor:
    """The output [N, O] of the layers for x [N, I]; `checkpoint` is a matter of memory, in plain autograd alone."""
    if not plain():
        if not torch.compiler.is_compiling():
            return Network.apply(x, *weights, *biases, *activations, sweeps)[0]
        if transforming():  # Dynamo refuses a Function here, and differentiates the plain formulas instead
            return sweeps.forward(x, weights, biases, activations)[0]
        return CompiledNetwork.apply(x, *weights, *biases, *activations)
    implementation = choose(x, weights, activations)
    if not torch.is_grad_enabled():
        return implementation.forward(x, weights, biases, activations, keep=False)[0]
    if checkpoint:
        return CheckpointedNetwork.apply(x, *weights, *biases, *activations, implementation, checkpoint)
    if implementation is small and native.suit(activations):
        return native.network(x, weights, biases, activations)
    if x.requires_grad:
        return Network.apply(x, *weights, *biases, *activations, implementation)[0]
    return PlainNetwork.apply(x, activations, implementation, *weights, *biases)


class LeanFunction(Function):
    """A Function whose `apply` skips what `Function.apply` does in Python where no torch.func transform is at work.

    It binds default arguments anew in every call, which takes longer than a small layer; ours have none.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        return super().apply(*args) if transforming() else super(Function, cls).apply(*args)  # type: ignore[misc]


class Network(LeanFunction):
    """x, W₁ … W_L, b₁ … b_L, f₁ … f_L, implementation → o, kept₁ … kept_L"""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *layers_and_implementation: Any) -> tuple[Tensor, ...]:
        *layers, implementation = layers_and_implementation
        output, kept = implementation.forward(x, *split(layers, 3))
        if kept[-1] is output:
            kept[-1] = output.detach()  # the same memory as a node of its own
        return output, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors_and_rows, ctx.implementation = inputs
        depth = len(tensors_and_rows) // 3
        tensors, ctx.activations = inputs[: 1 + 2 * depth], inputs[1 + 2 * depth : -1]
        ctx.present = present(tensors)
        ctx.save_for_backward(*tensors[: 1 + depth], *output[1:])
        ctx.set_materialize_grads(False)
        if ctx.implementation is sweeps:  # as always where forward mode may be at work
            ctx.save_for_forward(*tensors[: 1 + depth], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *zetas: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        activations = ctx.activations
        depth = len(activations)
        weights, kept = saved[:depth], saved[depth:]
        is_plain = plain() and not is_batched(grad_output)
        wanted = as_wanted(needed(ctx, ctx.needs_input_grad[: 1 + 2 * depth], is_plain))
        if is_plain and not torch.is_grad_enabled():
            del saved
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
            signals = ctx.implementation.backward(grad_output, zetas, x, weights, kept, activations, wanted)
            gradients = (signals.x, *signals.weights, *signals.biases)
        elif is_plain and all(activation.d2f for activation in activations):
            gradients = NetworkBackward.apply(x, grad_output, *zetas, *weights, *kept, activations, wanted)
        else:
            kept = reveal(kept, activations)
            signals = sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
            gradients = (signals.x, *signals.weights, *signals.biases)
        return *gradients[: 1 + 2 * depth], *[None] * (depth + 1)  # none for the activations and the implementation

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, *layer_dots: Tensor | None) -> tuple[Tensor, ...]:
        x, *saved = primals(ctx)
        weights, kept = split(saved, 2)
        weight_dots, bias_dots, _ = split(layer_dots[:-1], 3)
        with forward_mode_on():
            revealed = reveal(kept, ctx.activations)
            output_dot, z_dots = sweeps.tangent(x_dot, weight_dots, bias_dots, x, weights, revealed, ctx.activations)
        dots = [torch.zeros_like(s) if t is None else t for s, t in zip(kept, z_dots, strict=True)]
        return torch.zeros_like(kept[-1]) if output_dot is None else output_dot, *dots


class NetworkBackward(Function):
    """x, ē, ζ₁ …, W₁ …, kept₁ … → ∂E/∂x, every ∂E/∂W, every ∂E/∂b; and each layer's δ and ē, for third derivatives

    Runs in ordinary autograd alone; under other transforms `Network.backward` is differentiated operation by operation.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        x, grad_output, *tensors, ctx.activations, wanted = arguments
        zetas, weights, kept = split(tensors, 3)
        signals = sweeps.backward(grad_output, zetas, x, weights, kept, ctx.activations, wanted, keep_signals=True)
        # Every output a tensor of its own, also where δ is ē, and none of them an input: each is a node in the graph.
        deltas = [None if delta is None else delta.detach() for delta in signals.deltas]
        errors = [*signals.errors[:-1], None]
        ctx.present = present(arguments[:-2])
        ctx.save_for_backward(x, *weights, *kept, *deltas, *errors[:-1], grad_output)
        ctx.set_materialize_grads(False)
        return signals.x, *signals.weights, *signals.biases, *deltas, *errors

    @staticmethod
    def backward(ctx: Any, x_cotangent: Tensor | None, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        weights, kept, deltas, errors = split(saved, 4)
        del saved
        is_plain = plain()
        if torch.is_grad_enabled() or not is_plain:
            kept = reveal(kept, ctx.activations)
        else:
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
        x_needed, grad_output_needed, *others_needed = needed(ctx, ctx.needs_input_grad[:-2], is_plain)
        wanted = Operands(x_needed, grad_output_needed, *split(others_needed, 3))
        of_signals = Signals(x_cotangent, *split(cotangents, 4))
        to = sweeps.double_backward(of_signals, deltas, errors, x, weights, kept, ctx.activations, wanted)
        return to.x, to.grad_output, *to.zetas, *to.weights, *to.z, None, None


class OutputOf(LeanFunction):
    """kept → o, by values the same where f′ reads o. Its derivative is f′, since kept stands for z."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kept: Tensor, activation: Activation) -> Tensor:
        return kept.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        kept, ctx.activation = inputs
        ctx.save_for_backward(kept)
        ctx.save_for_forward(kept)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kernels.delta(grad_output, OutputOf.apply(kept, ctx.activation), ctx.activation), None

    @staticmethod
    def jvp(ctx: Any, kept_dot: Tensor, _: None) -> Tensor:
        (kept,) = primals(ctx)
        with forward_mode_on():
            return kernels.delta(kept_dot, OutputOf.apply(kept, ctx.activation), ctx.activation)


class CompiledNetwork(Function):
    """`Network` as Dynamo takes it: no jvp, and no outputs for derivatives that a compiled backward does not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Any) -> Tensor:
        weights, biases, ctx.activations = split(layers, 3)
        output, kept = choose_compiled(x, weights, ctx.activations).forward(x, weights, biases, ctx.activations)
        ctx.save_for_backward(x, *weights, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        weights, kept = split(saved, 2)
        wanted = as_wanted(ctx.needs_input_grad[: 1 + 2 * len(weights)])
        none = [None] * len(weights)
        backward = choose_compiled(x, weights, ctx.activations).backward
        signals = backward(grad_output, none, x, weights, list(kept), ctx.activations, wanted)
        return signals.x, *signals.weights, *signals.biases, *none


class PlainNetwork(LeanFunction):
    """`Network` where x needs no gradient: a second derivative is then rare enough to build `Network` anew for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activations: Sequence[Activation], implementation: Any, *layers: Any) -> Tensor:
        depth = len(activations)
        output, kept = implementation.forward(x, layers[:depth], layers[depth:], activations)
        ctx.activations, ctx.implementation, ctx.present = activations, implementation, present((x, *layers))
        ctx.save_for_backward(x, *layers, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        activations = ctx.activations
        depth = len(activations)
        weights, biases, kept = saved[:depth], saved[depth : 2 * depth], saved[2 * depth :]
        is_plain = plain() and not is_batched(grad_output)
        wanted = as_wanted(needed(ctx, (False, *ctx.needs_input_grad[3:]), is_plain))
        if torch.is_grad_enabled() or not is_plain:
            gradients = differentiable_gradients(grad_output, x, weights, biases, activations, wanted)
            return None, None, None, *gradients[1:]
        del saved
        ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
        signals = ctx.implementation.backward(grad_output, blank(depth), x, weights, kept, activations, wanted)
        return None, None, None, *signals.weights, *signals.biases


class CheckpointedNetwork(LeanFunction):
    """`Network` in less memory: it keeps what every k-th layer gives the next, and computes the rest anew in backward.

    Where more than plain gradients is asked for, backward builds `Network` anew and leaves it to that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers_and_how: Any) -> Tensor:
        *layers, ctx.implementation, ctx.k = layers_and_how
        weights, biases, ctx.activations = split(layers, 3)
        received = []  # by the first layer of each segment
        output = x
        for segment in segments(len(weights), ctx.k):
            received.append(output)
            output, _ = ctx.implementation.forward(
                output, weights[segment], biases[segment], ctx.activations[segment], keep=False
            )
        ctx.present = present((x, *weights, *biases))
        ctx.save_for_backward(x, *weights, *biases, *received[1:])
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        depth = len(ctx.activations)
        x, *saved = ctx.saved_tensors
        weights, biases, received = saved[:depth], saved[depth : 2 * depth], [x, *saved[2 * depth :]]
        is_plain = plain() and not is_batched(grad_output)
        wanted = as_wanted(needed(ctx, ctx.needs_input_grad[: 1 + 2 * depth], is_plain))
        none = [None] * (depth + 2)  # no gradient for the activations, the implementation and k
        if grad_output is None:
            return None, *blank(depth), *blank(depth), *none
        if torch.is_grad_enabled() or not is_plain:
            return *differentiable_gradients(grad_output, x, weights, biases, ctx.activations, wanted), *none
        weight_grads, bias_grads = blank(depth), blank(depth)
        error: Tensor | None = grad_output
        for segment, x in reversed(list(zip(segments(depth, ctx.k), received, strict=True))):
            if segment.stop <= wanted.lowest:
                break
            _, kept = ctx.implementation.forward(x, weights[segment], biases[segment], ctx.activations[segment])
            x_wanted = wanted.x if segment.start == 0 else segment.start > wanted.lowest
            within = Wanted(x_wanted, wanted.weights[segment], wanted.biases[segment])
            signals = ctx.implementation.backward(
                error, blank(len(kept)), x, weights[segment], kept, ctx.activations[segment], within
            )
            error, weight_grads[segment], bias_grads[segment] = signals.x, signals.weights, signals.biases
        return error if wanted.x else None, *weight_grads, *bias_grads, *none


def segments(depth: int, k: int) -> list[slice]:
    """The layers, k at a time."""
    return [slice(start, min(start + k, depth)) for start in range(0, depth, k)]


def differentiable_gradients(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    wanted: Wanted,
) -> list[Tensor | None]:
    """∂E/∂x, ∂E/∂W, ∂E/∂b by way of a `Network` made here, as functions that can be differentiated again."""
    inputs = [x, *weights, *biases]
    flags = [wanted.x, *wanted.weights, *wanted.biases]
    with torch.enable_grad():
        output, *_ = Network.apply(x, *weights, *biases, *activations, sweeps)
    asked = [tensor for tensor, flag in zip(inputs, flags, strict=True) if flag and tensor is not None]
    found = iter(
        torch.autograd.grad(output, asked, grad_output, create_graph=torch.is_grad_enabled(), allow_unused=True)
    )
    return [next(found) if flag else None for flag in flags]


Reduction: TypeAlias = Literal["mean", "sum", "none"]


def half_squared_error(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """E [*] for o and y [*, K], or its mean or sum."""
    if not torch.compiler.is_compiling():
        return HalfSquaredError.apply(output, target, reduction)
    if transforming():
        return HalfSquaredError.forward(output, target, reduction)
    return CompiledHalfSquaredError.apply(output, target, reduction)


class CompiledHalfSquaredError(Function):
    """`HalfSquaredError` as Dynamo takes it: no jvp."""

    @staticmethod
    def forward(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
        return reduced(formulas.half_squared_error(output, target), reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Reduction], _: Tensor) -> None:
        output, target, ctx.reduction = inputs
        ctx.save_for_backward(output, target)
        ctx.save_for_forward(output, target)

    @staticmethod
    def backward(ctx: Any, grad_error: Tensor) -> tuple[Tensor | None, ...]:
        output, target = ctx.saved_tensors
        if ctx.reduction == "none":
            grad_error = grad_error.unsqueeze(-1)
        elif ctx.reduction == "mean":
            grad_error = grad_error / output.shape[:-1].numel()
        gradient = grad_error * formulas.half_squared_error_gradient(output, target)
        output_needs, target_needs, _ = ctx.needs_input_grad
        return gradient if output_needs else None, -gradient if target_needs else None, None


class HalfSquaredError(LeanFunction, CompiledHalfSquaredError):
    """o, y → E. Its backward is a product of its inputs, so autograd differentiates it further."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, output_dot: Tensor, target_dot: Tensor, _: None) -> Tensor:
        output, target = primals(ctx)
        with forward_mode_on():
            errors_dot = formulas.half_squared_error_tangent(output, target, output_dot, target_dot)
            return reduced(errors_dot, ctx.reduction)


def reduced(errors: Tensor, reduction: Reduction) -> Tensor:
    return errors if reduction == "none" else errors.mean() if reduction == "mean" else errors.sum()


def reveal(kept: Sequence[Tensor], activations: Sequence[Activation]) -> list[Tensor]:
    """What f′ and f″ read, as a function of z in the graph."""
    return [
        OutputOf.apply(s, activation) if activation.reads_output else s
        for s, activation in zip(kept, activations, strict=True)
    ]


def split(tensors: Sequence[Any], parts: int) -> list[Any]:
    """Consecutive parts of equal length."""
    size = len(tensors) // parts
    return [tensors[part * size : (part + 1) * size] for part in range(parts)]


def as_wanted(needs: Sequence[bool]) -> Wanted:
    """From what is needed of (x, W₁ … W_L, b₁ … b_L)."""
    depth = len(needs) // 2
    return Wanted(needs[0], needs[1 : 1 + depth], needs[1 + depth :])


def primals(ctx: Any) -> list[Tensor]:
    """What was saved, without its tangents: a jvp is a function of both, and is given the tangents apart."""
    return [forward_ad.unpack_dual(saved).primal for saved in ctx.saved_tensors]


def present(arguments: Sequence[Any]) -> list[bool]:
    """Which of the tensors that a Function takes are there: those have an edge in the graph."""
    return [argument is not None for argument in arguments]


def needed(ctx: Any, needs: Sequence[bool], is_plain: bool) -> Sequence[bool]:
    """`ctx.needs_input_grad` of the tensors, less what a plain backward call was not asked for.

    `autograd.grad(o, x)` runs this node for x alone, but a Function written in Python is not told so
    (https://github.com/pytorch/pytorch/issues/56500). The engine knows: it will not run the nodes of the others.
    x, the first argument, is asked after by itself. Of the others, if the next is wanted, all are taken to be: to ask
    for each would cost a small network more than it saves.
    """
    if not is_plain:
        return needs
    edges = ctx.next_functions
    if needs[0] and not will_run(edges[0][0]):
        needs = (False, *needs[1:])
    if needs[1] and will_run(edges[1][0]):
        return needs
    nodes = iter([node for node, _ in edges[1:]])
    runs = [is_present and will_run(next(nodes)) for is_present in ctx.present[1:]]
    return needs[0], *(need and run for need, run in zip(needs[1:], runs, strict=True))


def will_run(node: Any) -> bool:
    """Whether the engine, in the backward call at hand, runs the node or is to return its gradient."""
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # the engine's answer for a leaf that `autograd.grad` was given
        return True
