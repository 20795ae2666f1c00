"""`convert`: the same model of `nn.Linear` layers and activations, with torchann's gradients."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from torchann.activations import TABLE, Activation
from torchann.fast import has_few_entries
from torchann.functional.layers import network
from torchann.modules import ELEMENTWISE, WithRow
from torchann.transforms import children, has_global_hooks, has_hooks, own_parameters, weight_and_bias


def convert(model: nn.Module) -> nn.Module:
    """A copy of the model in which each `nn.Sequential` runs its layers as one sweep forward and one backward.

    A layer is an `nn.Linear` with the activation behind it, if there is one. The copy holds the same `Parameter` and
    buffer objects: training it trains the original. It has the same modules as well: indices, slices, the keys of the
    state_dict and `isinstance` checks give what they gave before.

    A module is called by itself, as in PyTorch, if it has hooks, or if there are hooks for all modules; if the
    `nn.Linear` is a subclass (quantised, parametrised), complex or of width 0; or if the activation has parameters of
    its own or draws random numbers. So is everything in a subclass of `nn.Sequential` that has its own `forward`.

    Args:
        model: not changed.

    Returns:
        The copy.

    Example:
        >>> convert(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
        Sequential(
          (0): Linear(in_features=3, out_features=4, bias=True)
          (1): Tanh()
        )
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared)
    for module in model.modules():
        if (
            isinstance(module, nn.Sequential)
            and type(module).forward is nn.Sequential.forward
            and any(pairs_in(module))
        ):
            module.__class__ = as_sweep(type(module))
    return model


class Sequential(nn.Sequential, WithRow):
    """An `nn.Sequential` whose layers, `nn.Linear` and activation, run as one sweep. Made by `convert`.

    Each call looks up its children anew, so they can be replaced, appended and given hooks as in any `nn.Sequential`.
    """

    original: type[nn.Sequential] = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        if (not torch.is_grad_enabled() and has_few_entries(x)) or has_global_hooks():
            for module in children(self).values():
                x = module(x)
            return x
        modules = list(children(self).values())
        place = 0
        while place < len(modules):
            run = place
            weights: list[Any] = []
            biases: list[Any] = []
            activations: list[Activation] = []
            while place < len(modules) and is_linear(modules[place]) and not has_hooks(modules[place]):
                own = own_parameters(modules[place])
                weights.append(own["weight"])
                biases.append(own["bias"])
                place += 1
                if place < len(modules) and is_activation(modules[place]) and not has_hooks(modules[place]):
                    activations.append(self.row_of(modules[place]))
                    place += 1
                else:
                    activations.append(TABLE["identity"])
            if place - run > 1:
                x = network(x, weights, biases, activations)
            else:  # no layer, or an nn.Linear alone
                x = modules[run](x)
                place = run + 1
        return x

    def __prepare_scriptable__(self) -> nn.Sequential:
        """What torch.jit.script reads: the modules one by one."""
        return nn.Sequential(OrderedDict(children(self).items()))

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return blank_sweep, (self.original,), self.__getstate__()


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


def pairs_in(sequential: nn.Sequential) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each `nn.Linear` with an activation behind it."""
    modules = list(sequential)
    for linear, activation in pairwise(modules):
        if is_linear(linear) and is_activation(activation):
            yield linear, activation


def pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each `nn.Linear` with an activation behind it, in the parts of the model that `convert` made sweeps."""
    for module in model.modules():
        if isinstance(module, Sequential):
            yield from pairs_in(module)
