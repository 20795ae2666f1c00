"""What is active around a call: torch.func, forward mode, torch.compile, modes, tracing, hooks.

Most of this can only be asked by private names of PyTorch. They are used in this module alone, so that only one place
has to be checked with a new version of PyTorch; a test finds any in other modules.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

F = TypeVar("F", bound=Callable[..., Any])

ORDINARY = (Tensor, nn.Parameter)  # a subclass may want to see each operation

will_engine_execute_node = torch._C._will_engine_execute_node
transforming = torch._C._are_functorch_transforms_active  # whether torch.func is active (grad, jvp, vmap, …)
dispatch_modes = torch._C._len_torch_dispatch_stack
function_modes = torch._C._len_torch_function_stack
is_batched = torch._C._functorch.is_legacy_batchedtensor  # by autograd.grad(…, is_grads_batched=True)
tracing_state = torch._C._get_tracing_state
unwrap_if_dead = torch._C._functorch.unwrap_if_dead
onednn_is_enabled = torch._C._get_mkldnn_enabled  # what torch.backends.mkldnn.flags sets


# --- Who looks on -----------------------------------------------------------------------------------------------------


def onlooker() -> str | None:
    """What watches single operations, beside autograd: "compile", "transform", "mode", or nothing (None).

    If nothing does, a tensor may be written over, and any kernel may run.
    """
    if torch.compiler.is_compiling():  # first, as Dynamo can't trace the other questions
        return "compile"
    if transforming() or forward_ad._current_level >= 0:  # a jvp of torch.func is forward mode as well
        return "transform"
    if dispatch_modes() or tracing_state() is not None or (function_modes() and not only_a_default_device()):
        return "mode"  # or a tracer, which sees single operations
    return None


def is_differentiated(seen_by: str | None) -> bool:
    """Whether autograd or a transform differentiates what is computed now; `seen_by` is what `onlooker` returned."""
    if torch.is_grad_enabled() or seen_by == "transform":
        return True
    return seen_by == "compile" and (transforming() or forward_ad._current_level >= 0)


def only_a_default_device() -> bool:
    """Whether all function modes are default devices (`torch.set_default_device`), which watch no operations."""
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def only_autograd() -> bool:
    """Whether none of torch.func, forward mode and torch.compile is active."""
    return onlooker() not in ("compile", "transform")


def recording() -> str | None:
    """The name of what records a program of PyTorch's own operations, for autograd to differentiate later, or None."""
    if torch.compiler._is_exporting_flag:  # is_exporting() is true to any compiler in PyTorch 2.9
        return "torch.export"
    return "torch.jit.trace" if tracing_state() is not None else None


def constant_to_dynamo(f: F) -> F:
    """`torch.compiler.assume_constant_result` without importing Dynamo: Dynamo calls f once, as it makes a graph."""
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


is_autocast_on = torch._C._is_any_autocast_enabled


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype of autocast where the tensor is, None where it is off or unknown (on the meta device)."""
    if not is_autocast_on():
        return None
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


# --- Forward mode -----------------------------------------------------------------------------------------------------


def forward_mode_on() -> AbstractContextManager[Any]:
    """Autograd turns forward mode off inside a jvp. This turns it on, for an outer jvp to see the operations there."""
    return forward_ad._set_fwd_grad_enabled(True)


def primal(tensor: Tensor) -> Tensor:
    """The tensor without its tangent, which a jvp receives as an argument of its own."""
    functorch = torch._C._functorch
    if functorch.is_batchedtensor(tensor):  # vmap has no rule for unpack_dual
        inner = primal(functorch.get_unwrapped(tensor))
        return functorch._add_batch_dim(inner, functorch.maybe_get_bdim(tensor), functorch.maybe_get_level(tensor))
    # Not forward_ad.unpack_dual, which does not know of a level that a compiled graph has entered.
    return torch._VF._unpack_dual(tensor, level=0)[0]


# --- Zeros ------------------------------------------------------------------------------------------------------------


def zeros_like(tensor: Tensor) -> Tensor:
    """Zeros of the tensor's shape. If nothing watches, they take no memory and `is_zero` recognises them."""
    if onlooker() is None and not torch.is_grad_enabled() and type(tensor) in ORDINARY and not is_batched(tensor):
        return torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.zeros_like(tensor)


def is_zero(tensor: Tensor | None) -> bool:
    """Whether the tensor is one of those that `zeros_like` makes without memory."""
    return tensor is not None and tensor._is_zerotensor()


# --- Nested tensors ---------------------------------------------------------------------------------------------------


def on_values_of_jagged(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f on the values of a jagged nested tensor, row by row; the result is nested as x is."""
    jagged: Any = x
    lengths = jagged.lengths()
    return torch.nested.nested_tensor_from_jagged(f(jagged.values()), jagged.offsets(), lengths, jagged._ragged_idx)


# --- Modules ----------------------------------------------------------------------------------------------------------


def children(module: nn.Module) -> Any:
    """The child modules by name, without `nn.Module.__getattr__`, which takes several times as long."""
    return module._modules


def grandchildren(module: nn.Module, name: str) -> Any:
    """The child modules of the child of that name."""
    return module._modules[name]._modules.values()  # type: ignore[union-attr]


def own_attribute(module: nn.Module, name: str) -> Any:
    """An attribute of the module's own, or a child module; also without `nn.Module.__getattr__`."""
    return module.__dict__[name] if name in module.__dict__ else module._modules[name]


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters that are its own, by name; parametrised or removed ones are not."""
    return module._parameters


def weights_and_biases(modules: Iterable[nn.Module]) -> tuple[list[Any], list[Any]] | None:
    """W and b of each module; None if calling one does more than its `forward`, or if they are not its own."""
    weights, biases = [], []
    for module in modules:
        own = module._parameters
        weight = own.get("weight")
        if weight is None or "bias" not in own or has_hooks(module):
            return None
        weights.append(weight)
        biases.append(own["bias"])
    return weights, biases


def weight_and_bias(module: nn.Module) -> tuple[Any, Any] | None:
    """W and b, which is None for a layer without; None instead of the pair if one is parametrised or was removed."""
    own = module._parameters
    weight = own.get("weight")
    return None if weight is None or "bias" not in own else (weight, own["bias"])


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    return module._buffers


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs hooks, or another `forward` than that of its class."""
    own = module.__dict__  # found sooner than attributes of the module, and small networks ask in every call
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own  # put there from outside, as some libraries do
    )


def has_global_hooks() -> bool:
    """Whether there are hooks for every module, such as those of `torch.utils.flop_counter`."""
    return bool(
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def has_tensor_hooks(tensor: Tensor) -> bool:
    """Whether there are hooks on the tensor's gradient."""
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


def is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def without_compile(module: nn.Module) -> nn.Module | None:
    """The module that torch.compile wrapped in this one; None if it made no wrapper."""
    return module._modules.get("_orig_mod")


# --- Testing ----------------------------------------------------------------------------------------------------------


def is_operator(value: Any) -> bool:
    """Whether torch.library made it."""
    from torch._library.custom_ops import CustomOpDef  # which imports Triton, where there is one

    return isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket, CustomOpDef))


def opcheck_error() -> type[Exception]:
    """What `torch.library.opcheck` raises; its module takes long to import, and opcheck imports it."""
    from torch.testing._internal.optests import OpCheckError

    return OpCheckError


class TensorsMade(TorchDispatchMode):
    """Weak references to the tensors that operations make within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs))}  # an operation in place returns one of them
        new = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor) and id(leaf) not in given]
        self.references += map(weakref.ref, new)
        return made
