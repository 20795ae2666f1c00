"""Traces a forward and a backward pass: o, ē = ∂E/∂o, δ, ∂E/∂W and ∂E/∂b of every `Dense`; the model is left unchanged.

    records    `LayerTrace`: the numbers of one layer
    worked     writes out the calculation with these numbers, as in the article

This module runs the model and fills the records. It imports the other two; `worked` imports `records`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from torchann import activations as table
from torchann import formulas
from torchann.activations import Activation
from torchann.conversion import pairs
from torchann.modules import Dense
from torchann.tracing import worked
from torchann.tracing.records import LayerTrace, as_dict, derivative, steepest
from torchann.transforms import is_compiled, own_buffers, pytree, without_compile

__all__ = ["Disagreement", "LayerTrace", "Loss", "Trace", "disagreement", "steepest", "trace", "undisturbed", "unwrap"]

Loss: TypeAlias = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Trace:
    """The numbers of a forward and a backward pass. Made by `torchann.trace`; `print` shows it.

    Attributes:
        error: E, the loss.
        output: what the model returned.
        target: y.
        layers: one entry for each use of a `Dense`, in the order of execution.
    """

    error: float
    output: Any
    target: Any
    layers: tuple[LayerTrace, ...]

    def __str__(self) -> str:
        """For a small network the calculation for the first sample, as in the article; else a line for each layer."""
        if worked.is_small(self.layers):
            return worked.as_text(worked.example(self.layers, self.error, self.target))
        return worked.summary(self.layers, self.error)

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """The error and the layers as JSON values."""
        return {"error": self.error, "layers": [as_dict(layer) for layer in self.layers]}


def trace(model: nn.Module, x: Tensor, target: Any, loss: Loss) -> Trace:
    """The inputs, outputs and gradients of every `Dense` layer in the model, for these samples.

    The gradients come from the formulas: δ = ē ⊙ f′(z), and ∂E/∂W and ∂E/∂b from δ. Afterwards the model's parameters,
    `.grad`, buffers, hooks and mode, and PyTorch's random number generators, are as they were. Other state that the
    forward pass changes, such as a counter, stays changed. Compiled parts run uncompiled.

    Args:
        model: has `Dense` layers anywhere in it, such as an `MLP`, or was made by `convert`. It is called as
            `model(x)`, in its current mode.
        x: [*, I], the samples.
        target: the loss's second argument.
        loss: E = loss(model(x), target), a scalar.

    Raises:
        ValueError: the forward pass uses no `Dense`; or E is no scalar, or does not depend on a `Dense`.

    Example:
        >>> from torchann import MLP, HalfSquaredErrorLoss
        >>> net, x, y = MLP([3, 4, 1]), torch.randn(5, 3), torch.rand(5, 1)
        >>> hidden, output = trace(net, x, y, HalfSquaredErrorLoss()).layers
        >>> hidden.name, tuple(hidden.delta.shape), tuple(output.weight_gradient.shape)
        ('layers.0', (5, 4), (1, 4))
    """
    recorded: list[Call] = []

    def record(layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        if not output.requires_grad:  # everything up to here is frozen
            output = output.detach().requires_grad_()
        recorded.append(Call(layer, x.detach().clone(), output))
        return output.clone()  # so that later in-place operations don't change the recorded output

    model = unwrap(model)
    with undisturbed(model), hooked(model, record):
        output = model(outside_inference(x))
        calls = list(recorded)  # a copy: activation checkpointing runs, and records, layers again in the backward pass
        error = loss(output, outside_inference(target))
        check(calls, error)
        outputs = [call.output for call in calls]
        grads = torch.autograd.grad(error, outputs, allow_unused=True)
    with torch.no_grad(), no_autocast(calls[0].output.device):
        layers = lay_open(model, calls, [as_zeros(grad, o) for grad, o in zip(grads, outputs, strict=True)])
    detached = output.detach() if isinstance(output, Tensor) else output
    return Trace(error.item(), detached, target, tuple(layers))


class Layer(NamedTuple):
    """A `Dense`, or an `nn.Linear` and its activation in a Sequential that `convert` made."""

    linear: Any  # the module with weight and bias
    activation_module: nn.Module | None  # the module of f, which follows `linear`; None for a Dense

    @property
    def activation(self) -> Activation:
        return table.get(self.activation_module or self.linear.activation)


class Call(NamedTuple):
    layer: Layer
    x: Tensor
    output: Tensor


def layers_of(model: nn.Module) -> list[Layer]:
    of_sweeps = [Layer(linear, activation) for linear, activation in pairs(model)]
    return [*(Layer(module, None) for module in model.modules() if isinstance(module, Dense)), *of_sweeps]


def lay_open(model: nn.Module, calls: list[Call], grads: list[Tensor]) -> Iterator[LayerTrace]:
    """Compute the numbers of each layer by the formulas."""
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}
    uses: Counter[nn.Module] = Counter()
    before: Tensor | None = None
    for (layer, x, output), grad_output in zip(calls, grads, strict=True):
        linear, activation = layer.linear, layer.activation
        uses[linear] += 1
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        # Under autocast a layer computes in a narrower dtype than that of its parameters.
        dtype = torch.promote_types(output.dtype, weight.dtype)
        x, o, grad_output = (worked.as_rows(tensor).detach().to(dtype) for tensor in (x, output, grad_output))
        z = formulas.pre_activation(x, weight, bias)
        slope = derivative(activation, z, o)
        delta = grad_output * slope  # not `formulas.delta`, which does not take plain callables
        yield LayerTrace(
            name=names[linear] + (f"-{uses[linear]}" if uses[linear] > 1 else ""),
            activation=activation,
            follows=before is not None and torch.equal(before, x),
            x=x,
            weight=weight,
            bias=bias,
            z=z,
            o=o,
            slope=slope,
            grad_output=grad_output,
            delta=delta,
            weight_gradient=formulas.weight_gradient(delta, x),
            bias_gradient=formulas.bias_gradient(delta),
        )
        before = o


def check(calls: list[Call], error: Any) -> None:
    if not calls:
        raise ValueError("model: expected at least one torchann.Dense that its forward pass reaches, got none")
    if not isinstance(error, Tensor) or error.numel() != 1:
        got = f"shape {list(error.shape)}" if isinstance(error, Tensor) else type(error).__name__
        raise ValueError(f"loss: expected a scalar, got {got}")
    if not error.requires_grad:
        raise ValueError("loss: expected one that depends on a Dense of the model, got one without a gradient")


def as_zeros(grad: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if grad is None else grad


# --- Disagreement with autograd ---------------------------------------------------------------------------------------


class Disagreement(NamedTuple):
    """How far the hand-derived gradients are from autograd's.

    Attributes:
        gradients: ‖g − g′‖ / ‖g′‖ for each parameter of a `Dense` that is trained, by its name in the model.
        is_repeatable: whether the model and the loss gave the same values in both runs, but for rounding. They do not
            depend on f′. Where they differ, the forward pass has state that is no buffer, or uses random numbers that
            are not PyTorch's, and `gradients` says nothing about the formulas.
    """

    gradients: dict[str, float]
    is_repeatable: bool


def disagreement(model: nn.Module, x: Tensor, target: Any, loss: Loss) -> Disagreement:
    """Compare the hand-derived gradient with the one that autograd finds for `f(F.linear(x, W, b))`.

    The model runs twice: as it is, and with that composition in place of each `Dense`. Both runs start from the same
    buffers and the same state of PyTorch's random number generators.

    Args:
        model, x, target, loss: as for `trace`.

    Example:
        >>> from torchann import MLP, HalfSquaredErrorLoss
        >>> x, y = torch.randn(5, 3), torch.rand(5, 1)
        >>> found = disagreement(MLP([3, 4, 1]), x, y, HalfSquaredErrorLoss())
        >>> found.is_repeatable, all(value < 1e-4 for value in found.gradients.values())
        (True, True)
    """
    coarsest = 0.0  # ε of the dtypes that the layers compute in; under autocast not that of the parameters

    def compose(layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        nonlocal coarsest
        z = formulas.pre_activation(x, layer.linear.weight, layer.linear.bias)
        o = formulas.activate(z, layer.activation)
        coarsest = max(coarsest, torch.finfo(o.dtype).eps)
        return o

    model = unwrap(model)
    layers = [layer.linear for layer in layers_of(model)]
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = list(dict.fromkeys(p for layer in layers for p in layer.parameters() if p.requires_grad))

    def run(hook: Callable[..., Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the parameters; and the values of the forward pass: the outputs, and E."""
        with undisturbed(model), hooked(model, hook) if hook else nullcontext():
            output = model(outside_inference(x))
            error = loss(output, outside_inference(target))
            grads = torch.autograd.grad(error, parameters, allow_unused=True)
        gradients = [as_zeros(grad, parameter) for grad, parameter in zip(grads, parameters, strict=True)]
        leaves = pytree.tree_leaves((output, error))
        return gradients, [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]

    if not parameters:
        return Disagreement({}, is_repeatable=True)
    (by_hand, values), (by_autograd, values_again) = run(None), run(compose)
    differences = {
        names[parameter]: relative_difference(ours, theirs)
        for parameter, ours, theirs in zip(parameters, by_hand, by_autograd, strict=True)
    }
    return Disagreement(differences, are_close(values, values_again, coarsest**0.5))


def are_close(values: list[Tensor], others: list[Tensor], tolerance: float) -> bool:
    """To `tolerance`, a part of the norm of each tensor; above rounding, below what a change of state does."""
    return [value.shape for value in values] == [other.shape for other in others] and all(
        relative_difference(value, other) <= tolerance for value, other in zip(values, others, strict=True)
    )


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    difference, norm = torch.linalg.vector_norm(ours - theirs).item(), torch.linalg.vector_norm(theirs).item()
    return difference / norm if norm else difference


# --- Leaving the model as it was --------------------------------------------------------------------------------------


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DDP and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := without_compile(model), nn.Module):
            model = inner
        else:
            return model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Turn autograd on; afterwards restore the buffers and PyTorch's random number generators."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    buffers = [(own_buffers(module), dict(own_buffers(module))) for module in model.modules() if own_buffers(module)]
    copies = {buffer: buffer.clone() for _, own in buffers for buffer in own.values() if buffer is not None}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=[device.index for device in devices]))
        if any(is_compiled(module) for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code may skip hooks
        try:
            for held, own in buffers:
                held.update({name: None if buffer is None else copies[buffer] for name, buffer in own.items()})
            yield
        finally:
            for held, own in buffers:
                held.update(own)


@contextmanager
def hooked(model: nn.Module, hook: Callable[[Layer, Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Call the hook with every layer, its input and its output, before the user's own hooks; its result is the output.

    While their layers have hooks, an `MLP` and a Sequential made by `convert` call them one by one.
    """

    def on_output(layer: Layer, received: list[Tensor]) -> Any:
        return lambda module, args, output: hook(layer, received.pop(), output)

    handles = []
    for layer in layers_of(model):
        received: list[Tensor] = []
        remember = lambda module, args, kwargs, received=received: received.append(  # noqa: E731
            args[0] if args else next(iter(kwargs.values()))
        )
        handles += [
            layer.linear.register_forward_pre_hook(remember, with_kwargs=True),
            (layer.activation_module or layer.linear).register_forward_hook(on_output(layer, received), prepend=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def outside_inference(value: Any) -> Any:
    """A copy of a tensor that was made in inference mode, as autograd can't save those."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def no_autocast(device: torch.device) -> Any:
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
