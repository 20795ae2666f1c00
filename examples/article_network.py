"""The article's network of three inputs, four hidden neurons and one output: by hand, and by torchann.

`by_hand` follows the article: the forward pass, case 1 at the output, case 2 below it, and a step of gradient descent.
torchann does the same in three lines. The trace shows every number of the calculation.

python examples/article_network.py
"""

from typing import NamedTuple

import torch
from torch import Tensor

import torchann

RATE = 0.5  # η


class Step(NamedTuple):
    """One step of learning; gradients and parameters in the order W, b, w_o, b_o."""

    output: Tensor
    error: Tensor
    gradients: list[Tensor]
    updated: list[Tensor]


def sigmoid(a: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-a))


def by_hand(parameters: list[Tensor], x: Tensor, y: Tensor) -> Step:
    W, b, w_o, b_o = parameters  # [4, 3], [4], [1, 4], [1]
    # Forward pass
    n = sigmoid(W @ x + b)  # the hidden neurons  [4]
    o = sigmoid(w_o @ n + b_o)  # the output neuron  [1]
    error = ((o - y) ** 2).sum() / 2
    # Case 1, the output layer: ∂E/∂o = o − y, and f′(a) = o (1 − o)
    delta_o = (o - y) * o * (1 - o)  # [1]
    # Case 2, a hidden layer: ∂E/∂n_k = Σ_l δ_l w_lk, over the neurons l that receive from k
    delta_n = (w_o.T @ delta_o) * n * (1 - n)  # [4]
    # ∂E/∂w_ij = δ_i x_j and ∂E/∂b_i = δ_i; then w ← w − η ∂E/∂w
    gradients = [torch.outer(delta_n, x), delta_n, torch.outer(delta_o, n), delta_o]
    return Step(o, error, gradients, [w - RATE * g for w, g in zip(parameters, gradients, strict=True)])


def by_torchann(net: torchann.MLP, x: Tensor, y: Tensor) -> Step:
    output = net(x)
    error = torchann.HalfSquaredErrorLoss()(output, y)
    error.backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    torch.optim.SGD(net.parameters(), lr=RATE).step()
    return Step(output, error, gradients, list(net.parameters()))


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([3, 4, 1], dtype=torch.float64)
    x, y = torch.tensor([0.5, -1.2, 0.8], dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)
    loss = torchann.HalfSquaredErrorLoss()
    print(torchann.trace(net, x, y, loss))

    hand = by_hand([parameter.detach().clone() for parameter in net.parameters()], x, y)
    ours = by_torchann(net, x, y)
    pairs = zip(
        [hand.output, hand.error, *hand.gradients, *hand.updated],
        [ours.output, ours.error, *ours.gradients, *ours.updated],
        strict=True,
    )
    difference = max((a - b).abs().max().item() for a, b in pairs)
    error, error_after = ours.error.item(), loss(net(x), y).item()
    print(f"\nE = {error:.6f}; after one step {error_after:.6f}")
    print(f"largest difference between by_hand and torchann: {difference:.1e}")
    return {"difference": difference, "error": error, "error_after": error_after}


if __name__ == "__main__":
    main()
