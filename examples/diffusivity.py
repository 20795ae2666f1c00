"""An inverse problem: how well a rod conducts heat, found from noisy measurements of its temperature.

The rod is that of heat_equation.py: ∂u/∂t = a ∂²u/∂x², u(x, 0) = sin πx, ends at 0. Here a is unknown. 200 temperatures
were measured at random places and times, each with an error of about 0.02. A network u and the number a are trained
together: u to agree with the measurements, and both to make the residual ∂u/∂t − a ∂²u/∂x² zero. What is trained is
the logarithm of a, so that a stays positive. The measurements are made from the exact solution, exp(−a π² t) sin πx
with a = 0.2.

python examples/diffusivity.py
"""

import torch
from torch import Tensor

import torchann

A, NOISE = 0.2, 0.02


def solution(points: Tensor) -> Tensor:
    """u at points (x, t) [N, 2], as [N, 1]."""
    x, t = points.split(1, dim=1)
    return torch.exp(-A * torch.pi**2 * t) * torch.sin(torch.pi * x)


def train(
    net: torchann.MLP, log_a: Tensor, inside: Tensor, places: Tensor, measured: Tensor, steps: int = 1000
) -> None:
    """u and log a, in place, from the temperatures measured at places [M, 2], as [M, 1]."""
    parameters = [*net.parameters(), log_a]
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, history_size=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        u = torchann.laplacian(net, inside, inside.new_tensor([1.0, 0.0]))
        residual = u.gradient[..., 1] - log_a.exp() * u.laplacian
        error = residual.square().mean() + (net(places) - measured).square().mean()
        error.backward()
        return error

    optimizer.step(closure)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([2, 16, 16, 1], "tanh", "identity", dtype=torch.float64)
    log_a = torch.zeros((), dtype=torch.float64, requires_grad=True)  # a = 1 before anything is known
    inside, places = torch.rand(500, 2, dtype=torch.float64), torch.rand(200, 2, dtype=torch.float64)
    measured = solution(places) + NOISE * torch.randn(200, 1, dtype=torch.float64)
    train(net, log_a, inside, places, measured)

    axis = torch.linspace(0, 1, 51, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        u, true = net(grid), solution(grid)
    error, a = ((u - true).norm() / true.norm()).item(), log_a.exp().item()
    print(f"a = {a:.4f}, truly {A}; relative L2 error of u {error:.1e}")
    return {"a": a, "error": error}


if __name__ == "__main__":
    main()
