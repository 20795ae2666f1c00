"""What is checked: a callable or a module as a function of flat arguments, and one set of them, by name.

Here inputs are flattened, copied and named, the parameters of a module join them, and all of it is cast.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from torchann.transforms import pytree
from torchann.verification.findings import Skipped


@dataclass(frozen=True)
class Target:
    """A callable or a module as a function of its flat arguments, the parameters last, that returns a flat tuple."""

    fn: Callable[..., Any]
    spec: pytree.TreeSpec  # how the flat arguments make up the inputs
    module: nn.Module | None = field(init=False)  # fn, where it is one

    def __post_init__(self) -> None:
        # Asked here, as Dynamo of PyTorch 2.9 can't ask it of a Function's apply.
        object.__setattr__(self, "module", self.fn if isinstance(self.fn, nn.Module) else None)

    def __call__(self, *flat: Any) -> tuple[Tensor, ...]:
        inputs, parameters = self.unflatten(flat), flat[self.spec.num_leaves :]
        if self.module is not None:
            named = dict(zip(trained(self.module), parameters, strict=True))
            output = functional_call(self.module, named, inputs)
        else:
            output = self.fn(*inputs, *parameters)
        return tuple(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))

    def unflatten(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        return pytree.tree_unflatten(flat[: self.spec.num_leaves], self.spec)

    def to(self, dtype: torch.dtype) -> Target:
        return self if self.module is None else replace(self, fn=copy.deepcopy(self.module).to(dtype))


@dataclass(frozen=True)
class Case:
    """fn and its reference at one set of arguments."""

    fn: Target
    reference: Target | None
    arguments: tuple[Any, ...]  # flat
    names: tuple[str, ...]  # of the arguments
    wrt: tuple[int, ...]  # the arguments that are differentiated

    @property
    def needed_reference(self) -> Target:
        if self.reference is None:
            raise Skipped("no reference")
        return self.reference

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.arguments[index] for index in self.wrt)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self.names[index] for index in self.wrt)

    @property
    def gradient_names(self) -> list[str]:
        return [f"gradient of {name}" for name in self.tensor_names]

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    def at(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments, with these tensors in place of those that are differentiated."""
        replaced = dict(zip(self.wrt, tensors, strict=True))
        return tuple(replaced.get(index, argument) for index, argument in enumerate(self.arguments))

    def moved_to(self, tensors: Sequence[Tensor]) -> Case:
        return replace(self, arguments=self.at(tensors))

    def function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """fn as a function of what is differentiated. It is given copies, in case it writes over them."""
        return self.fn(*self.at([tensor.clone() for tensor in tensors]))

    def function_to(self, kept: Sequence[bool]) -> Callable[..., tuple[Tensor, ...]]:
        """The same function with only those outputs that are kept."""

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(output for output, keep in zip(self.function(*tensors), kept, strict=True) if keep)

        return function

    def to(self, dtype: torch.dtype) -> Case:
        """All in another dtype, modules included."""
        arguments = tuple(a.to(dtype) if is_floating(a) else a for a in self.arguments)
        reference = None if self.reference is None else self.reference.to(dtype)
        return replace(self, fn=self.fn.to(dtype), reference=reference, arguments=arguments)


def make_case(fn: Callable[..., Any], inputs: Any, reference: Callable[..., Any] | None) -> Case:
    """Tensors are copied, and so is a module: whatever fn does to them stays here."""
    if isinstance(inputs, (Tensor, str)) or not isinstance(inputs, Sequence):
        raise TypeError(f"inputs: expected a tuple of arguments, got {type(inputs).__name__}")
    check_parameters(fn, reference)
    flat, spec = pytree.tree_flatten(tuple(inputs))
    if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in flat):
        raise ValueError("inputs: complex tensors are not supported")
    floating = [index for index, leaf in enumerate(flat) if is_floating(leaf)]
    wrt = [index for index in floating if flat[index].requires_grad] or floating
    names = input_names(fn, inputs)
    if isinstance(fn, nn.Module):
        fn = copy.deepcopy(fn)
    parameters = trained(fn)
    wrt += range(len(flat), len(flat) + len(parameters))
    flat += parameters.values()
    names += [f"parameter {name}" for name in parameters]
    if not wrt:
        raise ValueError("inputs: expected a tensor of floating point to differentiate by, got none")
    arguments = tuple(leaf.detach().contiguous().clone() if isinstance(leaf, Tensor) else leaf for leaf in flat)
    of_reference = None if reference is None else Target(reference, spec)
    return Case(Target(fn, spec), of_reference, arguments, tuple(names), tuple(wrt))


def as_callable(role: str, fn: Any) -> Callable[..., Any]:
    if isinstance(fn, type) and issubclass(fn, Function):
        return fn.apply
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{role}: expected a callable, a module or an autograd.Function, got {fn!r}")
    return fn


def check_parameters(fn: Callable[..., Any], reference: Callable[..., Any] | None) -> None:
    if isinstance(reference, nn.Module):
        shapes, expected = ([list(parameter.shape) for parameter in trained(f).values()] for f in (reference, fn))
        if shapes != expected:
            raise ValueError(f"reference: expected parameters of the shapes of fn's, {expected}, got {shapes}")


def trained(fn: Callable[..., Any]) -> dict[str, nn.Parameter]:
    """The parameters that are differentiated: those of a module that are not frozen."""
    named = fn.named_parameters() if isinstance(fn, nn.Module) else ()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def input_names(fn: Callable[..., Any], inputs: Sequence[Any]) -> list[str]:
    """`input 1 (weight)`; `input 1 (weights)[0]` where it holds several tensors."""
    names, called = [], parameter_names(fn)
    for index, argument in enumerate(inputs):
        name = f"input {index}" + (f" ({called[index]})" if index < len(called) else "")
        count = len(pytree.tree_leaves(argument))
        names += [name] if count == 1 else [f"{name}[{leaf}]" for leaf in range(count)]
    return names


def parameter_names(fn: Callable[..., Any]) -> list[str]:
    """Of those that arguments can be given to by position, as far as they have names of their own."""
    function: Any = getattr(fn, "__self__", None)  # where fn is Function.apply
    is_function = isinstance(function, type) and issubclass(function, Function)
    try:
        signature = inspect.signature(function.forward if is_function else getattr(fn, "forward", fn))
    except (TypeError, ValueError):  # a builtin has none
        return []
    takes_ctx = is_function and function.setup_context is Function.setup_context
    parameters = list(signature.parameters.values())[takes_ctx:]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in by_position]


def name_of(fn: Callable[..., Any]) -> str:
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type):  # Function.apply
        return owner.__name__
    return getattr(fn, "__name__", type(fn).__name__)


def is_floating(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point()
