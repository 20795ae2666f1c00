"""Situations that single checks put fn in.

Other layouts in memory, `torch.func`, grad modes, an empty batch, a child process; and what a run leaves behind.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from torchann.transforms import TensorsMade, pytree
from torchann.verification.cases import (
    Case,
    Run,
    forward,
    gradients,
    is_differentiable,
    leaves,
    random_like,
    seed_all,
    tensors_in,
)
from torchann.verification.report import Mismatch, Skipped, Unsupported, first_line


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: a check puts fn in situations that its user did not ask for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def strided(tensor: Tensor) -> Tensor:
    gaps = torch.full_like(tensor, math.nan) if is_differentiable(tensor) else torch.zeros_like(tensor)
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
    kept = [output.requires_grad for output in run.outputs]

    def weighted(*tensors: Tensor) -> Any:
        pairs = zip(compress(case.function(*tensors), kept), incoming, strict=True)
        return sum((output * weight.conj()).real.sum() for output, weight in pairs)

    return torch.func.grad(weighted, tuple(range(len(case.wrt))))


def empty_cases(case: Case) -> list[Case]:
    """Empty batches that fn takes: all inputs that are as long as the first are cut, or the first alone."""
    if case.fn.domain is not None:
        raise Skipped("the inputs have a domain")
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
    with quiet():
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
        with suppress(RuntimeError):  # a wrapper of torch.func has no memory of its own
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in held:
                saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fn(*arguments)
    return sum(storage.nbytes() for storage in saved.values())


# --- Only some inputs require grad ------------------------------------------------------------------------------------


def some_that_require_grad(count: int) -> list[list[int]]:
    """Each input alone, and each left out."""
    alone = [[index] for index in range(count)]
    left_out = [[other for other in range(count) if other != index] for index in range(count)]
    return alone + (left_out if count > 2 else [])


def gradients_of_some(case: Case, wanted: Sequence[int]) -> list[Tensor | None] | None:
    """The gradients if only these inputs require grad; None if then no output does."""
    at = [tensor.detach().clone().requires_grad_(index in wanted) for index, tensor in enumerate(case.tensors)]
    outputs = case.fn(*case.at(at))
    incoming = random_like(outputs)
    connected = [output.requires_grad for output in outputs]
    if not any(connected):
        return None
    kept = list(compress(outputs, connected)), list(compress(incoming, connected))
    return gradients(kept[0], [at[index] for index in wanted], kept[1])


# --- What a run leaves behind -----------------------------------------------------------------------------------------


def left_behind(case: Case) -> tuple[int, int]:
    """How many tensors of a run outlive it, after another run: with the garbage collector off, and after it ran.

    What stays of the first run may be a cache, what stays of the last run belongs to a module that keeps its last
    result. So the second of three is looked at.
    """
    flat = case.at(leaves(case.tensors))
    fn = case.fn.callee(flat)
    enabled = gc.isenabled()
    gc.disable()
    try:
        runs = [tensors_of_a_run(case, fn, flat) for _ in range(3)]
        waiting = sum(tensor() is not None for tensor in runs[1])
        if waiting:
            gc.collect()
        return waiting, sum(tensor() is not None for tensor in runs[1])
    finally:
        if enabled:
            gc.enable()


def tensors_of_a_run(case: Case, fn: Callable[..., Any], flat: Sequence[Any]) -> list[weakref.ref[Tensor]]:
    """Those that a forward and a backward pass make, and the inputs; by weak references, when all else is gone."""
    count = case.fn.spec.num_leaves
    inputs = [
        leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf for leaf in flat[:count]
    ]
    given = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in inputs]  # fn may write over them
    args, kwargs = case.fn.call_arguments([*given, *flat[count:]])
    seed_all(case.fn.seed)
    with TensorsMade() as made:
        outputs = [output for output in tensors_in(fn(*args, **kwargs)) if output.requires_grad]
        at = [leaf for leaf in (*inputs, *flat[count:]) if isinstance(leaf, Tensor) and leaf.requires_grad]
        gradients(outputs, at, random_like(outputs))
    return [*made.references, *(weakref.ref(leaf) for leaf in (*inputs, *given) if isinstance(leaf, Tensor))]


def changes_its_buffers(case: Case) -> bool:
    """Whether fn is a module whose forward pass changes a buffer."""
    flat = case.at(leaves(case.tensors))
    fn, (args, kwargs) = case.fn.callee(flat), case.fn.call_arguments(flat)
    if not isinstance(fn, nn.Module):
        return False
    before = [buffer.clone() for buffer in fn.buffers()]
    fn(*args, **kwargs)
    return not all(map(torch.equal, before, fn.buffers()))


def kept_in_attributes(outputs: Sequence[Tensor]) -> list[str]:
    """Attributes of ctx that hold tensors, of every custom Function in the graph: `Exp: ctx.x`."""
    found, seen = [], set()
    nodes: list[Any] = [output.grad_fn for output in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if isinstance(node, FunctionCtx):
            name = type(node).__name__.removesuffix("Backward")
            found += [f"{name}: ctx.{key}" for key, value in vars(node).items() if holds_a_tensor(value)]
    return sorted(set(found))


def holds_a_tensor(value: Any) -> bool:
    """Other than of bytes, which is the state of a random generator."""
    return any(isinstance(leaf, Tensor) and leaf.dtype != torch.uint8 for leaf in pytree.tree_leaves(value))


# --- A child process --------------------------------------------------------------------------------------------------


def crash_of(function: Callable[[], Any], seconds: float = 60.0) -> str:
    """The name of the signal that kills a child process which calls the function; "" if none does.

    Only where a process can safely be copied: on Linux, before CUDA is initialised. Elsewhere nothing is tried. SIGTERM
    does not count: Numba ends a copied process so where OpenMP is in use, and a crash never does.
    """
    if sys.platform != "linux" or torch.cuda.is_initialized():
        return ""
    with quiet():  # Python 3.12 warns of threads
        child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            function()
        finally:
            os._exit(0)  # also after an exception: that is for the process itself to see
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            fatal = os.WTERMSIG(status)  # 0 where the process ended by itself
            return signal.Signals(fatal).name if fatal not in (0, signal.SIGTERM) else ""
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise Unsupported(f"not done after {seconds:.0f} s in a child process")
