"""Other packages with fused networks. Those that are installed take part in the rows that suit them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch.func import functional_call

from benchmarks.competitors import Competitor, Gradients, Problem, gradients, on_leaves
from benchmarks.rows import Row


class Peer(NamedTuple):
    module: str
    suits: Callable[[Row, str], bool]  # (row, device)
    enter: Callable[[Any, Problem], Competitor]  # (the module, …)


def look_for(peers: dict[str, Peer]) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The modules of the installed peers, and the reasons why the others are missing."""
    found, absent = {}, {}
    for name, peer in peers.items():
        try:
            found[name] = importlib.import_module(peer.module)
        except Exception as error:  # an extension built for another machine may raise anything
            absent[name] = f"absent: {str(error).splitlines()[0]}" if str(error) else "absent"
    return found, absent


# --- NVIDIA Apex ------------------------------------------------------------------------------------------------------


def suits_apex(row: Row, device: str) -> bool:
    return (
        device == "cuda"
        and row.task == "gradients"
        and row.dtype == torch.float32  # it has float16 as well, but no bfloat16
        and set(row.activations) in ({"sigmoid"}, {"relu"})
        and not row.captured
    )


def enter_apex(module: Any, problem: Problem) -> Competitor:
    """Apex's MLP on the same `Parameter` objects."""
    net = module.MLP(list(problem.row.widths), activation=problem.row.activation)
    net.weights = [parameter for name, parameter in problem.eager.named_parameters() if name.endswith("weight")]
    net.biases = [parameter for name, parameter in problem.eager.named_parameters() if name.endswith("bias")]
    return on_leaves(problem, gradients(net))


# --- tiny-cuda-nn -----------------------------------------------------------------------------------------------------


def suits_tiny_cuda_nn(row: Row, device: str) -> bool:
    return (
        device == "cuda"
        and row.task == "gradients"
        and row.precision == "bfloat16"  # it computes in float16, which has as many bits
        and len(set(row.widths)) == 1
        and row.widths[0] % 16 == 0  # else it pads its matrices
        and set(row.activations) in ({"sigmoid"}, {"relu"})
        and not row.captured
    )


def enter_tiny_cuda_nn(module: Any, problem: Problem) -> Competitor:
    """On a copy of the weights in its own layout. It has no biases, so the gradients are checked without them."""
    row = problem.row
    width = row.widths[0]
    activation = {"sigmoid": "Sigmoid", "relu": "ReLU"}[row.activation]
    config = {
        "otype": "FullyFusedMLP" if width in (16, 32, 64, 128) else "CutlassMLP",
        "activation": activation,
        "output_activation": activation,
        "n_neurons": width,
        "n_hidden_layers": row.depth - 1,
    }
    net = module.Network(width, width, config)
    weights: Gradients = {name: weight for name, weight in problem.eager.named_parameters() if name.endswith("weight")}
    flat = torch.cat([weight.detach().float().flatten() for weight in weights.values()])
    if net.params.numel() != flat.numel():
        raise ValueError(f"expected {flat.numel()} parameters, as the weights have, got {net.params.numel()}")
    net.params.data.copy_(flat)
    x, error = problem.x.detach().float().requires_grad_(row.x_needs_gradient), problem.error.half()

    def call() -> None:
        net.params.grad = x.grad = None
        output = net(x)
        output.backward(error.to(output.dtype))

    def find() -> Gradients:
        call()
        parts = net.params.grad.split([weight.numel() for weight in weights.values()])
        return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}

    return Competitor(call, find, expected=lambda: gradients_without_biases(problem, weights))


def gradients_without_biases(problem: Problem, weights: Gradients) -> Gradients:
    biases = {name: torch.zeros_like(bias) for name, bias in problem.eager.named_parameters() if name.endswith("bias")}
    output = functional_call(problem.eager, {**weights, **biases}, problem.x)
    return dict(zip(weights, torch.autograd.grad(output, list(weights.values()), problem.error), strict=True))


PEERS = {
    "apex.mlp.MLP": Peer("apex.mlp", suits_apex, enter_apex),
    "tiny-cuda-nn": Peer("tinycudann", suits_tiny_cuda_nn, enter_tiny_cuda_nn),
}
