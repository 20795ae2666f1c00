"""What is checked: a callable or a module as a function of flat arguments, at one set of them; and its runs.

Here inputs are flattened, copied and named, the parameters of a module join them, and all of it is cast. A run is a
forward pass with its graph, ready for backward passes.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parameter import is_lazy

from torchann.transforms import pytree
from torchann.verification.report import Mismatch, Skipped

# --- fn, as a function of flat arguments ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A callable or a module as a function of its flat arguments, the parameters last, that returns a flat tuple.

    Each call starts from the same random numbers, so that dropout is a function, too. Each call of a module runs a copy
    of it: with buffers of its own, and with the arguments as its parameters for as long as the graph lives. So a module
    that runs itself again in its backward pass finds the same tensors there.
    """

    fn: Callable[..., Any]
    spec: pytree.TreeSpec  # how the flat arguments make up args and kwargs
    domain: Callable[..., Any] | None = None  # from the inputs to fn's arguments
    seed: int = 0

    def __call__(self, *flat: Any) -> tuple[Tensor, ...]:
        fn, (args, kwargs) = self.callee(flat), self.call_arguments(flat)
        seed_all(self.seed)
        return tensors_in(fn(*args, **kwargs))

    def callee(self, flat: Sequence[Any]) -> Callable[..., Any]:
        """A copy of the module with these parameters; a callable is given them after its arguments."""
        parameters = flat[self.spec.num_leaves :]
        if isinstance(self.fn, nn.Module):
            return with_parameters(self.fn, dict(zip(trained(self.fn), parameters, strict=True)))
        return lambda *args, **kwargs: self.fn(*args, *parameters, **kwargs)

    def call_arguments(self, flat: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """args and kwargs: from the inputs, by the domain if there is one."""
        args, kwargs = pytree.tree_unflatten(flat[: self.spec.num_leaves], self.spec)
        if self.domain is not None:
            seed_all(self.seed)
            mapped = self.domain(*args)
            args = mapped if isinstance(mapped, tuple) else (mapped,)
        return args, kwargs

    def to(self, dtype: torch.dtype) -> Target:
        return replace(self, fn=cast_module(self.fn, dtype)) if isinstance(self.fn, nn.Module) else self


def tensors_in(output: Any) -> tuple[Tensor, ...]:
    """The tensors of an output, in lists, tuples, dicts and dataclasses; sparse ones dense."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(dense(leaf))
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_in([getattr(leaf, part.name) for part in dataclasses.fields(leaf)])
    return tuple(found)


def with_parameters(module: nn.Module, named: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module with other tensors as its parameters. Frozen parameters are shared, not copied."""
    known = dict(module.named_parameters())
    return copied(module, {id(known[name]): named.get(name, known[name]) for name in known})


def cast_module(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another dtype; complex parameters and buffers stay complex, which `module.to` does not do."""
    parameters = {
        id(each): nn.Parameter(cast(each.detach(), dtype), each.requires_grad)
        for each in module.parameters()
        if is_differentiable(each)
    }
    buffers = {id(each): cast(each.detach(), dtype) for each in module.buffers() if is_differentiable(each)}
    return copied(module, {**parameters, **buffers})


def copied(module: nn.Module, replaced: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A deep copy, with some of its tensors replaced, by their id. Results that it holds as attributes are detached."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # such as the weight that `weight_norm` computes
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, {**memo, **(replaced or {})})


def trained(fn: Callable[..., Any]) -> dict[str, nn.Parameter]:
    """The parameters that are differentiated: those of a module that are not frozen."""
    named = fn.named_parameters() if isinstance(fn, nn.Module) else ()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def seed_all(seed: int) -> None:
    """PyTorch's global generators, Python's, and NumPy's if it is loaded."""
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` writes a traceback where CUDA isn't initialised
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):  # None where its import is blocked
        numpy.random.seed(seed)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give every global generator its state back afterwards."""
    numpy = sys.modules.get("numpy")
    python, of_numpy = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(of_numpy)


# --- Dtypes -----------------------------------------------------------------------------------------------------------

COMPLEX = {torch.float64: torch.complex128, torch.float16: torch.complex32}  # of other dtypes: complex64


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A real tensor in this dtype, a complex one in the complex dtype of its precision."""
    return tensor.to(COMPLEX.get(dtype, torch.complex64) if tensor.is_complex() else dtype)


def is_differentiable(argument: Any) -> bool:
    return isinstance(argument, Tensor) and (argument.is_floating_point() or argument.is_complex())


def eps(*tensors: Tensor) -> float:
    """The ε of the coarsest dtype among tensors of floating point, real or complex."""
    return max((torch.finfo(tensor.dtype).eps for tensor in tensors if is_differentiable(tensor)), default=0.0)


def precise(tensor: Tensor) -> Tensor:
    """The values in float64, or in complex128: what comparisons are made in.

    Raises:
        Mismatch: fn has freed the tensor's memory. Reading it would kill the process.
    """
    if is_freed(tensor):
        raise Mismatch("the memory of an input or output was freed: its storage has 0 bytes")
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def is_freed(tensor: Tensor) -> bool:
    """Whether the storage was resized to 0 bytes, as reversible networks do to save memory."""
    return tensor.numel() > 0 and tensor.layout == torch.strided and tensor.untyped_storage().nbytes() == 0


# --- A case -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """fn at one set of arguments, its reference, and the function whose gradient it is meant to have."""

    fn: Target
    reference: Target | None
    surrogate: Target | None  # the argument `gradient` of `verify`
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

    @property
    def eps(self) -> float:
        return eps(*self.tensors)

    def at(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments, with these tensors in place of those that are differentiated."""
        replaced = dict(zip(self.wrt, tensors, strict=True))
        return tuple(replaced.get(index, argument) for index, argument in enumerate(self.arguments))

    def moved_to(self, tensors: Sequence[Tensor]) -> Case:
        return replace(self, arguments=self.at(tensors))

    def function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """fn as a function of what is differentiated. It is given copies, in case it writes over them."""
        return self.fn(*self.at([tensor.clone() for tensor in tensors]))

    def values(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What central differences are taken of: fn, or the function whose gradient it is meant to have."""
        return (self.surrogate or self.fn)(*self.at([tensor.clone() for tensor in tensors]))

    def to(self, dtype: torch.dtype) -> Case:
        """All in another dtype, modules included."""
        reference, surrogate = (target and target.to(dtype) for target in (self.reference, self.surrogate))
        arguments = tuple(cast(a, dtype) if is_differentiable(a) else a for a in self.arguments)
        return Case(self.fn.to(dtype), reference, surrogate, arguments, self.names, self.wrt)


def make_case(
    fn: Callable[..., Any],
    inputs: Any,
    reference: Callable[..., Any] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    gradient: Callable[..., Any] | None = None,
    domain: Callable[..., Any] | None = None,
) -> Case:
    """Tensors are copied, and so is a module: whatever fn does to them stays here."""
    if isinstance(inputs, (Tensor, str)) or not isinstance(inputs, Sequence):
        raise TypeError(f"inputs: expected a tuple of arguments, got {type(inputs).__name__}")
    if not isinstance(kwargs or {}, Mapping):
        raise TypeError(f"kwargs: expected a dict of arguments by name, got {type(kwargs).__name__}")
    for role, other in (("reference", reference), ("gradient", gradient)):
        check_parameters(role, fn, other)
    flat, spec = pytree.tree_flatten((tuple(inputs), dict(kwargs or {})))
    names = input_names(domain or fn, inputs, kwargs or {})
    check_inputs(flat, names)
    differentiable = [index for index, leaf in enumerate(flat) if is_differentiable(leaf)]
    wrt = [index for index in differentiable if flat[index].requires_grad] or differentiable
    if isinstance(fn, nn.Module):
        fn = copied(fn)
    parameters = trained(fn)
    wrt += range(len(flat), len(flat) + len(parameters))
    flat += parameters.values()
    names += [f"parameter {name}" for name in parameters]
    if not wrt:
        raise ValueError("inputs: expected a tensor of floating point to differentiate by, got none")
    arguments = tuple(leaf.detach().contiguous().clone() if isinstance(leaf, Tensor) else leaf for leaf in flat)
    of_reference, surrogate = (f and Target(f, spec, domain) for f in (reference, gradient))
    return Case(Target(fn, spec, domain), of_reference, surrogate, arguments, tuple(names), tuple(wrt))


def check_inputs(flat: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse the tensors that have no entries to differentiate by."""
    for leaf, name in zip(flat, names, strict=True):
        if is_lazy(leaf):
            raise ValueError(f"inputs: {name} is not initialised yet")
        if isinstance(leaf, Tensor) and (leaf.layout != torch.strided or leaf.is_nested):
            kind = "nested" if leaf.is_nested else f"of layout {leaf.layout}"
            raise ValueError(f"inputs: expected dense tensors; {name} is {kind}: pass the tensor of its values instead")


def as_callable(role: str, fn: Any) -> Callable[..., Any]:
    if isinstance(fn, type) and issubclass(fn, Function):
        return fn.apply
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{role}: expected a callable, a module or an autograd.Function, got {fn!r}")
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(fn, "__name__", "") == "forward":
        kind = type(owner).__name__
        raise TypeError(f"{role}: got {kind}.forward; pass the module itself, so that its parameters are checked, too")
    if isinstance(fn, nn.Module):
        lazy = [name for name, each in fn.named_parameters() if is_lazy(each)]
        if lazy:
            raise ValueError(f"{role}: its parameter {lazy[0]} is not initialised: call the lazy module once before")
    return fn


def check_parameters(role: str, fn: Callable[..., Any], other: Callable[..., Any] | None) -> None:
    if isinstance(other, nn.Module):
        shapes, expected = ([list(parameter.shape) for parameter in trained(f).values()] for f in (other, fn))
        if shapes != expected:
            raise ValueError(f"{role}: expected parameters of the shapes of fn's, {expected}, got {shapes}")


# --- Names of arguments -----------------------------------------------------------------------------------------------


def input_names(fn: Callable[..., Any], inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """`input 1 (weight)`; `input 1 (weights)[0]` where it holds several tensors; `input eps` by keyword."""
    names, called = [], parameter_names(fn)
    labels = [f"input {index}" + (f" ({called[index]})" if index < len(called) else "") for index in range(len(inputs))]
    for label, argument in (*zip(labels, inputs, strict=True), *((f"input {name}", kwargs[name]) for name in kwargs)):
        count = len(pytree.tree_leaves(argument))
        names += [label] if count == 1 else [f"{label}[{leaf}]" for leaf in range(count)]
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


# --- Runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A forward pass: the leaves that it is differentiated by, the arguments that fn was given, and its outputs."""

    leaves: tuple[Tensor, ...]
    given: tuple[Any, ...]  # the very arguments that fn was called with
    outputs: tuple[Tensor, ...]

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        outputs = tuple(output for output in self.outputs if output.requires_grad)
        if not outputs:
            raise Mismatch("no output requires grad: fn is cut from the graph")
        return outputs

    def backward(
        self, incoming: Sequence[Tensor] | None = None, outputs: Sequence[Tensor] | None = None, **options: bool
    ) -> list[Tensor]:
        """The gradient of each leaf. Unless given, the incoming gradients are random, and always the same."""
        outputs = self.differentiable if outputs is None else outputs
        incoming = random_like(outputs) if incoming is None else incoming
        found = gradients(outputs, self.leaves, incoming, **options)
        batch = incoming[0].shape[:1] if options.get("is_grads_batched") else ()
        return [
            leaf.new_zeros((*batch, *leaf.shape)) if gradient is None else gradient
            for leaf, gradient in zip(self.leaves, found, strict=True)
        ]

    def numbers(self) -> list[Tensor]:
        """Outputs and gradients, in float64."""
        return [precise(tensor) for tensor in (*self.outputs, *self.backward())]


def forward(fn: Callable[..., Any], case: Case, layout: Callable[[Tensor], Tensor] = torch.clone) -> Run:
    """fn, or another function of the same arguments, at copies of them; the inputs laid out in memory as asked."""
    at = leaves(case.tensors)
    inputs = case.fn.spec.num_leaves
    given = tuple(
        argument if not isinstance(argument, Tensor) else (layout if index < inputs else torch.clone)(argument)
        for index, argument in enumerate(case.at(at))
    )
    return Run(at, given, fn(*given))


ONLY_BY_BACKWARD = re.compile(r"compatible with \.grad\(\)")  # reentrant checkpointing, memcnn


def gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], incoming: Sequence[Tensor], **options: bool
) -> list[Tensor | None]:
    """`autograd.grad`, dense, with None where no gradient came; by `backward()` if fn works under that alone."""
    seed_all(1)
    try:
        found = torch.autograd.grad(outputs, leaves, incoming, allow_unused=True, **options)
    except RuntimeError as error:
        if not ONLY_BY_BACKWARD.search(str(error)) or options.keys() - {"retain_graph"}:
            raise
        seed_all(1)
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(outputs, incoming, retain_graph=options.get("retain_graph"))
        found = tuple(leaf.grad for leaf in leaves)  # type: ignore[misc]
        for leaf in leaves:
            leaf.grad = None
    return [None if gradient is None else dense(gradient) for gradient in found]


def dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout in (torch.strided, torch.jagged) else tensor.to_dense()


def leaves(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def random_like(tensors: Iterable[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    """Standard normal, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        shape = (*tensor.shape, 2) if tensor.is_complex() else tensor.shape
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (torch.view_as_complex(drawn) if tensor.is_complex() else drawn).to(tensor)

    return tuple(draw(tensor) for tensor in tensors)


def stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*rows, strict=True)]
