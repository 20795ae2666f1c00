"""A physics-informed network: the heat equation ∂u/∂t = a ∂²u/∂x² solved without a grid and without data.

A rod of length 1 starts warm in the middle, u(x, 0) = sin πx, and is held at 0 at both ends. The solution is written as

    u(x, t) = sin πx + t x (1 − x) N(x, t)

with a network N(x, t). It satisfies the conditions at the start and at the ends for any N. N learns to make the
residual ∂u/∂t − a ∂²u/∂x² zero inside. `torchann.laplacian` with the coefficients (1, 0) gives N, its gradient and
∂²N/∂x² in one sweep, and the product rule makes derivatives of u of these. The exact solution is exp(−a π² t) sin πx.

python examples/heat_equation.py
"""

import torch
from torch import Tensor

import torchann

A = 0.2  # thermal diffusivity


def temperature(net: torchann.MLP, points: Tensor) -> Tensor:
    """u at points (x, t) [N, 2], as [N, 1]."""
    x, t = points.split(1, dim=1)
    return torch.sin(torch.pi * x) + t * x * (1 - x) * net(points)


def residual(net: torchann.MLP, points: Tensor) -> Tensor:
    """∂u/∂t − a ∂²u/∂x² at each point [N, 1], differentiable by the parameters."""
    x, t = points.split(1, dim=1)
    n, gradient, n_xx = torchann.laplacian(net, points, points.new_tensor([1.0, 0.0]))
    n_x, n_t = gradient.unbind(-1)
    u_t = x * (1 - x) * (n + t * n_t)
    u_xx = -(torch.pi**2) * torch.sin(torch.pi * x) + t * (x * (1 - x) * n_xx + 2 * (1 - 2 * x) * n_x - 2 * n)
    return u_t - A * u_xx


def train(net: torchann.MLP, points: Tensor, steps: int = 200) -> float:
    """The mean squared residual after the last step."""
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = residual(net, points).square().mean()
        error.backward()
        return error

    optimizer.step(closure)
    return closure().item()


def solution(points: Tensor) -> Tensor:
    x, t = points.split(1, dim=1)
    return torch.exp(-A * torch.pi**2 * t) * torch.sin(torch.pi * x)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([2, 32, 32, 1], "tanh", "identity", dtype=torch.float64)
    squared_residual = train(net, torch.rand(500, 2, dtype=torch.float64))

    axis = torch.linspace(0, 1, 51, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        u, true = temperature(net, grid), solution(grid)
    error = ((u - true).norm() / true.norm()).item()
    print(f"mean squared residual {squared_residual:.1e}; relative L2 error of u {error:.1e}")
    print("the middle of the rod:")
    for t in (0.0, 0.5, 1.0):
        point = torch.tensor([[0.5, t]], dtype=torch.float64)
        print(f"  t = {t}: u = {temperature(net, point).item():.5f}, truly {solution(point).item():.5f}")
    return {"squared_residual": squared_residual, "error": error}


if __name__ == "__main__":
    main()
