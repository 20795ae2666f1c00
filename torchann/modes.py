"""What is at work around a call: torch.func, forward mode, autocast. For much of it PyTorch has private names alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transforming() -> bool:
    """Whether torch.func is at work (grad, jvp, vmap, …)."""
    return torch._C._are_functorch_transforms_active()


def plain() -> bool:
    """Whether ordinary autograd alone is at work: neither torch.func nor forward mode nor Dynamo."""
    return forward_ad._current_level < 0 and not transforming() and not torch.compiler.is_compiling()


def unwatched(*tensors: Tensor) -> bool:
    """Whether nothing at all looks at single operations: neither what `plain` asks for nor autograd nor a mode."""
    return (
        plain()
        and not torch.is_grad_enabled()
        and torch._C._len_torch_dispatch_stack() == 0
        and not any(is_batched(tensor) for tensor in tensors)
    )


def is_batched(tensor: Tensor | None) -> bool:
    """Whether `autograd.grad(…, is_grads_batched=True)` is at work, whose vmap is older than torch.func."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def forward_mode_on() -> AbstractContextManager[Any]:
    """Autograd turns forward mode off inside a jvp, but an outer jvp is to see what is done there."""
    return forward_ad._set_fwd_grad_enabled(True)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype of autocast where the tensor is, None where it is off or unknown (on the meta device)."""
    if not torch._C._is_any_autocast_enabled():
        return None
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None
