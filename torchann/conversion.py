"""`convert`: the same model of `nn.Linear` layers and activations, run as sweeps. `revert`: plain modules again."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchann import activations as table
from torchann import fast
from torchann.activations import TABLE, Activation
from torchann.functional.layers import network, one_by_one
from torchann.modules import ELEMENTWISE, MLP, Dense, as_sequential, plain
from torchann.sweeps import Optionals
from torchann.transforms import (
    children,
    has_global_hooks,
    has_hooks,
    is_autocast_on,
    onlooker,
    own_parameters,
    weight_and_bias,
)


def convert(model: nn.Module, report: bool = False) -> nn.Module:
    """A copy of the model in which each `nn.Sequential` runs its layers as one sweep forward and one backward.

    A layer is an `nn.Linear` with the activation behind it, if there is one. The copy holds the same `Parameter` and
    buffer objects: training it trains the original. It has the same modules as well: indices, slices, the keys of the
    state_dict and `isinstance` checks give what they gave before.

    A small network runs by PyTorch's own operations, layer after layer, because a sweep would be slower; each call
    decides that anew by the number of samples and the widths. So it does under autocast. To torch.compile and
    torch.export the copy shows its modules one by one.

    A module is called by itself, as in PyTorch, if it has hooks, or if there are hooks for all modules; if the
    `nn.Linear` is a subclass (quantised, parametrised), complex or of width 0; or if the activation has parameters of
    its own, draws random numbers or is unknown to torchann's table. The modules behind it run as a sweep again.
    `nn.Identity`, and dropout that drops nothing, do not end a sweep. Everything in a subclass of `nn.Sequential` that
    has its own `forward` is called as before.

    Args:
        model: not changed.
        report: print what became of each layer, and why.

    Returns:
        The copy.

    Example:
        >>> model = convert(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Softmax(-1)), report=True)
        0  Linear   layer 1 of 2: a sweep from 4096 samples on; without gradients, from 8192 on
        1  Tanh     activation of layer 1
        2  Linear   layer 2 of 2
        3  Softmax  called by itself: is no layer
        >>> type(model[0])
        <class 'torch.nn.modules.linear.Linear'>
    """
    model = copied(model)
    for module in model.modules():
        if (
            isinstance(module, nn.Sequential)
            and type(module).forward is nn.Sequential.forward
            and any(pairs_in(module))
        ):
            module.__class__ = as_sweep(type(module))
    if report:
        print(as_columns(fates(model)))
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy on the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def revert(model: nn.Module) -> nn.Module:
    """A copy of the model with plain `nn.Linear` and activations, on the same `Parameter` and buffer objects.

    For export, quantisation, and places where torchann is not installed. Each Sequential of `convert` becomes the
    class that it was, with the same keys in the state_dict. Each `Dense` and each `MLP` becomes an `nn.Sequential`,
    whose keys are `0.weight`, `2.weight` …

    Args:
        model: not changed.

    Returns:
        The copy.

    Raises:
        ValueError: a `Dense` or an `MLP` has hooks, is parametrised or is a subclass; or the df of an activation is not
            the derivative of its f, which autograd would take instead. The message names the module.

    Example:
        >>> revert(nn.Sequential(Dense(3, 4, "tanh"), nn.Softmax(-1)))
        Sequential(
          (0): Sequential(
            (0): Linear(in_features=3, out_features=4, bias=True)
            (1): Tanh()
          )
          (1): Softmax(dim=-1)
        )
    """
    return reverted(copied(model), "model", {})


def reverted(module: nn.Module, name: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module, or what takes its place; `done` has those of the modules that were met before."""
    if module in done:
        return done[module]
    found: Any = module
    if isinstance(module, MLP):
        if type(module) is not MLP or has_hooks(module):
            got = f"a {type(module).__name__}" + (" with hooks" if has_hooks(module) else "")
            raise ValueError(f"{name}: expected a plain MLP, got {got}; remove hooks before")
        found = as_sequential(module, f"{name}.")
    elif isinstance(module, Dense):
        found = nn.Sequential(*plain(module, name))
    elif isinstance(module, Sequential):
        vars(module).pop("plan", None)
        found.__class__ = module.original
    found.training = module.training
    done[module] = found
    for child_name, child in list(children(found).items()):
        if child is not None:
            setattr(found, child_name, reverted(child, f"{name}.{child_name}", done))
    return found


class Sequential(nn.Sequential):
    """An `nn.Sequential` whose layers, `nn.Linear` and activation, run as one sweep. Made by `convert`.

    Each call looks up its children anew, so they can be replaced, appended and given hooks as in any `nn.Sequential`.
    """

    original: type[nn.Sequential] = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps():
            x = step(x)
        return x

    def steps(self) -> Sequence[nn.Module | Run]:
        """What `forward` calls, one after the other."""
        modules = list(children(self).values())
        if has_global_hooks() or torch.compiler.is_compiling():  # a compiler fuses the operations itself
            return modules
        if any(map(has_hooks, modules)):
            return steps_of(modules)
        plan = self.__dict__.get("plan")  # of an earlier call, as finding it takes longer than a small layer
        if plan is None or not plan.holds_for(modules):
            plan = self.__dict__["plan"] = Plan(modules)
        return plan.steps

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "plan"}

    def __prepare_scriptable__(self) -> nn.Sequential:
        """What torch.jit.script reads: the modules one by one."""
        return nn.Sequential(OrderedDict(children(self).items()))

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return blank_sweep, (self.original,), self.__getstate__()


class Plan:
    """Which modules run together.

    Attributes:
        steps: a `Run` for consecutive layers, and each other module by itself; modules that do nothing are left out.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.kinds = list(map(type, modules))
        self.watched = [(vars(module), name) for module in modules for name in settings_of(module)]
        self.settings = [own.get(name) for own, name in self.watched]
        self.steps = steps_of(modules)

    def holds_for(self, modules: list[nn.Module]) -> bool:
        """Whether the plan is still right, for modules without hooks."""
        return (
            self.modules == modules
            and self.kinds == list(map(type, modules))
            and (not self.watched or self.settings == [own.get(name) for own, name in self.watched])
        )


class Run:
    """Consecutive layers. A call runs them as one sweep, or by PyTorch's operations where that is faster."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.linears: list[nn.Linear] = []
        self.activations: list[Activation] = []
        for module in modules:
            if isinstance(module, nn.Linear):
                self.linears.append(module)
                self.activations.append(TABLE["identity"])
            else:
                self.activations[-1] = table.get(module)
        widths = [linear.out_features for linear in self.linears]
        self.size = Size.of(self.linears[0].in_features, widths, self.activations)

    def __call__(self, x: Tensor) -> Tensor:
        weights: list[Any] = []
        biases: list[Any] = []
        try:
            for linear in self.linears:
                own = own_parameters(linear)
                weights.append(own["weight"])
                biases.append(own["bias"])
        except KeyError:  # a parameter was removed, and something else put in its place
            for module in self.modules:
                x = module(x)
            return x
        return run_layers(x, weights, biases, self.activations, self.size)


def steps_of(modules: Sequence[nn.Module]) -> list[nn.Module | Run]:
    """The modules in their order, with each stretch of layers as one `Run`; without those that do nothing."""
    modules = [module for module in modules if not does_nothing(module)]
    steps: list[nn.Module | Run] = []
    place = 0
    while place < len(modules):
        end = place
        while end < len(modules) and obstacle(modules[end]) == "" and isinstance(modules[end], nn.Linear):
            follows = end + 1 < len(modules) and obstacle(modules[end + 1]) == ""
            end += 2 if follows and not isinstance(modules[end + 1], nn.Linear) else 1
        if end - place > 1:
            steps.append(Run(modules[place:end]))
        else:  # no layer, or an nn.Linear alone
            steps.append(modules[place])
            end = place + 1
        place = end
    return steps


SWEEPS: dict[type[nn.Sequential], type[Sequential]] = {}  # by the class that they stand in for


def as_sweep(original: type[nn.Sequential]) -> type[Sequential]:
    """The class of Sequential that runs as a sweep, a subclass also of the original one."""
    if original is nn.Sequential:
        return Sequential
    if original not in SWEEPS:
        members = {"original": original, "__module__": original.__module__}
        SWEEPS[original] = type(original.__name__, (Sequential, original), members)
    return SWEEPS[original]


def blank_sweep(original: type[nn.Sequential]) -> Sequential:
    """An empty module, which pickle and copy then fill."""
    sweep = as_sweep(original)
    return sweep.__new__(sweep)


# --- Kinds of modules -------------------------------------------------------------------------------------------------

DROPOUT = (nn.Dropout, nn.AlphaDropout)


def obstacle(module: nn.Module) -> str:
    """Why a module can't be part of a `Run`; "" if it can: an `nn.Linear` or an activation with known derivatives."""
    if has_hooks(module):
        return "has hooks or another forward"
    if isinstance(module, nn.Linear):
        return "" if is_linear(module) else "is a subclass of nn.Linear, complex, empty, or has other parameters"
    if not isinstance(module, ELEMENTWISE):
        return "is no layer"
    if own_parameters(module):
        return "has parameters, so autograd differentiates it"
    return "" if table.get(module).df is not None else "has no row in torchann.activations.TABLE"


def is_linear(module: nn.Module) -> bool:
    """Whether the module is an `nn.Linear`, no subclass, with real parameters of its own that are not empty."""
    if type(module) is not nn.Linear:
        return False
    own = weight_and_bias(module)
    is_empty = not module.in_features * module.out_features  # not weight.shape: a tracer turns that into tensors
    return own is not None and own[0].is_floating_point() and not is_empty


def is_activation(module: nn.Module) -> bool:
    """Whether the module is an elementwise activation without parameters."""
    return isinstance(module, ELEMENTWISE) and not own_parameters(module)


def does_nothing(module: nn.Module) -> bool:
    """Whether calling the module returns its input: `nn.Identity`, and dropout that drops nothing."""
    if type(module) is nn.Identity:
        return not has_hooks(module)
    return type(module) in DROPOUT and not (module.training and module.p) and not has_hooks(module)


def settings_of(module: nn.Module) -> Sequence[str]:
    """The attributes that decide what the module computes, beside its parameters: an activation's, or dropout's."""
    if type(module) in DROPOUT:
        return "training", "p"
    return getattr(module, "__constants__", ()) if isinstance(module, ELEMENTWISE) else ()


# --- Which way is faster ----------------------------------------------------------------------------------------------

# Entries of a layer's output, on average over the layers, from which on a sweep is faster than PyTorch's operations
# one by one: forward and backward, and forward alone. Below, the node's Python code takes longer than it saves, which
# is memory traffic. A sweep saves less of it if the derivative of an activation reads z, which is then kept as well.
# `python -m benchmarks.crossover` measures this.
TRAINING = 1 << 18
INFERENCE = 1 << 19
READS_Z = 4  # times as many


class Size(NamedTuple):
    """What decides, beside the number of samples, whether a sweep is faster."""

    inputs: int  # the width of x
    width: float  # of the layers, on average
    reads_z: bool  # whether the derivative of an activation does

    @classmethod
    def of(cls, inputs: int, widths: Sequence[int], activations: Sequence[Activation]) -> Size:
        return cls(inputs, sum(widths) / len(widths), not all(row.reads_output for row in activations))

    def entries_for_a_sweep(self) -> tuple[int, int]:
        """In training, and without gradients."""
        factor = READS_Z if self.reads_z else 1
        return TRAINING * factor, INFERENCE * factor

    def __str__(self) -> str:
        training, inference = (math.ceil(entries / self.width) for entries in self.entries_for_a_sweep())
        return f"a sweep from {training} samples on; without gradients, from {inference} on"


def run_layers(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation], size: Size
) -> Tensor:
    """f(x Wᵀ + b), layer after layer, in the faster of two ways with the same results."""
    if not is_worth_a_sweep(x, size):
        output = one_by_one(x, weights, biases, activations)
        if output is not None:
            return output
    return network(x, weights, biases, activations)


def is_worth_a_sweep(x: Tensor, size: Size) -> bool:
    """Whether a sweep is faster; true also where something watches, which is to see the formulas.

    False under autocast, which has PyTorch compute some activations in a wider dtype than a sweep would.
    """
    if is_autocast_on():
        return False
    if type(x) is not Tensor or fast.forced != "auto" or onlooker() is not None:
        return True
    entries = x.numel() / size.inputs * size.width
    training, inference = size.entries_for_a_sweep()
    return entries >= (training if torch.is_grad_enabled() else inference)


# --- The layers of a model --------------------------------------------------------------------------------------------


def pairs_in(sequential: nn.Sequential) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each `nn.Linear` with an activation behind it."""
    modules = [module for module in sequential if not does_nothing(module)]
    for linear, activation in pairwise(modules):
        if is_linear(linear) and is_activation(activation):
            yield linear, activation


def pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each `nn.Linear` with an activation behind it, in the parts of the model that `convert` made sweeps."""
    for module in model.modules():
        if isinstance(module, Sequential):
            yield from pairs_in(module)


class Fate(NamedTuple):
    """What became of a module."""

    name: str
    kind: str
    what: str


def fates(model: nn.Module) -> Iterator[Fate]:
    """One line for each `nn.Linear`, each activation, and each module beside them in a Sequential of `convert`."""
    told: dict[nn.Module, str] = {}
    for module in model.modules():
        if isinstance(module, Sequential):
            for child in module:
                told[child] = "does nothing, and is left out" if does_nothing(child) else ""
            for step in steps_of(list(module)):
                told |= fates_in(step) if isinstance(step, Run) else {step: f"called by itself: {reason(step)}"}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, *ELEMENTWISE)) or module in told:
            outside = 'called by itself: in no nn.Sequential; for torch.compile(model, backend="torchann")'
            yield Fate(name, type(module).__name__, told.get(module, outside))


def fates_in(run: Run) -> dict[nn.Module, str]:
    found: dict[nn.Module, str] = {}
    layer = 0
    for module in run.modules:
        if isinstance(module, nn.Linear):
            layer += 1
            found[module] = f"layer {layer} of {len(run.linears)}"
        else:
            found[module] = f"activation of layer {layer}"
    found[run.modules[0]] += f": {run.size}"
    return found


def reason(module: nn.Module) -> str:
    if isinstance(module, Sequential):
        return "has layers of its own"
    if isinstance(module, nn.Linear):
        return obstacle(module) or "no activation or layer follows it"
    if type(module) in DROPOUT:
        return "drops at random"
    return obstacle(module) or "no nn.Linear before it"


def as_columns(rows: Iterable[Sequence[str]]) -> str:
    """Text with the columns below one another."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
