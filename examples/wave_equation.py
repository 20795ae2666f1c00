"""The wave equation ∂²u/∂x² − ∂²u/∂t² = 0 of a string: an operator whose coefficients have both signs.

A string of length 1 is held at both ends and let go at t = 0 in the shape g(x) = sin πx + ½ sin 2πx, at rest. The
solution is written as

    u(x, t) = g(x) + t² x (1 − x) N(x, t)

with a network N(x, t), so that the conditions at the start (u = g, ∂u/∂t = 0) and at the ends hold for any N.
`torchann.laplacian` with the coefficients (1, −1) gives N, its gradient and ∂²N/∂x² − ∂²N/∂t² in one sweep. The exact
solution is cos πt sin πx + ½ cos 2πt sin 2πx.

python examples/wave_equation.py
"""

import torch
from torch import Tensor

import torchann

WAVE = torch.tensor([1.0, -1.0], dtype=torch.float64)  # ∂²/∂x² − ∂²/∂t²


def displacement(net: torchann.MLP, points: Tensor) -> Tensor:
    """u at points (x, t) [N, 2], as [N, 1]."""
    x, t = points.split(1, dim=1)
    return solution(x, 0 * t) + t**2 * x * (1 - x) * net(points)


def residual(net: torchann.MLP, points: Tensor) -> Tensor:
    """∂²u/∂x² − ∂²u/∂t² at each point [N, 1], by the product rule."""
    x, t = points.split(1, dim=1)
    n, gradient, wave_of_n = torchann.laplacian(net, points, WAVE)
    n_x, n_t = gradient.unbind(-1)
    g_xx = -(torch.pi**2) * (torch.sin(torch.pi * x) + 2 * torch.sin(2 * torch.pi * x))
    h, h_x, h_t = t**2 * x * (1 - x), t**2 * (1 - 2 * x), 2 * t * x * (1 - x)
    return g_xx + h * wave_of_n + 2 * (h_x * n_x - h_t * n_t) - 2 * (t**2 + x * (1 - x)) * n


def train(net: torchann.MLP, points: Tensor, steps: int = 500) -> float:
    """The mean squared residual after the last step."""
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=steps, history_size=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = residual(net, points).square().mean()
        error.backward()
        return error

    optimizer.step(closure)
    return closure().item()


def solution(x: Tensor, t: Tensor) -> Tensor:
    x, t = torch.pi * x, torch.pi * t
    return torch.cos(t) * torch.sin(x) + torch.cos(2 * t) * torch.sin(2 * x) / 2


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([2, 32, 32, 32, 1], "tanh", "identity", dtype=torch.float64)
    squared_residual = train(net, torch.rand(1000, 2, dtype=torch.float64))

    axis = torch.linspace(0, 1, 51, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        u, true = displacement(net, grid), solution(*grid.split(1, dim=1))
    error = ((u - true).norm() / true.norm()).item()
    print(f"mean squared residual {squared_residual:.1e}; relative L2 error of u {error:.1e}")
    return {"squared_residual": squared_residual, "error": error}


if __name__ == "__main__":
    main()
