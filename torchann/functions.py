"""The autograd Functions: what they save, which gradients are needed, which sweep runs. `sweeps` has the mathematics.

One Function is a whole network; a single layer is a network of depth one. `FirstOrder` computes first derivatives,
fast. `Network` can be differentiated to any order: beside its output o it returns a tensor `kept` for each layer, which
stands for z in the graph: its gradient is ∂E/∂z (ζ in the formulas), and its tangent is that of z. Its values may be
those of o = f(z), from which f′ and f″ are computed, so that z need not be stored. A double backward sends ζ to `kept`.
`FunctionOfZ` turns such a tensor into o, f′ or f″ where these are differentiated again.

For the backward pass a Function saves only what the needed gradients read: x if ∂E/∂W of the first layer is needed, W
where ē of the layer below is, s where f′ reads it or ∂E/∂W of the layer above is needed, b never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from torchann import formulas, jets
from torchann.activations import Activation, by_key
from torchann.fast import choose, choose_for_higher_derivatives, fused, series_kernels
from torchann.fast.checkpointed import Checkpointed
from torchann.fast.fused import DIFFERENTIABLE
from torchann.fast.series import InBlocks
from torchann.sweeps import READABLE, BackwardInputs, Gradients, NeedsGrad, Optionals, Sweeps, blank, there, to_keep
from torchann.transforms import (
    constant_to_dynamo,
    forward_mode_on,
    is_batched,
    is_differentiated,
    is_zero,
    onlooker,
    primal,
    pytree,
    recording,
    transforming,
    unwrap_if_dead,
    will_engine_execute_node,
)


def node(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    checkpoint: int | None = None,
    seen_by: str | None = None,
) -> Tensor:
    """The output [N, O] of the layers for x [N, I], as one node of the graph; `seen_by` is what `onlooker` returned.

    `checkpoint` saves memory in ordinary autograd; torch.func and torch.compile ignore it.
    """
    sweeps = choose(x, weights, biases, activations, seen_by)
    if seen_by == "transform":
        return Network.apply(x, *weights, *biases, *activations, sweeps, True)[0]
    if seen_by == "compile":
        if not transforming():
            return FirstOrder.apply(x, activations, sweeps, seen_by, *weights, *biases)
        allow_network_in_graph()
        return network_in_graph(x, list(weights), list(biases), [activation.key for activation in activations])
    if not torch.is_grad_enabled():
        return sweeps.forward(x, weights, biases, activations, [False] * len(weights))[0]
    if not (x.requires_grad or weights[0].requires_grad):
        frozen = count_frozen(weights, biases)
        if frozen:  # the first layers need no gradient, so they run without a graph
            with torch.no_grad():
                x = node(x, weights[:frozen], biases[:frozen], activations[:frozen], None, seen_by)
            if frozen == len(weights):
                return x
            weights, biases, activations = weights[frozen:], biases[frozen:], activations[frozen:]
    if checkpoint:
        sweeps = Checkpointed(sweeps, checkpoint)
    elif sweeps.node and (weights[0].requires_grad or not x.requires_grad):
        return sweeps.node(x, weights, biases, activations)
    elif not sweeps.is_small or (x.requires_grad and not weights[0].requires_grad):
        return apply(Network, x, *weights, *biases, *activations, sweeps, False)[0]
    return apply(FirstOrder, x, activations, sweeps, seen_by, *weights, *biases)


def series_node(
    kind: jets.Kind,
    x: Tensor,
    terms: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
) -> list[Tensor | None]:
    """The series of the output: its value [N, O] and its terms, as one node of the graph."""
    first = terms[0]
    assert first is not None
    plan = InBlocks(kind, first.shape[0], tuple(activations), series_kernels(x, kind))
    if torch.is_grad_enabled():
        stack = NetworkSeries.apply(plan, x, *terms, *weights, *biases)
    else:
        stack, _ = plan.forward(jets.Series(x, terms), weights, biases, keep=False)
    return [stack[0], *plan.terms(stack)]


def count_frozen(weights: Sequence[Tensor], biases: Optionals) -> int:
    """How many layers there are below the first one that is trained."""
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return layer
    return len(weights)


def apply(function: type[Function], *args: Any) -> Any:
    """`function.apply(*args)`, faster where no torch.func transform is active.

    PyTorch's `apply` binds default arguments in every call, which takes longer than a small layer, and our Functions
    have none. So the method below it is called. What `apply` does beside that is repeated here: it unwraps a tensor
    that outlived its transform (in the pull-back of a vjp, say).
    """
    if transforming():
        return function.apply(*args)
    alive = [unwrap_if_dead(arg) if type(arg) is Tensor else arg for arg in args]  # no Parameter is a wrapper
    return super(Function, function).apply(*alive)  # type: ignore[misc]


class FirstOrder(Function):
    """x, activations, sweeps, seen_by, W₁ … W_L, b₁ … b_L → o: first derivatives, and nothing spent on higher ones.

    Small networks, checkpointing and torch.compile use it instead of `Network`: the outputs `kept` would slow down a
    small network, and Dynamo supports no Function that has a jvp. If higher derivatives are asked for, backward makes
    a `Network` node from what was kept, which takes one more sweep.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # no more names: Dynamo counts them to see if one is ctx
        x, activations, sweeps, seen_by, *layers = arguments
        depth = len(activations)
        weights, biases = layers[:depth], layers[depth:]
        ctx.activations, ctx.sweeps, ctx.seen_by = activations, sweeps, seen_by
        if seen_by == "compile":  # the compiler drops what the needed gradients do not read
            output, kept = sweeps.forward(x, weights, biases, activations, [True] * depth)
            ctx.save_for_backward(x, *weights, *kept)
            return output
        needs_x, needs_weights = ctx.needs_input_grad[0], ctx.needs_input_grad[4 : 4 + depth]
        output, kept = sweeps.forward(x, weights, biases, activations, to_keep(activations, needs_weights))
        # Of these only the place in the graph is read, never the values: so they are not saved as tensors.
        ctx.first_weight, ctx.biases = weights[0] if needs_weights[0] else None, biases
        ctx.save_for_backward(
            x if needs_x or needs_weights[0] else None, weights[0] if needs_x else None, *weights[1:], *kept
        )
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        activations, needs = ctx.activations, (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        depth = len(activations)
        weights, kept = saved[:depth], list(saved[depth:])  # PyTorch 2.9's compiled autograd gives a tuple
        if ctx.seen_by == "compile":
            sweeps = ctx.sweeps
            found = sweeps.gradients(grad_output, x, weights, kept, activations, as_needs_grad(needs))
            return found.x, None, None, None, *found.weights, *found.biases
        seen_by, differentiated = in_backward(grad_output)
        needs_grad = as_needs_grad(needs_grad_in_this_call(ctx, needs, seen_by))
        if differentiated:
            inputs = [x, ctx.first_weight, *weights[1:], *ctx.biases]
            kept = kept_in_graph(ctx.sweeps, inputs, kept, activations, ctx.next_functions)
            found = differentiable_backward(grad_output, None, x, weights, kept, activations, needs_grad, seen_by)
        elif seen_by is None:
            del saved
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
            found = ctx.sweeps.gradients(grad_output, x, weights, kept, activations, needs_grad)
        else:
            found = ctx.sweeps.readable.gradients(grad_output, x, weights, kept, activations, needs_grad)
        return found.x, None, None, None, *found.weights, *found.biases


class Kept(Sweeps):
    """Gives `Network` what another forward sweep kept, in place of a sweep."""

    def __init__(self, layer: Any, kept: Optionals) -> None:
        super().__init__(layer)
        self.kept = kept

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, list[Tensor | None]]:
        return x.new_empty(0), [None if s is None else s.detach() for s in self.kept]


def kept_in_graph(
    sweeps: Sweeps,
    inputs: Sequence[Tensor | None],
    kept: Optionals,
    activations: Sequence[Activation],
    edges: Any = (),
) -> list[Tensor | None]:
    """What a `FirstOrder` kept, as the outputs of a `Network` made here, whose inputs are x, W₁ … W_L, b₁ … b_L.

    `edges` are the nodes that made the input tensors, as the forward pass saw them: if a tensor's node has changed
    since, `check_edges` raises.
    """
    depth = len(activations)
    if isinstance(sweeps, Checkpointed):
        x, first_weight, *biases = kept[: 2 + depth]
        weights = [first_weight, *inputs[2 : 1 + depth]]
        sweeps, keeps_all = sweeps.sweeps, onlooker() == "transform"
    else:
        check_edges(inputs, edges)
        like = next(s for s in (*kept, *inputs) if s is not None)
        given: list[Tensor | None] = [like.detach() if tensor is None else tensor for tensor in inputs[: 1 + depth]]
        x, *weights = given
        biases = list(inputs[1 + depth :])
        sweeps, keeps_all = Kept(sweeps.layer, kept), False
    with torch.enable_grad():
        return apply(Network, x, *weights, *biases, *activations, sweeps, keeps_all)[1:]


def check_edges(inputs: Sequence[Tensor | None], edges: Any) -> None:
    depth = len(inputs) // 2
    with_edges = [*inputs[: 1 + depth], *(bias for bias in inputs[1 + depth :] if bias is not None)]
    for tensor, (source, _) in zip(with_edges, edges, strict=False):
        if tensor is not None and tensor.grad_fn is not None and source is not None and tensor.grad_fn is not source:
            raise RuntimeError(
                "a weight or bias that is not a leaf tensor was changed in place after the forward pass, so a second "
                "derivative can't be computed; change a copy of it"
            )


class Network(Function):
    """x, W₁ … W_L, b₁ … b_L, f₁ … f_L, sweeps, keeps_all → o, kept₁ … kept_L; differentiable to any order.

    `keeps_all` is set under torch.func and forward mode: it is not known yet what they will read.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
        *layers, sweeps, keeps_all = arguments
        weights, biases, activations = split(layers, 3)
        output, kept = sweeps.forward(x, weights, biases, activations, [True] * len(weights))
        if formulas.slope_is_constant(activations[-1]) and not keeps_all:
            kept[-1] = None  # no derivative depends on z
        elif kept[-1] is output:
            kept[-1] = output.detach()  # the same memory, as an output of its own
        return output, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *arguments, ctx.sweeps, keeps_all = inputs
        depth = len(arguments) // 3
        x, *weights = arguments[: 1 + depth]
        kept = output[1:]
        ctx.activations = arguments[1 + 2 * depth :]
        ctx.is_tensor = are_tensors(arguments[: 1 + 2 * depth])
        ctx.set_materialize_grads(False)
        if keeps_all:
            ctx.save_for_backward(x, *weights, *kept)
            ctx.save_for_forward(x, *weights, *kept)
            return
        needs = as_needs_grad(ctx.needs_input_grad[: 1 + 2 * depth])
        ctx.save_for_backward(
            x if needs.weights[0] else None,
            weights[0] if needs.x else None,
            *weights[1:],
            *(s if keep else None for s, keep in zip(kept, to_keep(ctx.activations, needs.weights), strict=True)),
        )

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *z_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        activations = ctx.activations
        depth = len(activations)
        weights, kept = split(saved, 2)
        seen_by, differentiated = in_backward(grad_output, *z_grads)
        needs = as_needs_grad(needs_grad_in_this_call(ctx, ctx.needs_input_grad[: 1 + 2 * depth], seen_by))
        if differentiated:
            found = differentiable_backward(grad_output, z_grads, x, weights, kept, activations, needs, seen_by)
        elif seen_by is None:
            del saved
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
            others = [None if is_zero(z_grad) else z_grad for z_grad in z_grads]
            if grad_output is not None and all(z_grad is None for z_grad in others):
                found = ctx.sweeps.gradients(grad_output, x, weights, kept, activations, needs)
            else:
                found = ctx.sweeps.backward(grad_output, others, x, weights, kept, activations, needs)
            found = with_zeros(found, z_grads, x, weights, needs)
        else:
            found = READABLE.backward(grad_output, z_grads, x, weights, kept, activations, needs)
        gradients = (found.x, *found.weights, *found.biases)
        return *gradients, *blank(depth + 2)  # none for the activations, the sweeps and keeps_all

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, *dots: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = map(primal, ctx.saved_tensors)
        weights, kept = split(saved, 2)
        weight_dots, bias_dots, _ = split(dots[:-2], 3)
        with forward_mode_on():
            s, activations = as_functions_of_z(kept, ctx.activations)
            sweeps = choose_for_higher_derivatives("transform", True)
            output_dot, z_dots = sweeps.tangent(x_dot, weight_dots, bias_dots, x, weights, s, activations)
        z_dots = [torch.zeros_like(s) if t is None else t for s, t in zip(kept, z_dots, strict=True)]
        return torch.zeros_like(kept[-1]) if output_dot is None else output_dot, *z_dots


def differentiable_backward(
    grad_output: Tensor | None,
    z_grads: Optionals | None,
    x: Tensor | None,
    weights: Optionals,
    kept: list[Tensor | None],
    activations: Sequence[Activation],
    needs: NeedsGrad,
    seen_by: str | None,
) -> Gradients:
    """The backward sweep in a form that can be differentiated again: by hand in ordinary autograd.

    Elsewhere, and for activations without d2f, its operations are differentiated one by one.
    """
    if seen_by in (None, "mode") and all(activation.d2f for activation in activations):
        depth = len(weights)
        found = NetworkBackward.apply(x, grad_output, *(z_grads or blank(depth)), *weights, *kept, activations, needs)
        return Gradients(found[0], found[1 : 1 + depth], found[1 + depth : 1 + 2 * depth])
    kept, activations = as_functions_of_z(kept, activations)
    sweeps = choose_for_higher_derivatives(seen_by, True)
    return sweeps.backward(grad_output, z_grads, x, weights, kept, activations, needs)


class NetworkBackward(Function):
    """x, ē, ζ₁ …, W₁ …, kept₁ … → ∂E/∂x, every ∂E/∂W, every ∂E/∂b; and each layer's δ and ē, for third derivatives.

    The backward sweep as a Function, whose own backward is the double backward by hand. Only ordinary autograd uses it;
    under transforms the backward sweep is differentiated operation by operation.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        x, grad_output, *tensors, ctx.activations, needs = arguments
        z_grads, weights, kept = split(tensors, 3)
        found = choose_for_higher_derivatives(onlooker(), False).backward(
            grad_output, z_grads, x, weights, kept, ctx.activations, needs, with_deltas=True
        )
        # Each output has to be a tensor of its own, even where δ is ē, and must not be an input: autograd would else
        # not tell them apart.
        deltas = [None if delta is None else delta.detach() for delta in found.deltas]
        grad_outputs = [*found.grad_outputs[:-1], None]
        ctx.is_tensor = are_tensors(arguments[:-2])
        ctx.save_for_backward(x, *weights, *kept, *deltas, *grad_outputs[:-1], grad_output)
        ctx.set_materialize_grads(False)
        return found.x, *found.weights, *found.biases, *deltas, *grad_outputs

    @staticmethod
    def backward(ctx: Any, x_cotangent: Tensor | None, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        weights, kept, deltas, grad_outputs = split(saved, 4)
        del saved
        activations = ctx.activations
        seen_by, differentiated = in_backward(x_cotangent, *cotangents)
        differentiated = differentiated or seen_by in ("transform", "compile")
        if differentiated:
            kept, activations = as_functions_of_z(kept, activations)
        elif seen_by is None:
            ctx.maybe_clear_saved_tensors()  # so that the sweep can free what it has passed
        needs_x, needs_grad_output, *others = needs_grad_in_this_call(ctx, ctx.needs_input_grad[:-2], seen_by)
        needs = BackwardInputs(needs_x, needs_grad_output, *split(others, 3))
        sweeps = choose_for_higher_derivatives(seen_by, differentiated)
        to = sweeps.double_backward(
            Gradients(x_cotangent, *split(cotangents, 4)), deltas, grad_outputs, x, weights, kept, activations, needs
        )
        return to.x, to.grad_output, *to.z_grads, *to.weights, *to.z, None, None


class FunctionOfZ(Function):
    """s → o, f′, f″ … (order 0, 1, 2 …), as a function of z: s stands for z in the graph, even where it holds o.

    So the derivative of o is the activation's df, and that of f′ its d2f; autograd differentiates only the last one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, activation: Activation, order: int) -> Tensor:
        found = s if order == 0 and activation.reads_output else derivatives_of(activation)[order](s)
        return s.detach() if found is s else found

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


def times_next(grad_output: Tensor, s: Tensor, activation: Activation, order: int) -> Tensor:
    """ē times the derivative of what `FunctionOfZ` returns for the order."""
    if activation in DIFFERENTIABLE and order == 0:
        return fused.delta(grad_output, apply(FunctionOfZ, s, activation, 0), activation)
    return grad_output * function_of_z(s, activation, order + 1)


def derivatives_of(activation: Activation) -> list[Any]:
    """f, f′, f″ and f‴, as far as they are known."""
    return [each for each in (activation.f, activation.df, activation.d2f, activation.d3f) if each is not None]


def function_of_z(s: Tensor, activation: Activation, order: int) -> Tensor:
    """f, f′, f″ or f‴ at z, to be differentiated: each by the next, and the last by autograd."""
    known = derivatives_of(activation)
    if order + 1 < len(known):
        return apply(FunctionOfZ, s, activation, order)
    return known[order](apply(FunctionOfZ, s, activation, 0) if activation.reads_output else s)


def as_functions_of_z(
    kept: Optionals, activations: Sequence[Activation]
) -> tuple[list[Tensor | None], list[Activation]]:
    """s and the activations in a form in which autograd differentiates f, f′ and f″ with respect to z."""
    pairs = [
        (s, activation)
        if s is None
        else (apply(FunctionOfZ, s, activation, 0), activation)
        if activation in DIFFERENTIABLE  # as functions of o
        else (s, of_z(activation))
        for s, activation in zip(kept, activations, strict=True)
    ]
    return [s for s, _ in pairs], [activation for _, activation in pairs]


def of_z(activation: Activation) -> Activation:
    """The activation whose f, f′ and f″ are each differentiated by the next, not by autograd."""
    f, df, d2f, d3f = (
        function
        if function is None or function is torch.zeros_like
        else lambda s, order=order: function_of_z(s, activation, order)
        for order, function in enumerate((activation.f, activation.df, activation.d2f, activation.d3f))
    )
    assert f is not None
    return Activation(activation.name, f, df, d2f, d3f=d3f)


def activate(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z) alone, differentiated by its own derivatives."""
    return function_of_z(z, reading_z(activation), 0)


def reading_z(activation: Activation) -> Activation:
    """The activation whose derivatives take z."""
    if not activation.reads_output:
        return activation
    f = activation.f
    df, d2f, d3f = (
        function if function is None or function is torch.zeros_like else lambda z, function=function: function(f(z))
        for function in (activation.df, activation.d2f, activation.d3f)
    )
    return Activation(activation.name, f, df, d2f, d3f=d3f)


def by_own_derivatives(activation: Activation) -> Activation:
    """The activation as functions of z, each of which is differentiated by the next: f by df, df by d2f, d2f by d3f."""
    if activation.df is None or activation in DIFFERENTIABLE:
        return activation
    return of_z(reading_z(activation))


def with_zeros(
    found: Gradients, z_grads: Optionals, x: Tensor | None, weights: Optionals, needs: NeedsGrad
) -> Gradients:
    """Zeros for the needed gradients to which only a zero ζ contributes (relu's), as PyTorch returns zeros for them."""
    top = max((layer for layer, z_grad in enumerate(z_grads) if is_zero(z_grad)), default=None)
    if top is None:
        return found
    z_grad = there(z_grads[top])
    first = x if weights[0] is None else weights[0]
    inputs = [0 if first is None else first.shape[1], *(there(weight).shape[1] for weight in weights[1 : top + 1])]
    outputs = [*inputs[1:], z_grad.shape[1]]
    x_grad, weight_grads, bias_grads = found.x, list(found.weights), list(found.biases)
    if needs.x and x_grad is None:
        x_grad = z_grad.new_zeros(z_grad.shape[0], inputs[0])
    for layer in range(top + 1):
        if needs.weights[layer] and weight_grads[layer] is None:
            weight_grads[layer] = z_grad.new_zeros(outputs[layer], inputs[layer])
        if needs.biases[layer] and bias_grads[layer] is None:
            bias_grads[layer] = z_grad.new_zeros(outputs[layer])
    return Gradients(x_grad, weight_grads, bias_grads)


def network_in_graph(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], keys: list[str]) -> Tensor:
    """`Network` for torch.compile under torch.func: Dynamo does not look into the call; it is traced as it runs."""
    return Network.apply(x, *weights, *biases, *[by_key(key) for key in keys], READABLE, True)[0]


@constant_to_dynamo
def allow_network_in_graph() -> None:
    """To be called before Dynamo meets `network_in_graph`. Not at import, as it imports Dynamo."""
    torch.compiler.allow_in_graph(network_in_graph)


Reduction: TypeAlias = Literal["mean", "sum", "none"]


def half_squared_error(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """E [*] for o and y [*, K], or its mean or sum."""
    if torch.compiler.is_compiling() or recording():  # where PyTorch differentiates the same formula
        return HalfSquaredError.forward(output, target, reduction)
    return apply(HalfSquaredError, output, target, reduction)


class NetworkSeries(Function):
    """plan, x, its terms, W₁ … W_L, b₁ … b_L → the stack of the output's series [T, N, O].

    First derivatives by `fast.series`, in blocks. Where the result is differentiated again, or several gradients come
    at once, backward runs the sweeps of `jets` instead, which can be differentiated to any order. They need every
    layer's series, so the forward sweep runs once more.
    """

    @staticmethod
    def forward(ctx: Any, plan: InBlocks, x: Tensor, *rest: Any) -> Tensor:
        order = plan.kind.order
        terms, (weights, biases) = rest[:order], split(rest[order:], 2)
        output, kept = plan.forward(jets.Series(x, terms), weights, biases, keep=any(ctx.needs_input_grad))
        tensors, ctx.spec = pytree.tree_flatten(kept)
        ctx.plan, ctx.given = plan, len(rest) + 1
        ctx.save_for_backward(x, *rest, *tensors)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        plan, saved = ctx.plan, ctx.saved_tensors
        order = plan.kind.order
        x, *rest = saved[: ctx.given]
        series, (weights, biases) = jets.Series(x, rest[:order]), split(rest[order:], 2)
        needs = as_needs_grad((ctx.needs_input_grad[1], *ctx.needs_input_grad[2 + order :]))
        seen_by, differentiated = in_backward(grad_output)
        if differentiated or seen_by is not None:
            activations = list(map(by_own_derivatives, plan.activations))
            layers = jets.forward(plan.kind, series, weights, biases, activations)
            grads = [grad_output[0], *plan.terms(grad_output)]
            to_x, to_weights, to_biases = jets.backward(plan.kind, grads, layers, weights, activations)
        else:
            kept = pytree.tree_unflatten(saved[ctx.given :], ctx.spec)
            found = plan.backward(grad_output, series, weights, kept, needs)
            to_x, to_weights, to_biases = found.x, found.weights, found.biases
        to_biases = [None if bias is None else grad for bias, grad in zip(biases, to_biases, strict=True)]
        return None, to_x, *[None] * order, *to_weights, *to_biases


class HalfSquaredError(Function):
    """o, y → E. Its backward is a product of its inputs, so autograd differentiates it further."""

    generate_vmap_rule = True

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

    @staticmethod
    def jvp(ctx: Any, output_dot: Tensor, target_dot: Tensor, _: None) -> Tensor:
        output, target = map(primal, ctx.saved_tensors)
        with forward_mode_on():
            error_dot = formulas.half_squared_error_tangent(output, target, output_dot, target_dot)
            return reduced(error_dot, ctx.reduction)


def reduced(error: Tensor, reduction: Reduction) -> Tensor:
    return error if reduction == "none" else error.mean() if reduction == "mean" else error.sum()


# --- What the Functions share -----------------------------------------------------------------------------------------


def in_backward(*grads: Tensor | None) -> tuple[str | None, bool]:
    """What watches a backward call (see `onlooker`), and whether the results of the call are differentiated again."""
    seen_by = onlooker()
    differentiated = torch.is_grad_enabled() if seen_by is None else is_differentiated(seen_by)
    for grad in grads:
        if grad is not None and is_batched(grad):
            return "transform", differentiated
    return seen_by, differentiated


def split(tensors: Sequence[Any], parts: int) -> list[Any]:
    """Consecutive parts of equal length."""
    size = len(tensors) // parts
    return [tensors[part * size : (part + 1) * size] for part in range(parts)]


def as_needs_grad(needs: Sequence[bool]) -> NeedsGrad:
    """From what is needed of (x, W₁ … W_L, b₁ … b_L)."""
    depth = len(needs) // 2
    return NeedsGrad(needs[0], needs[1 : 1 + depth], needs[1 + depth :])


def are_tensors(arguments: Sequence[Any]) -> list[bool]:
    """Which arguments of a Function are tensors, not None: those have an edge in the graph."""
    return [argument is not None for argument in arguments]


def needs_grad_in_this_call(ctx: Any, needs: Sequence[bool], seen_by: str | None) -> Sequence[bool]:
    """`ctx.needs_input_grad` of the tensors, without those gradients that this backward call was not asked for.

    `autograd.grad(o, x)` runs this node for x alone, but a Function written in Python is not told so
    (https://github.com/pytorch/pytorch/issues/56500). The engine knows: it will not run the nodes of the others.
    x, the first argument, is looked up by itself. If the second is needed, all the others are taken as needed: looking
    up each would cost a small network more time than it saves.
    """
    if seen_by in ("transform", "compile"):
        return needs
    edges, is_tensor = ctx.next_functions, getattr(ctx, "is_tensor", None)
    if is_tensor is None or (is_tensor[0] and is_tensor[1]):
        if needs[0] and not will_run(edges[0][0]):
            needs = (False, *needs[1:])
        if needs[1] and will_run(edges[1][0]):
            return needs
    if is_tensor is None:  # of `FirstOrder`, where only biases may be None
        is_tensor = [True] * (len(needs) - len(ctx.biases)) + are_tensors(ctx.biases)
    nodes = iter(edges)
    runs = [is_there and will_run(next(nodes)[0]) for is_there in is_tensor]
    return [need and run for need, run in zip(needs, runs, strict=True)]


def will_run(node: Any) -> bool:
    """Whether the engine, in the backward call at hand, runs the node or is to return its gradient."""
    if node is None:
        return False
    try:
        return will_engine_execute_node(node)
    except RuntimeError:  # which the engine raises for a leaf that `autograd.grad` was given
        return True
