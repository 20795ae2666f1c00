"""The formulas of one layer with PyTorch's kernels for f, f′ and f″, under the same names and signatures.

The tests compare each with its formula. For an activation without kernels, its formulas are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from torchann import formulas
from torchann.activations import TABLE, Activation, Call
from torchann.formulas import bias_gradient, input_gradient, pre_activation, tangent, weight_gradient
from torchann.transforms import is_zero, zeros_like

__all__ = [
    "DIFFERENTIABLE", "ZETA", "activate", "activate_and_keep", "bias_gradient", "delta",
    "has_zero_second_derivative", "input_gradient", "kernels_of", "plus", "pre_activation", "tangent",
    "weight_gradient", "zeta",
]  # fmt: skip


class Kernels(NamedTuple):
    """One activation, in few passes over memory. s is z or o, as `Activation.reads` says."""

    activate: Callable[[Tensor], Tensor]  # z → o; z stays as it is
    activate_: Callable[[Tensor], Tensor]  # the same, over z if there is a kernel for that
    delta: Callable[[Tensor, Any], Tensor]  # (ē, s) → ē ⊙ f′(z)
    delta_: Callable[[Tensor, Any], Tensor]  # the same, over ē if there is a kernel for that


def kernels_of(activation: Activation) -> Kernels:
    """The kernels of an activation, made when they are first asked for."""
    try:
        return activation.kernels
    except AttributeError:
        pass
    if activation is formulas.IDENTITY:
        kernels = Kernels(itself, itself, first, first)  # o = z, δ = ē
    elif activation.aten:
        kernels = by_name(activation)
    else:
        kernels = by_formulas(activation)
    object.__setattr__(activation, "kernels", kernels)
    return kernels


def by_name(activation: Activation) -> Kernels:
    """PyTorch's kernels, called as `Activation.aten` says."""
    _, activate_, delta, delta_ = calls_of(activation)
    tensors = "error, o" if activation.reads_output else "error, z"
    return Kernels(activation.f, compiled("z", activate_), compiled(tensors, delta), compiled(tensors, delta_))


def calls_of(activation: Activation) -> tuple[Call, Call, Call, Call]:
    """The calls of the four kernels, with the operations that write over what they may."""
    f, backward = activation.aten
    return writing_over("", f), writing_over("z", f), writing_over("", backward), writing_over("error", backward)


def writing_over(tensor: str, call: Call) -> Call:
    """The call with operations in place: over the tensor of that name, and over what a call inside a call returns."""
    is_named_once = repr(call).count(repr(tensor)) == 1

    def variant(argument: Any) -> Any:
        if not isinstance(argument, tuple):
            return argument
        name, first, *others = argument
        is_tensor = first == tensor and (is_named_once or argument is call)
        others = [variant(first), *map(variant, others)]
        if is_tensor or isinstance(first, tuple):
            base, dot, overload = name.partition(".")
            if operation(f"{base}_{dot}{overload}"):
                return f"{base}_{dot}{overload}", *others
        if is_tensor and operation(f"{name}.{OUT[tensor]}"):
            options = others.pop() if isinstance(others[-1], dict) else {}
            return f"{name}.{OUT[tensor]}", *others, {**options, OUT[tensor]: tensor}
        return name, *others

    return variant(call)


OUT = {"z": "out", "error": "grad_input"}  # the name of the argument that f or a backward kernel writes to


def operation(name: str) -> Any:
    """An operation of `torch.ops.aten` by its name, such as `cos` or `mul.Tensor`; None if there is none."""
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base, None), overload or "default", None)


def compiled(tensors: str, call: Call) -> Callable[..., Tensor]:
    """A function of the tensors that makes the call.

    It is compiled from source, such as `lambda error, o: f1(error, f0(o))`, so that only the calls take time.
    """
    functions: dict[str, Any] = {"inf": math.inf}

    def source(argument: Any) -> str:
        if isinstance(argument, str):
            return argument
        if not isinstance(argument, tuple):
            return repr(argument)
        name, *arguments = argument
        options = arguments.pop() if isinstance(arguments[-1], dict) else {}
        written = [*map(source, arguments), *(f"{key}={tensor_or_value(value)}" for key, value in options.items())]
        functions[key := f"f{len(functions)}"] = in_place(name) or operation(name)
        return f"{key}({', '.join(written)})"

    def tensor_or_value(value: str) -> str:
        return value if value in OUT else repr(value)

    return eval(f"lambda {tensors}: {source(call)}", functions)


def in_place(name: str) -> Any:
    """A method or function in place, if there is one: it is called in less time than that of `torch.ops`."""
    base = name.partition(".")[0]
    return getattr(Tensor, base, None) or getattr(F, base, None) if base.endswith("_") else None


def by_formulas(activation: Activation) -> Kernels:
    """f and ē ⊙ f′ as the activation has them."""
    df = activation.df
    return Kernels(
        activation.f,
        activation.f,
        lambda grad_output, s: grad_output * df(s),  # type: ignore[misc]
        lambda grad_output, s: grad_output.mul_(df(s)),  # type: ignore[misc]
    )


def itself(z: Tensor) -> Tensor:
    return z


def first(delta: Tensor, _: Any) -> Tensor:
    return delta


# The activations whose f and backward kernel PyTorch differentiates as we do, to any order and in forward mode.
DIFFERENTIABLE = frozenset(TABLE[name] for name in ("sigmoid", "tanh", "relu", "identity"))

# ζ from t ⊙ f′(z) ⊙ ē and o, in fewer passes over memory than its formula takes.
ZETA: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    TABLE["sigmoid"]: lambda a, o: torch.addcmul(a, a, o, value=-2),  # f″ = f′ (1 − 2o)
    TABLE["tanh"]: lambda a, o: (a * o).mul_(-2),  # f″ = −2 f′ o
}


def activate(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z), written over z if the derivatives do not read z."""
    return kernels_of(activation).activate_(z) if activation.reads_output and activation.aten else activation.f(z)


def activate_and_keep(z: Tensor, activation: Activation, keeps: bool) -> tuple[Tensor, Tensor | None]:
    """o = f(z), and s if it is to be kept; o is written over z, unless that is s."""
    kernels = kernels_of(activation)
    if keeps and not activation.reads_output:
        return kernels.activate(z), z
    o = kernels.activate_(z)
    return o, o if keeps else None


def delta(grad_output: Tensor, s: Tensor | None, activation: Activation) -> Tensor:
    """δ = ē ⊙ f′(z); for the identity it is ē itself, so the caller must not write over the result."""
    if activation.aten:
        return kernels_of(activation).delta(grad_output, s)
    return formulas.delta(grad_output, s, activation)


def has_zero_second_derivative(activation: Activation) -> bool:
    """Whether f″ is known to be zero everywhere, so that ζ is."""
    return activation.d2f is torch.zeros_like


def zeta(t: Tensor, t_slope: Tensor, grad_output: Tensor, s: Tensor, activation: Activation) -> Tensor:
    """ζ = t ⊙ ē ⊙ f″(z) for an f′ that is not constant; starting from t ⊙ f′(z) saves a pass or two."""
    if has_zero_second_derivative(activation):
        return zeros_like(t)  # as in PyTorch, whose relu gives zeros; these take no memory
    if activation in ZETA:
        return ZETA[activation](t_slope * grad_output, s)
    return formulas.zeta(t, t_slope, grad_output, s, activation)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b; None stands for zero"""
    return b if is_zero(a) and b is not None else formulas.plus(a, b)
