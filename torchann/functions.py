"""The autograd Functions: what is saved, what is needed, and which sweep answers. The mathematics is in `sweeps`.

One Function is a whole network; a single layer is a network of depth one. Beside its output o, `Network` returns a
tensor `kept` for each layer, which in the graph stands for z: its gradient is that of z (ζ in the formulas) and so is
its tangent, although its values may be those of o = f(z), from which f′ and f″ are read. That gives a double backward a
place to put ζ, and z itself need not be stored. `FunctionOfZ` turns such a tensor into o, f′ or f″ where derivatives
are taken.

For the backward pass a Function saves only what the wanted gradients read: x if ∂E/∂W of the first layer is wanted, W
where ē of the layer below is, s where f′ reads it or ∂E/∂W of the layer above is wanted, b never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from torchann import formulas, kernels, native, small, sweeps
from torchann.activations import Activation, by_key
from torchann.dispatch import choose, choose_compiled
from torchann.sweeps import Operands, Optionals, Signals, Wanted, blank, there
from torchann.transforms import (
    constant_to_dynamo,
    forward_mode,
    forward_mode_on,
    is_batched,
    is_zero,
    no_mode,
    nothing_looks_on,
    only_autograd,
    primal,
    recording,
    transforming,
    unwrap_dead,
    will_engine_execute_node,
)


def network(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    checkpoint: int | None = None,
) -> Tensor:
    """The output [N, O] of the layers for x [N, I]; `checkpoint` is a matter of memory, in plain autograd alone."""
    if not only_autograd():
        if not torch.compiler.is_compiling():
            return Network.apply(x, *weights, *biases, *activations, KEEP_ALL)[0]
        if transforming():
            allow_network_in_graph()
            return network_in_graph(x, list(weights), list(biases), [activation.key for activation in activations])
        return CompiledNetwork.apply(x, *weights, *biases, *activations)
    implementation = choose(x, weights, biases, activations)
    if not torch.is_grad_enabled():
        return implementation.forward(x, weights, biases, activations, [False] * len(weights))[0]
    if not (x.requires_grad or weights[0].requires_grad):
        frozen = count_frozen(weights, biases)
        if frozen:  # the first layers, which autograd need not know of
            with torch.no_grad():
                x = network(x, weights[:frozen], biases[:frozen], activations[:frozen])
            if frozen == len(weights):
                return x
            weights, biases, activations = weights[frozen:], biases[frozen:], activations[frozen:]
    if checkpoint:
        return CheckpointedNetwork.apply(x, *weights, *biases, *activations, implementation, checkpoint)
    # The node in C++ has no place for a second derivative by an x that it does not keep.
    if implementation is small and native.suit(activations) and (weights[0].requires_grad or not x.requires_grad):
        return native.network(x, weights, biases, activations)
    if not x.requires_grad:
        return FirstOrder.apply(x, activations, implementation, *weights, *biases)
    return Network.apply(x, *weights, *biases, *activations, implementation)[0]


def count_frozen(weights: Sequence[Tensor], biases: Optionals) -> int:
    """How many layers there are before the first that is trained."""
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return layer
    return len(weights)


class LeanFunction(Function):
    """A Function whose `apply` skips what `Function.apply` does in Python where no torch.func transform is at work.

    It binds default arguments anew in every call, which takes longer than a small layer; ours have none. What it does
    otherwise is done here: a tensor that outlived its transform (of the pull-back of a vjp, say) is unwrapped.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if transforming():
            return super().apply(*args)
        return super(Function, cls).apply(*unwrap_dead(args))  # type: ignore[misc]


class AtWork(NamedTuple):
    """What a backward call has to reckon with."""

    derivatives: bool  # its results are differentiated again, by autograd or by a transform
    transform: bool  # something other than autograd is at work
    nothing: bool  # neither of them, nor a mode that looks at single operations


NOTHING = AtWork(derivatives=False, transform=False, nothing=True)


def at_work_in_backward(*grads: Tensor | None) -> AtWork:
    batched = any(map(is_batched, grads))
    if not torch.is_grad_enabled() and not batched and nothing_looks_on():
        return NOTHING
    transform = batched or not only_autograd()
    derivatives = torch.is_grad_enabled() or transforming() or forward_mode()
    return AtWork(derivatives, transform, not derivatives and not transform and no_mode())


class KeepAll:
    """The readable sweeps where a transform is at work, of which `Network` does not know what it will read."""

    forward = staticmethod(sweeps.forward)
    backward = staticmethod(sweeps.backward)


KEEP_ALL = KeepAll()


class Network(LeanFunction):
    """x, W₁ … W_L, b₁ … b_L, f₁ … f_L, implementation → o, kept₁ … kept_L"""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *layers_and_implementation: Any) -> tuple[Tensor | None, ...]:
        *layers, implementation = layers_and_implementation
        weights, biases, activations = split(layers, 3)
        output, kept = implementation.forward(x, weights, biases, activations)
        if formulas.slope_is_constant(activations[-1]) and implementation is not KEEP_ALL:
            kept[-1] = None  # no derivative depends on z
        elif kept[-1] is output:
            kept[-1] = output.detach()  # the same memory as a node of its own
        return output, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *arguments, ctx.implementation = inputs
        depth = len(arguments) // 3
        x, *weights = arguments[: 1 + depth]
        ctx.activations = inputs[1 + 2 * depth : -1]
        ctx.present = present(arguments[: 1 + 2 * depth])
        ctx.set_materialize_grads(False)
        if ctx.implementation is KEEP_ALL:
            ctx.save_for_backward(x, *weights, *output[1:])
            ctx.save_for_forward(x, *weights, *output[1:])
        else:
            wanted = as_wanted(ctx.needs_input_grad[: 1 + 2 * depth])
            ctx.save_for_backward(*read_in_backward(x, weights, output[1:], ctx.activations, wanted))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *zetas: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        activations = ctx.activations
        depth = len(activations)
        weights, kept = split(saved, 2)
        at_work = at_work_in_backward(grad_output, *zetas)
        wanted = as_wanted(needed(ctx, ctx.needs_input_grad[: 1 + 2 * depth], at_work))
        if at_work.derivatives:
            signals = differentiable(grad_output, zetas, x, weights, kept, activations, wanted, at_work)
        elif at_work.nothing:
            del saved
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
            others = [None if is_zero(zeta) else zeta for zeta in zetas]
            signals = ctx.implementation.backward(grad_output, others, x, weights, kept, activations, wanted)
            signals = with_zeros(signals, zetas, x, weights, wanted)
        else:
            signals = sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
        gradients = (signals.x, *signals.weights, *signals.biases)
        return *gradients[: 1 + 2 * depth], *[None] * (depth + 1)  # none for the activations and the implementation

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, *layer_dots: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = map(primal, ctx.saved_tensors)
        weights, kept = split(saved, 2)
        weight_dots, bias_dots, _ = split(layer_dots[:-1], 3)
        with forward_mode_on():
            s, activations = as_functions_of_z(kept, ctx.activations)
            output_dot, z_dots = sweeps.tangent(x_dot, weight_dots, bias_dots, x, weights, s, activations)
        dots = [torch.zeros_like(s) if t is None else t for s, t in zip(kept, z_dots, strict=True)]
        return torch.zeros_like(kept[-1]) if output_dot is None else output_dot, *dots


class NetworkBackward(Function):
    """x, ē, ζ₁ …, W₁ …, kept₁ … → ∂E/∂x, every ∂E/∂W, every ∂E/∂b; and each layer's δ and ē, for third derivatives

    Runs in ordinary autograd alone; under transforms the backward sweep is differentiated operation by operation.
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
        activations = ctx.activations
        at_work = at_work_in_backward(x_cotangent, *cotangents)
        if at_work.derivatives or at_work.transform:
            kept, activations = as_functions_of_z(kept, activations)
        elif at_work.nothing:
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
        x_needed, grad_output_needed, *others_needed = needed(ctx, ctx.needs_input_grad[:-2], at_work)
        wanted = Operands(x_needed, grad_output_needed, *split(others_needed, 3))
        of_signals = Signals(x_cotangent, *split(cotangents, 4))
        to = sweeps.double_backward(of_signals, deltas, errors, x, weights, kept, activations, wanted)
        return to.x, to.grad_output, *to.zetas, *to.weights, *to.z, None, None


def differentiable(
    grad_output: Tensor | None,
    zetas: Optionals,
    x: Tensor | None,
    weights: Optionals,
    kept: Optionals,
    activations: Sequence[Activation],
    wanted: Wanted,
    at_work: AtWork,
) -> Signals:
    """The backward sweep as a function that is differentiated again: by hand where autograd is alone."""
    if not at_work.transform and all(activation.d2f for activation in activations):
        found = NetworkBackward.apply(x, grad_output, *zetas, *weights, *kept, activations, wanted)
        depth = len(weights)
        return Signals(found[0], found[1 : 1 + depth], found[1 + depth : 1 + 2 * depth])
    kept, activations = as_functions_of_z(kept, activations)
    return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)


class FunctionOfZ(LeanFunction):
    """s → o, f′ or f″ (order 0, 1 or 2), as a function of z: s stands for z in the graph, also where it holds o.

    So the derivative of o is f′, and that of f′ is f″, whatever autograd would find.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, activation: Activation, order: int) -> Tensor:
        if order == 0 and activation.reads_output:
            return s.detach()
        return derivatives_of(activation)[order](s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        s, ctx.activation, ctx.order = inputs
        ctx.save_for_backward(s)
        ctx.save_for_forward(s)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (s,) = ctx.saved_tensors
        return times_next(grad_output, s, ctx.activation, ctx.order), None, None

    @staticmethod
    def jvp(ctx: Any, s_dot: Tensor, *_: None) -> Tensor:
        (s,) = map(primal, ctx.saved_tensors)
        with forward_mode_on():
            return times_next(s_dot, s, ctx.activation, ctx.order)


def derivatives_of(activation: Activation) -> list[Any]:
    """f, f′ and f″, as far as they are known."""
    return [each for each in (activation.f, activation.df, activation.d2f) if each is not None]


def times_next(grad_output: Tensor, s: Tensor, activation: Activation, order: int) -> Tensor:
    """ē times the derivative of what `FunctionOfZ` gives for the order."""
    if activation in kernels.FUSED:  # whose kernels PyTorch can differentiate
        return kernels.delta(grad_output, FunctionOfZ.apply(s, activation, 0), activation)
    return grad_output * function_of_z(s, activation, order + 1)


def function_of_z(s: Tensor, activation: Activation, order: int) -> Tensor:
    """f, f′ or f″ of z, to be differentiated: by the next of them, and the last one by autograd."""
    known = derivatives_of(activation)
    if order + 1 < len(known):
        return FunctionOfZ.apply(s, activation, order)
    return known[order](FunctionOfZ.apply(s, activation, 0) if activation.reads_output else s)


def as_functions_of_z(
    kept: Optionals, activations: Sequence[Activation]
) -> tuple[list[Tensor | None], list[Activation]]:
    """What the sweeps read, s and f, f′ and f″ of it, as functions of z in the graph."""
    pairs = [
        (s, activation)
        if s is None
        else (FunctionOfZ.apply(s, activation, 0), activation)
        if activation in kernels.FUSED
        else (s, of_z(activation))
        for s, activation in zip(kept, activations, strict=True)
    ]
    return [s for s, _ in pairs], [activation for _, activation in pairs]


def of_z(activation: Activation) -> Activation:
    """The activation whose f, f′ and f″ are differentiated as given, not by autograd."""
    f, df, d2f = (
        None if function is None else lambda s, order=order: function_of_z(s, activation, order)
        for order, function in enumerate((activation.f, activation.df, activation.d2f))
    )
    assert f is not None
    return Activation(activation.name, f, df, d2f)


def activate(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z) alone, differentiated by df and d2f."""
    if not activation.reads_output:
        return function_of_z(z, activation, 0)
    f, df, d2f = activation.f, activation.df, activation.d2f
    assert df is not None
    through_f = lambda g: lambda z: g(f(z))  # noqa: E731
    return function_of_z(z, Activation(activation.name, f, through_f(df), None if d2f is None else through_f(d2f)), 0)


def with_zeros(signals: Signals, zetas: Optionals, x: Tensor | None, weights: Optionals, wanted: Wanted) -> Signals:
    """Zeros for the wanted gradients that only a ζ known to be zero reaches: relu's, for which PyTorch gives zeros."""
    top = max((layer for layer, zeta in enumerate(zetas) if is_zero(zeta)), default=None)
    if top is None:
        return signals
    zeta = there(zetas[top])
    first = x if weights[0] is None else weights[0]
    inputs = [0 if first is None else first.shape[1], *(there(weight).shape[1] for weight in weights[1 : top + 1])]
    outputs = [*inputs[1:], zeta.shape[1]]
    x_grad, weight_grads, bias_grads = signals.x, list(signals.weights), list(signals.biases)
    if wanted.x and x_grad is None:
        x_grad = zeta.new_zeros(zeta.shape[0], inputs[0])
    for layer in range(top + 1):
        if wanted.weights[layer] and weight_grads[layer] is None:
            weight_grads[layer] = zeta.new_zeros(outputs[layer], inputs[layer])
        if wanted.biases[layer] and bias_grads[layer] is None:
            bias_grads[layer] = zeta.new_zeros(outputs[layer])
    return Signals(x_grad, weight_grads, bias_grads)


def network_in_graph(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], keys: list[str]) -> Tensor:
    """`Network` as torch.compile takes it under torch.func: a call that it doesn't look into, and traces as it runs."""
    return Network.apply(x, *weights, *biases, *[by_key(key) for key in keys], KEEP_ALL)[0]


@constant_to_dynamo
def allow_network_in_graph() -> None:
    """Before Dynamo meets it. Not at import, as that would import Dynamo."""
    torch.compiler.allow_in_graph(network_in_graph)


class CompiledNetwork(Function):
    """`Network` as Dynamo takes it: no jvp, and no outputs for derivatives that a compiled backward does not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Any) -> Tensor:
        weights, biases, ctx.activations = split(layers, 3)
        # All is kept: what is not read in backward, the compiler leaves out.
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


class FirstOrder(LeanFunction):
    """`Network` where x needs no gradient: it does without outputs for derivatives of higher order.

    Where those are asked for, backward makes the node `Network` of what was kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, activations: Sequence[Activation], implementation: Any, *layers: Any) -> Tensor:
        depth = len(activations)
        weights, biases, weights_wanted = layers[:depth], layers[depth:], ctx.needs_input_grad[3 : 3 + depth]
        output, kept = implementation.forward(
            x, weights, biases, activations, sweeps.to_keep(activations, weights_wanted)
        )
        ctx.activations, ctx.implementation = activations, implementation
        # Their values are not read, only where they come from: so they are no saved tensors.
        ctx.first_weight, ctx.biases = weights[0] if weights_wanted[0] else None, biases
        ctx.save_for_backward(x if weights_wanted[0] else None, *weights[1:], *kept)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        activations = ctx.activations
        depth = len(activations)
        weights, kept = [None, *saved[: depth - 1]], saved[depth - 1 :]
        at_work = at_work_in_backward(grad_output)
        wanted = as_wanted(needed(ctx, (False, *ctx.needs_input_grad[3:]), at_work))
        if at_work.nothing:
            del saved
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
            signals = ctx.implementation.backward(grad_output, blank(depth), x, weights, kept, activations, wanted)
        elif at_work.derivatives:
            inputs = [x, ctx.first_weight, *weights[1:], *ctx.biases]
            kept = kept_in_graph(inputs, kept, activations, ctx.next_functions)
            signals = differentiable(grad_output, blank(depth), x, weights, kept, activations, wanted, at_work)
        else:
            signals = sweeps.backward(grad_output, blank(depth), x, weights, kept, activations, wanted)
        return None, None, None, *signals.weights, *signals.biases


class Kept:
    """An implementation for `Network` of a sweep that has run already."""

    def __init__(self, kept: Optionals) -> None:
        self.kept = kept

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, list[Tensor | None]]:
        return x.new_empty(0), [None if s is None else s.detach() for s in self.kept]

    backward = staticmethod(sweeps.backward)


def kept_in_graph(
    inputs: Sequence[Tensor | None], kept: Optionals, activations: Sequence[Activation], edges: Any = ()
) -> Optionals:
    """What was kept, as the outputs of a `Network` made here, whose inputs are x, W₁ … W_L, b₁ … b_L.

    `edges` are where the inputs that there are came from, so as to notice if one comes from elsewhere since.
    """
    depth = len(kept)
    with_edges = [*inputs[: 1 + depth], *(bias for bias in inputs[1 + depth :] if bias is not None)]
    for tensor, (node, _) in zip(with_edges, edges, strict=False):
        if tensor is not None and tensor.grad_fn is not None and node is not None and tensor.grad_fn is not node:
            raise RuntimeError(
                "a weight or bias that is computed, no leaf, was changed in place after the forward pass, so a second "
                "derivative can't be found; change a copy"
            )
    like = next(s for s in (*kept, *inputs) if s is not None)
    x, *weights = [like.detach() if tensor is None else tensor for tensor in inputs[: 1 + depth]]
    with torch.enable_grad():
        return Network.apply(x, *weights, *inputs[1 + depth :], *activations, Kept(kept))[1:]


class CheckpointedNetwork(LeanFunction):
    """`Network` in less memory: it keeps what every k-th layer gives the next, and computes the rest anew in backward.

    Where higher derivatives are asked for, backward builds `Network` anew and leaves it to that.
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
                output, weights[segment], biases[segment], ctx.activations[segment], [False] * len(weights[segment])
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
        at_work = at_work_in_backward(grad_output)
        wanted = as_wanted(needed(ctx, ctx.needs_input_grad[: 1 + 2 * depth], at_work))
        none = [None] * (depth + 2)  # no gradient for the activations, the implementation and k
        if grad_output is None:
            return None, *blank(depth), *blank(depth), *none
        if at_work.derivatives:
            with torch.enable_grad():
                implementation = KEEP_ALL if at_work.transform else sweeps
                _, *kept = Network.apply(x, *weights, *biases, *ctx.activations, implementation)
            signals = differentiable(grad_output, blank(depth), x, weights, kept, ctx.activations, wanted, at_work)
            return signals.x, *signals.weights, *signals.biases, *none
        implementation = ctx.implementation if at_work.nothing else sweeps
        weight_grads, bias_grads = blank(depth), blank(depth)
        error: Tensor | None = grad_output
        for segment, x in reversed(list(zip(segments(depth, ctx.k), received, strict=True))):
            if segment.stop <= wanted.lowest:
                break
            keep = sweeps.to_keep(ctx.activations[segment], wanted.weights[segment])
            _, kept = implementation.forward(x, weights[segment], biases[segment], ctx.activations[segment], keep)
            x_wanted = wanted.x if segment.start == 0 else segment.start > wanted.lowest
            within = Wanted(x_wanted, wanted.weights[segment], wanted.biases[segment])
            signals = implementation.backward(
                error, blank(len(kept)), x, weights[segment], kept, ctx.activations[segment], within
            )
            error, weight_grads[segment], bias_grads[segment] = signals.x, signals.weights, signals.biases
        return error if wanted.x else None, *weight_grads, *bias_grads, *none


def segments(depth: int, k: int) -> list[slice]:
    """The layers, k at a time."""
    return [slice(start, min(start + k, depth)) for start in range(0, depth, k)]


Reduction: TypeAlias = Literal["mean", "sum", "none"]


def half_squared_error(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """E [*] for o and y [*, K], or its mean or sum."""
    if recording() or (torch.compiler.is_compiling() and transforming()):  # PyTorch differentiates the same formula
        return HalfSquaredError.forward(output, target, reduction)
    if not torch.compiler.is_compiling():
        return HalfSquaredError.apply(output, target, reduction)
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
        output, target = map(primal, ctx.saved_tensors)
        with forward_mode_on():
            errors_dot = formulas.half_squared_error_tangent(output, target, output_dot, target_dot)
            return reduced(errors_dot, ctx.reduction)


def reduced(errors: Tensor, reduction: Reduction) -> Tensor:
    return errors if reduction == "none" else errors.mean() if reduction == "mean" else errors.sum()


def split(tensors: Sequence[Any], parts: int) -> list[Any]:
    """Consecutive parts of equal length."""
    size = len(tensors) // parts
    return [tensors[part * size : (part + 1) * size] for part in range(parts)]


def as_wanted(needs: Sequence[bool]) -> Wanted:
    """From what is needed of (x, W₁ … W_L, b₁ … b_L)."""
    depth = len(needs) // 2
    return Wanted(needs[0], needs[1 : 1 + depth], needs[1 + depth :])


def read_in_backward(
    x: Tensor, weights: Sequence[Tensor], kept: Optionals, activations: Sequence[Activation], wanted: Wanted
) -> list[Tensor | None]:
    """x, W₁ … W_L and kept₁ … kept_L, without what the wanted gradients do not read."""
    keep = sweeps.to_keep(activations, wanted.weights)
    return [
        x if wanted.weights[0] else None,
        weights[0] if wanted.x else None,
        *weights[1:],
        *(s if keeps else None for s, keeps in zip(kept, keep, strict=True)),
    ]


def present(arguments: Sequence[Any]) -> list[bool]:
    """Which of the tensors that a Function takes are there: those have an edge in the graph."""
    return [argument is not None for argument in arguments]


def needed(ctx: Any, needs: Sequence[bool], at_work: AtWork) -> Sequence[bool]:
    """`ctx.needs_input_grad` of the tensors, less what a backward call of autograd alone was not asked for.

    `autograd.grad(o, x)` runs this node for x alone, but a Function written in Python is not told so
    (https://github.com/pytorch/pytorch/issues/56500). The engine knows: it will not run the nodes of the others.
    x, the first argument, is asked after by itself. Of the others, if the next is wanted, all are taken to be: to ask
    for each would cost a small network more than it saves.
    """
    if at_work.transform:
        return needs
    edges, there = ctx.next_functions, getattr(ctx, "present", None)
    if there is None or (there[0] and there[1]):
        if needs[0] and not will_run(edges[0][0]):
            needs = (False, *needs[1:])
        if needs[1] and will_run(edges[1][0]):
            return needs
    if there is None:  # of `FirstOrder`: only biases may be missing
        there = [True] * (len(needs) - len(ctx.biases)) + present(ctx.biases)
    nodes = iter(edges)
    runs = [is_there and will_run(next(nodes)[0]) for is_there in there]
    return [need and run for need, run in zip(needs, runs, strict=True)]


def will_run(node: Any) -> bool:
    """Whether the engine, in the backward call at hand, runs the node or is to return its gradient."""
    if node is None:
        return False
    try:
        return will_engine_execute_node(node)
    except RuntimeError:  # the engine's answer for a leaf that `autograd.grad` was given
        return True
