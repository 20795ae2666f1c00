"""Poisson's equation Δu = q in 10 dimensions, where no grid is possible: u = 0 on the unit sphere, q given inside.

The solution is written as u = (1 − |x|²) N(x) with a network N, so that it is zero on the sphere for any N. By the
product rule

    Δu = (1 − |x|²) ΔN − 4 x · ∇N − 2 D N        in D dimensions

`torchann.laplacian` gives N, ∇N and ΔN in one sweep; nested autograd takes a backward pass for each dimension. q is
that of the solution u = (1 − |x|²) Σᵢ sin πxᵢ. Each step of Adam takes new points.

python examples/poisson.py
"""

import torch
from torch import Tensor

import torchann

D = 10


def laplacian_of_u(x: Tensor, n: Tensor, gradient: Tensor, laplacian: Tensor) -> Tensor:
    """Δu of u = (1 − |x|²) n, from n [N, 1], ∇n [N, D] and Δn [N, 1]."""
    inside = 1 - x.square().sum(1, keepdim=True)
    return inside * laplacian - 4 * (x * gradient).sum(1, keepdim=True) - 2 * D * n


def source(x: Tensor) -> Tensor:
    """q [N, 1]"""
    n = torch.sin(torch.pi * x).sum(1, keepdim=True)
    return laplacian_of_u(x, n, torch.pi * torch.cos(torch.pi * x), -(torch.pi**2) * n)


def in_the_ball(count: int) -> Tensor:
    """Uniform points inside the unit sphere [count, D]."""
    direction = torch.nn.functional.normalize(torch.randn(count, D))
    return direction * torch.rand(count, 1) ** (1 / D)


def train(net: torchann.MLP, steps: int = 1500) -> float:
    """The mean squared residual of the last step."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = in_the_ball(256)
        n, gradient, laplacian = torchann.laplacian(net, x)
        error = (laplacian_of_u(x, n, gradient[:, 0], laplacian) - source(x)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return error.item()


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([D, 64, 64, 1], torch.sin, "identity")  # tanh ends with five times the error
    squared_residual = train(net)

    x = in_the_ball(10000)
    inside = 1 - x.square().sum(1, keepdim=True)
    with torch.no_grad():
        u, true = inside * net(x), inside * torch.sin(torch.pi * x).sum(1, keepdim=True)
    error = ((u - true).norm() / true.norm()).item()
    print(f"mean squared residual {squared_residual:.1e}; relative L2 error of u {error:.1e}")
    return {"squared_residual": squared_residual, "error": error}


if __name__ == "__main__":
    main()
