"""Backpropagation as the article describes it, in one call and without autograd: forward, case 1 and case 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import formulas
from torchann.activations import Activation
from torchann.fast import choose
from torchann.fast.checkpointed import Checkpointed
from torchann.functional.layers import fit
from torchann.modules import MLP, Dense, HalfSquaredErrorLoss
from torchann.sweeps import NeedsGrad, Optionals, to_keep
from torchann.transforms import (
    grandchildren,
    has_global_hooks,
    has_hooks,
    has_tensor_hooks,
    is_autocast_on,
    onlooker,
    own_attribute,
    weights_and_biases,
)


def backpropagate(
    net: nn.Module,
    x: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    gradient: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """Add to each parameter's `.grad` what `loss(net(x), target).backward()` would, by the sweeps alone.

    The steps are those of the article: the outputs of every layer, from input to output; case 1, ē = ∂E/∂o of the
    output layer; and case 2 from layer to layer down, δ = ē ⊙ f′(z), ∂E/∂W = δᵀ x, ∂E/∂b = Σₙ δₙ, and ē = δ W for the
    layer below. No graph is built, so it takes less time than autograd, and the results can't be differentiated.

    The sweeps run for an `MLP` or a `Dense` whose activations have a df. Autograd computes the same results for any
    other module, for one with hooks or parametrisations or in a wrapper (DDP, say), under autocast, torch.func or a
    mode, and where x needs a gradient.

    Args:
        net: from x to outputs [*, K].
        x: [*, I], as `net` takes it.
        target: as `loss` takes it.
        loss: of outputs and target, a scalar; None for `HalfSquaredErrorLoss()`. ē is computed by formula for that one,
            `nn.MSELoss`, `nn.CrossEntropyLoss` and `nn.BCEWithLogitsLoss`, if they have no weights; autograd
            computes it for any other.
        gradient: a factor on E, as in `Tensor.backward(gradient)`: the scale of a `GradScaler`, or 1 / n to average
            the gradients of n batches.

    Returns:
        E, a scalar, and the outputs [*, K]; neither has a graph.

    Raises:
        ValueError, TypeError: as `net` and `loss` do.
        RuntimeError: the loss is not a scalar.

    Example:
        >>> net, x, target = MLP([3, 4, 1]), torch.randn(5, 3), torch.rand(5, 1)
        >>> error, output = backpropagate(net, x, target)
        >>> error.shape, output.shape, net.layers[0].weight.grad.shape
        (torch.Size([]), torch.Size([5, 1]), torch.Size([4, 3]))
    """
    loss = HalfSquaredErrorLoss() if loss is None else loss
    layers = layers_of(net, x, target)
    if layers is None:
        return by_autograd(net, x, target, loss, gradient)
    weights, biases, activations = layers
    needs = NeedsGrad(False, [weight.requires_grad for weight in weights], [needs_grad(bias) for bias in biases])
    with torch.no_grad():
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        sweeps = choose(rows, weights, biases, activations)
        if getattr(net, "checkpoint", None):
            sweeps = Checkpointed(sweeps, net.checkpoint)  # type: ignore[arg-type]
        output, kept = sweeps.forward(rows, weights, biases, activations, to_keep(activations, needs.weights))
        outputs = output if x.dim() == 2 else output.view(*x.shape[:-1], output.shape[1])
        error, grad_output = case_1(loss, outputs, target, gradient)
        grad_output = grad_output if x.dim() == 2 else grad_output.reshape(output.shape)
        found = sweeps.gradients(grad_output, rows, weights, kept, activations, needs)
        for tensor, grad in zip((*weights, *biases), (*found.weights, *found.biases), strict=True):
            if tensor is not None and grad is not None:
                tensor.grad = grad if tensor.grad is None else tensor.grad.add_(grad)
    return error, outputs


def layers_of(net: nn.Module, x: Tensor, target: Tensor) -> tuple[list[Tensor], Optionals, list[Activation]] | None:
    """The layers' W, b and f; None if calling the module and `backward` would do anything that the sweeps do not."""
    modules = grandchildren(net, "layers") if type(net) is MLP else [net] if type(net) is Dense else []
    own = None if not modules or has_hooks(net) or has_global_hooks() else weights_and_biases(modules)
    if own is None or onlooker() is not None or is_autocast_on():
        return None
    weights, biases = own
    activations = []
    for module in modules:
        activation = module.row_of(own_attribute(module, "activation")) if type(module) is Dense else None
        if activation is None or activation.df is None:
            return None
        activations.append(activation)
    trained = False
    for tensor in (*weights, *biases):
        if tensor is not None:
            if has_tensor_hooks(tensor) or not tensor.is_leaf:
                return None
            trained = trained or tensor.requires_grad
    if not trained:
        return None  # autograd raises the error
    if not fit(x, weights, biases) or type(x) is not Tensor or x.requires_grad or x.is_nested:
        return None
    return None if needs_grad(target) or x.dim() < 2 else (weights, biases, activations)


def needs_grad(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.requires_grad


def by_autograd(
    net: nn.Module, x: Tensor, target: Tensor, loss: Callable[..., Tensor], gradient: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The same by `loss(net(x), target).backward()`."""
    with torch.enable_grad():
        output = net(x)
        error = loss(output, target)
        (error * gradient).backward()
    return error.detach(), output.detach()


# --- Case 1: E, and ē = ∂E/∂o of the output layer ---------------------------------------------------------------------


def case_1(
    loss: Callable[..., Tensor], output: Tensor, target: Tensor, gradient: float | Tensor
) -> tuple[Tensor, Tensor]:
    """E and ē: by formula for a loss in the table `CASE_1`, else by autograd."""
    by_hand = CASE_1.get(type(loss))
    fits = not target.is_floating_point() or target.dtype is output.dtype
    if by_hand and fits and not has_hooks(loss):  # type: ignore[arg-type]
        found = by_hand(loss, output, target)
        if found:
            error, grad_output = found
            return error, grad_output if type(gradient) is float and gradient == 1 else grad_output.mul_(gradient)
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        error = loss(leaf, target)
        (error * gradient).backward()  # also into parameters that the loss may have
    return error.detach(), torch.zeros_like(output) if leaf.grad is None else leaf.grad


def of_half_squared_error(loss: Any, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """E = ½ Σₖ (oₖ − yₖ)², its mean over the samples or its sum: ē = o − y  [*, K]"""
    if target.shape != output.shape or loss.reduction == "none":
        return None
    samples = 1 if loss.reduction == "sum" else output.shape[:-1].numel() or torch.nan
    error = F.mse_loss(output, target, reduction="sum") * (0.5 / samples)
    return error, formulas.half_squared_error_gradient(output, target).div_(samples)


def of_squared_error(loss: Any, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """E = Σ (o − y)², or its mean over all entries: ē = 2 (o − y)  [*, K]"""
    if target.shape != output.shape or loss.reduction == "none":
        return None
    entries = 1 if loss.reduction == "sum" else output.numel() or torch.nan
    return F.mse_loss(output, target, reduction=loss.reduction), (output - target).mul_(2 / entries)


def of_cross_entropy(loss: Any, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """E = −Σ_c y_c log p_c for p = softmax(o), its mean over the samples or its sum: ē = p − y  [N, C]

    y is one-hot for a target of class numbers.
    """
    is_plain = loss.weight is None and not loss.label_smoothing and loss.reduction != "none"
    if not is_plain or output.dim() != 2 or target.dim() not in (1, 2):
        return None
    error = loss(output, target)  # which checks the target
    p = output.softmax(1)
    if target.dim() == 2:
        # ∂E/∂o = S p − y for a row of shares y with the sum S, which need not be 1.
        grad_output = p * target.sum(1, keepdim=True) - target
        return error, grad_output if loss.reduction == "sum" else grad_output.div_(len(output))
    counts = target != loss.ignore_index
    one_hot = torch.zeros_like(p).scatter_(1, target.where(counts, 0).unsqueeze(1), 1)
    grad_output = (p - one_hot).mul_(counts.unsqueeze(1))
    return error, grad_output if loss.reduction == "sum" else grad_output.div_(counts.sum())


def of_binary_cross_entropy(loss: Any, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """E = −Σ y log p + (1 − y) log (1 − p) for p = σ(o), or its mean over all entries: ē = p − y  [*, K]"""
    if loss.weight is not None or loss.pos_weight is not None or loss.reduction == "none":
        return None
    error = loss(output, target)
    grad_output = output.sigmoid().sub_(target)
    return error, grad_output if loss.reduction == "sum" else grad_output.div_(output.numel())


CASE_1: dict[Any, Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor] | None]] = {  # by the class of the loss
    HalfSquaredErrorLoss: of_half_squared_error,
    nn.MSELoss: of_squared_error,
    nn.CrossEntropyLoss: of_cross_entropy,
    nn.BCEWithLogitsLoss: of_binary_cross_entropy,
}
