"""Layers, networks and the loss. They check arguments, follow autocast, and fold leading dimensions into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import functional as F

from torchann import activations as table
from torchann import formulas, functions, transforms
from torchann.activations import Activation, ActivationLike
from torchann.fast import has_few_entries
from torchann.fast.fused import DIFFERENTIABLE
from torchann.functions import Reduction
from torchann.sweeps import Optionals


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: ActivationLike = "sigmoid") -> Tensor:
    """A linear layer and its activation, o = f(x Wᵀ + b), with a backward pass derived by hand (docs/derivation.md).

    For ē = ∂E/∂o it is δ = ē ⊙ f′(z), and then ∂E/∂W = δᵀ x, ∂E/∂b = Σₙ δₙ and ∂E/∂x = δ W.

    Args:
        x: [*, in_features], any number of leading dimensions, of any size.
        weight: W, [out_features, in_features].
        bias: b, [out_features], or None.
        activation: a name in `torchann.activations.TABLE`, an `Activation`, or any differentiable elementwise callable.

    Returns:
        o, [*, out_features], differentiable to any order.

    Raises:
        ValueError: a shape or device does not fit; the activation is unknown, not differentiable or changes the shape.
        TypeError: an argument is not a tensor, not of a real floating-point dtype, or not of x's dtype.

    Example:
        >>> x, weight, bias = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True), torch.zeros(4)
        >>> dense(x, weight, bias, "tanh").sum().backward()
        >>> weight.grad.shape
        torch.Size([4, 3])
    """
    return network(x, [weight], [bias], [table.get(activation)], "weight", "bias")


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals | None = None,
    activations: ActivationLike | Sequence[ActivationLike] = "sigmoid",
    checkpoint: int | None = None,
) -> Tensor:
    """A whole network as one autograd Function: every layer forward, then case 1 and case 2 backward, in one sweep.

    Only an activation without a df (a plain callable) ends a sweep: autograd differentiates it, and the next layer
    starts another sweep.

    Args:
        x: [*, sizes[0]], any number of leading dimensions, of any size.
        weights: W of each layer l, [sizes[l + 1], sizes[l]].
        biases: b of each layer, [sizes[l + 1]], or None; None for a network without.
        activations: one for each layer, or one for all; each as in `dense`.
        checkpoint: k, to keep only every k-th layer's output for the backward pass and recompute the rest; None to
            keep all. Same gradients, in float64 to the bit. Ignored under torch.func and torch.compile.

    Returns:
        [*, sizes[-1]], differentiable to any order.

    Raises:
        ValueError, TypeError: as `dense`, naming the layer.

    Example:
        >>> x, weights = torch.randn(5, 3), [torch.randn(4, 3), torch.randn(1, 4)]
        >>> mlp(x, weights, activations=["sigmoid", "identity"]).shape
        torch.Size([5, 1])
    """
    layers = checked_layers(weights, biases, activations)
    check_checkpoint(checkpoint)
    return network(x, *layers, checkpoint=checkpoint)


def checked_layers(
    weights: Sequence[Tensor], biases: Optionals | None, activations: ActivationLike | Sequence[ActivationLike]
) -> tuple[list[Tensor], list[Tensor | None], list[Activation]]:
    """One entry a layer in each; raises if their numbers differ."""
    weights = list(weights)
    biases = [None] * len(weights) if biases is None else list(biases)
    # Dynamo of PyTorch 2.9 traces no types: a tuple of classes, and the type of the cast in quotes.
    is_one_for_all = isinstance(activations, (str, Activation)) or callable(activations)
    each = [activations] * len(weights) if is_one_for_all else activations
    rows = [table.get(activation) for activation in cast("Sequence[ActivationLike]", each)]
    if not weights:
        raise ValueError("weights: expected at least one layer, got none")
    for name, given in (("biases", biases), ("activations", rows)):
        if len(given) != len(weights):
            raise ValueError(f"{name}: expected {len(weights)}, one for each of weights, got {len(given)}")
    return weights, biases, rows


def half_squared_error(output: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """E = ½ Σₖ (oₖ − yₖ)² of each sample, over the last dimension; ∂E/∂o = o − y (case 1).

    Args:
        output: o, [*, K].
        target: y, of output's shape.
        reduction: "mean" averages E over the samples, "sum" adds them, "none" keeps one value a sample, [*].
            Note that `torch.nn.MSELoss` averages over K as well and has no ½.

    Returns:
        E: a scalar, or [*] with "none"; differentiable to any order.

    Raises:
        ValueError: shapes or devices differ, there is no dimension K, or the reduction is unknown.
        TypeError: an argument is not a tensor, not of a real floating-point dtype, or the dtypes differ.

    Example:
        >>> half_squared_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(2.5000)
    """
    check_reduction(reduction)
    check_tensor("output", output)
    check_tensor("target", target)
    if transforms.autocast_dtype(output):  # a loss is computed in float32, as PyTorch's own are
        output, target = (e if e.dtype == torch.float64 else e.float() for e in (output, target))
    if output.dim() == 0:
        raise ValueError("output: expected at least 1 dimension [*, K], got a scalar")
    if transforms.tracing_state() is None and target.shape != output.shape:
        raise ValueError(f"target: expected the shape of output {list(output.shape)}, got {list(target.shape)}")
    check_same("target", target, "output", output)
    return functions.half_squared_error(output, target, reduction)


def network(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    weight_name: str = "weights[{}]",
    bias_name: str = "biases[{}]",
    checkpoint: int | None = None,
) -> Tensor:
    """One node for each run of layers whose derivatives are known; a plain callable ends a run."""
    if transforms.is_autocast_on():
        x, weights, biases = autocast(x, weights, biases)
    seen_by = transforms.onlooker()
    if seen_by and transforms.tracing_state() is not None:  # where sizes are tensors, which can't be compared
        return record(x, weights, biases, activations, "torch.jit.trace")
    if not fit(x, weights, biases):
        if isinstance(x, Proxy):
            return record(x, weights, biases, activations, "torch.fx.symbolic_trace")
        if isinstance(x, Tensor) and x.is_nested and x.layout is torch.strided:  # which has no sizes to check
            return nested_network(x, weights, biases, activations, checkpoint)
        explain(x, weights, biases, weight_name, bias_name)
    if x.is_nested:
        return nested_network(x, weights, biases, activations, checkpoint)
    if seen_by and (recorder := transforms.recording()):
        return record(x, weights, biases, activations, recorder)
    start = 0
    for stop, activation in enumerate(activations, start=1):
        if activation.df is None and (torch.is_grad_enabled() or not is_checked(activation)):
            linear_last = [*activations[start : stop - 1], table.TABLE["identity"]]
            z = over_rows(x, weights[start:stop], biases[start:stop], linear_last, checkpoint, seen_by)
            x = call_own(activation, z)
            start = stop
    if start == len(weights):
        return x
    if start > 0:
        weights, biases, activations = weights[start:], biases[start:], activations[start:]
    if x.dim() == 2:
        return functions.node(x, weights, biases, activations, checkpoint, seen_by)
    return over_rows(x, weights, biases, activations, checkpoint, seen_by)


def infer(x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]) -> Tensor | None:
    """Inference for a module, whose parameters fit: f(x Wᵀ + b) layer after layer, as in `nn.Sequential`.

    None where a sweep is faster, where a plain callable was not yet checked, or where something doesn't fit. The caller
    then calls `network`, which raises the error if there is one.
    """
    if not has_few_entries(x) or transforms.onlooker() is not None:
        return None
    for activation in activations:
        if activation.df is None and not is_checked(activation):
            return None
    return one_by_one(x, weights, biases, activations)


def one_by_one(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]
) -> Tensor | None:
    """f(x Wᵀ + b) by PyTorch's operations, layer after layer; None where something doesn't fit."""
    try:
        for weight, bias, activation in zip(weights, biases, activations, strict=True):
            x = activation.f(F.linear(x, weight, bias))
    except (RuntimeError, TypeError):
        return None
    return x


def over_rows(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    checkpoint: int | None,
    seen_by: str | None,
) -> Tensor:
    """The network over rows: leading dimensions are folded into one and put back."""
    if x.dim() == 2:
        return functions.node(x, weights, biases, activations, checkpoint, seen_by)
    rows = x.flatten(0, -2) if x.dim() > 2 else x.unsqueeze(0)
    output = functions.node(rows, weights, biases, activations, checkpoint, seen_by)
    return output.reshape(*x.shape[:-1], weights[-1].shape[0])


def nested_network(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation], checkpoint: int | None
) -> Tensor:
    """The network over the rows of a nested tensor; a jagged one holds them all in one tensor."""
    if x.layout is torch.jagged:
        return transforms.on_values_of_jagged(
            lambda rows: network(rows, weights, biases, activations, checkpoint=checkpoint), x
        )
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        z = formulas.pre_activation(x, weight, bias)
        by_autograd = activation.df is None or activation in DIFFERENTIABLE
        x = activation.f(z) if by_autograd else functions.activate(z, activation)
    return x


def record(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation], recorder: str
) -> Tensor:
    """f(x Wᵀ + b) in PyTorch's own operations, which a tracer can save; autograd differentiates them later.

    Raises:
        RuntimeError: an activation's df or d2f differs from the derivative that autograd will compute.
    """
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        if activation.df is not None:
            check_recordable(activation.key, recorder)
        x = activation.f(formulas.pre_activation(x, weight, bias))
    return x


@transforms.constant_to_dynamo  # else Dynamo would replace the error's message
def check_recordable(key: str, recorder: str) -> None:
    activation = table.by_key(key)
    if activation.disagreement:
        raise RuntimeError(
            f"activation {activation.name!r}: {recorder} keeps f alone, which autograd will then differentiate, but "
            f"{activation.disagreement}; for autograd's derivatives, or for inference, pass f as a plain callable"
        )


def call_own(activation: Activation, z: Tensor) -> Tensor:
    """o = f(z) for a plain callable; raises if o is not a differentiable tensor of z's shape and dtype."""
    o: Any = activation.f(z)
    if not isinstance(o, Tensor):
        raise TypeError(f"activation {activation.name!r}: expected it to return a Tensor, got {type(o).__name__}")
    if o.shape != z.shape:
        raise ValueError(
            f"activation {activation.name!r}: expected it to keep the shape {list(z.shape)}, got {list(o.shape)}"
        )
    if o.dtype != z.dtype and not transforms.autocast_dtype(z):
        raise TypeError(f"activation {activation.name!r}: expected it to keep the dtype {z.dtype}, got {o.dtype}")
    if z.requires_grad and not o.requires_grad and torch.is_grad_enabled() and transforms.only_autograd():
        raise ValueError(
            f"activation {activation.name!r}: expected a differentiable function, got an output without a gradient"
        )
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        object.__setattr__(activation, "is_checked", True)
    return o


def is_checked(activation: Activation) -> bool:
    """Whether f was seen to keep shape and dtype. From then on, inference treats it like an activation with a df."""
    return getattr(activation, "is_checked", False)


def autocast(x: Tensor, weights: Sequence[Tensor], biases: Optionals) -> tuple[Tensor, Sequence[Tensor], Optionals]:
    """The tensors in autocast's dtype where it is on, except those in float64, as `F.linear` does.

    Gradients come back in the parameters' own dtypes.
    """
    dtype = transforms.autocast_dtype(x) if isinstance(x, Tensor) else None
    if dtype is None:
        return x, weights, biases

    def to_dtype(tensor: Any) -> Any:
        casts = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if casts else tensor

    return to_dtype(x), [to_dtype(weight) for weight in weights], [to_dtype(bias) for bias in biases]


def are_cast(*tensors: Tensor) -> bool:
    """Whether autocast, if it is on, gives all the same dtype."""
    return bool(transforms.autocast_dtype(tensors[0])) and all(tensor.dtype != torch.float64 for tensor in tensors)


def fit(x: Tensor, weights: Sequence[Tensor], biases: Optionals) -> bool:
    """Whether all have the shapes, the dtype and the device that they need."""
    try:
        if not x.is_floating_point():
            return False
        width, dtype, is_cpu = x.shape[-1], x.dtype, x.is_cpu
        for weight, bias in zip(weights, biases, strict=True):
            outputs, inputs = weight.shape
            if inputs != width or weight.dtype is not dtype or weight.is_cpu is not is_cpu:
                return False
            width = outputs
            if bias is not None and (bias.shape != (width,) or bias.dtype is not dtype or bias.is_cpu is not is_cpu):
                return False
        return is_cpu or all(tensor is None or tensor.device == x.device for tensor in (*weights, *biases))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # not a tensor, or of other dimensions
        return False


def explain(x: Tensor, weights: Sequence[Tensor], biases: Optionals, weight_name: str, bias_name: str) -> None:
    """Raise the error for what `fit` found wrong."""
    check_input(x)
    width, source = x.shape[-1], "the last dimension of x"
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        name = weight_name.format(layer)
        check_tensor(name, weight)
        if weight.dim() != 2 or weight.shape[1] != width:
            raise ValueError(
                f"{name}: expected shape [out_features, {width}], as {source} is {width}, got {list(weight.shape)}"
            )
        check_same(name, weight, "x", x)
        width, source = weight.shape[0], f"the first dimension of {name}"
        if bias is None:
            continue
        name = bias_name.format(layer)
        check_tensor(name, bias)
        if bias.dim() != 1 or bias.shape[0] != width:
            raise ValueError(f"{name}: expected shape [{width}], as {source} is {width}, got {list(bias.shape)}")
        check_same(name, bias, "x", x)


def check_reduction(reduction: Reduction) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")


def check_checkpoint(k: int | None) -> None:
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
        raise ValueError(f"checkpoint: expected a positive integer or None, got {k!r}")


def check_input(x: Tensor) -> None:
    check_tensor("x", x)
    if x.dim() == 0:
        raise ValueError("x: expected at least 1 dimension [*, in_features], got a scalar")


def check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a real floating-point tensor, got {tensor.dtype}")


def check_same(name: str, tensor: Tensor, reference_name: str, reference: Tensor) -> None:
    """Raises if dtype or device differ. Dtypes that autocast will make the same may differ."""
    if tensor.dtype != reference.dtype and not are_cast(tensor, reference):
        raise TypeError(f"{name}: expected the dtype of {reference_name}, {reference.dtype}, got {tensor.dtype}")
    if tensor.device != reference.device:
        raise ValueError(f"{name}: expected the device of {reference_name}, {reference.device}, got {tensor.device}")
