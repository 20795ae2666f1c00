"""Situations that single checks put fn in: other layouts in memory, `torch.func`, an empty batch, saving watched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchann.verification.cases import Case
from torchann.verification.findings import Mismatch, Skipped, Unsupported, first_line
from torchann.verification.runs import Run, forward, leaves, quiet, random_like


def strided(tensor: Tensor) -> Tensor:
    gaps = torch.full_like(tensor, math.nan) if tensor.is_floating_point() else torch.zeros_like(tensor)
    return torch.stack((tensor, gaps), -1)[..., 0]


def transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.clone()


def expanded(tensor: Tensor) -> Tensor:
    return tensor.new_full((), 0.7).expand(tensor.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"strided": strided, "transposed": transposed}


def batchings(count: int) -> list[list[bool]]:
    """Which of the inputs are batched: all, and each alone."""
    alone = [[index == each for index in range(count)] for each in range(count)]
    return [[True] * count, *alone] if count > 1 else alone


def functional_gradient(case: Case, run: Run) -> Callable[..., tuple[Tensor, ...]]:
    """What `run.backward()` computes, as `torch.func` has it."""
    incoming = random_like(run.differentiable)
    function = case.function_to([output.requires_grad for output in run.outputs])

    def weighted(*tensors: Tensor) -> Any:
        return sum((output * weight).sum() for output, weight in zip(function(*tensors), incoming, strict=True))

    return torch.func.grad(weighted, tuple(range(len(case.wrt))))


def empty_cases(case: Case) -> list[Case]:
    """Empty batches that fn takes: all inputs that are as long as the first are cut, or the first alone."""
    inputs = case.arguments[: case.fn.spec.num_leaves]
    long = [index for index, argument in enumerate(inputs) if isinstance(argument, Tensor) and argument.dim() > 0]
    if not long:
        raise Skipped("no input has a dimension")
    size = inputs[long[0]].shape[0]
    cuts = [[index for index in long if inputs[index].shape[0] == size], long[:1]]
    if cuts[0] == cuts[1]:
        del cuts[0]
    cases = [
        replace(case, arguments=tuple(a[:0] if index in cut else a for index, a in enumerate(case.arguments)))
        for cut in cuts
    ]
    refusals = [refusal(case.fn, empty) for empty in cases]
    taken = [empty for empty, refused in zip(cases, refusals, strict=True) if refused is None]
    if not taken and case.reference is not None and refusal(case.reference, cases[0]) is None:
        raise Mismatch(f"{refusals[0]} (the reference takes an empty batch)")
    if not taken:
        raise Unsupported(refusals[0])
    return taken


def refusal(fn: Callable[..., Any], case: Case) -> str | None:
    """What fn raises there. It was not asked for, so that its warnings are its own business."""
    with quiet(altogether=True):
        try:
            forward(fn, case)
        except Exception as error:
            return first_line(error)
    return None


def saved_bytes(fn: Callable[..., Any], case: Case) -> int:
    arguments = case.at([leaf.clone() for leaf in leaves(case.tensors)])
    held = {argument.untyped_storage().data_ptr() for argument in arguments if isinstance(argument, Tensor)}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fn(*arguments)
    return sum(storage.nbytes() for storage in saved.values())
