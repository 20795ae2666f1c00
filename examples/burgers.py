"""Burgers' equation ∂u/∂t + u ∂u/∂x = ν ∂²u/∂x², whose smooth start becomes a steep front.

The start is u(x, 0) = −sin πx for −1 ≤ x ≤ 1, and u(±1, t) = 0. The left half moves to the right, the right half to the
left, and where they meet, at x = 0, u falls from nearly 1 to nearly −1 over a width of about 8 ν, with ν = 0.02/π. The
solution is written as

    u(x, t) = −sin πx + t (1 − x²) N(x, t)

with a network N(x, t), so that the conditions at the start and at the ends hold for any N. `torchann.laplacian` with
the coefficients (1, 0) gives N, its gradient and ∂²N/∂x² in one sweep. Cole and Hopf's substitution gives the exact
solution as a quotient of two integrals.

python examples/burgers.py
"""

import math

import torch
from torch import Tensor

import torchann

VISCOSITY = 0.02 / math.pi  # ν


def velocity(net: torchann.MLP, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, ∂u/∂x, ∂u/∂t and ∂²u/∂x² at points (x, t) [N, 2], each [N, 1], by the product rule."""
    x, t = points.split(1, dim=1)
    n, gradient, n_xx = torchann.laplacian(net, points, points.new_tensor([1.0, 0.0]))
    n_x, n_t = gradient.unbind(-1)
    sin, cos, inside = torch.sin(torch.pi * x), torch.cos(torch.pi * x), 1 - x**2
    u = -sin + t * inside * n
    u_x = -torch.pi * cos + t * (inside * n_x - 2 * x * n)
    u_t = inside * (n + t * n_t)
    u_xx = torch.pi**2 * sin + t * (inside * n_xx - 4 * x * n_x - 2 * n)
    return u, u_x, u_t, u_xx


def train(net: torchann.MLP, points: Tensor, steps: int = 1500) -> float:
    """The mean squared residual after the last step."""
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=steps, history_size=50, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        u, u_x, u_t, u_xx = velocity(net, points)
        error = (u_t + u * u_x - VISCOSITY * u_xx).square().mean()
        error.backward()
        return error

    optimizer.step(closure)
    return closure().item()


def solution(points: Tensor) -> Tensor:
    """u = −∫ sin(πy) g dη / ∫ g dη with y = x − η, g = exp(−cos(πy) / 2πν − η² / 4νt). [N, 1]

    η = s √(4νt), and both integrals are sums over evenly spaced s: the quotient is a mean with softmax's weights.
    """
    x, t = points.split(1, dim=1)
    s = torch.linspace(-12, 12, 2001, dtype=points.dtype)
    y = x - s * torch.sqrt(4 * VISCOSITY * t)
    weights = torch.softmax(-torch.cos(torch.pi * y) / (2 * torch.pi * VISCOSITY) - s**2, dim=1)
    return -(weights * torch.sin(torch.pi * y)).sum(1, keepdim=True)


def solve() -> tuple[torchann.MLP, float]:
    """The network N, trained from a fixed seed, and its mean squared residual."""
    torch.manual_seed(0)
    net = torchann.MLP([2, 20, 20, 20, 20, 1], "tanh", "identity", dtype=torch.float64)
    points = torch.rand(2000, 2, dtype=torch.float64)
    points[:, 0] = 2 * points[:, 0] - 1
    return net, train(net, points)


def main() -> dict[str, float]:
    net, squared_residual = solve()
    space, time = torch.linspace(-1, 1, 101, dtype=torch.float64), torch.linspace(0, 1, 21, dtype=torch.float64)
    grid = torch.cartesian_prod(space, time)
    with torch.no_grad():
        u, true = velocity(net, grid)[0], solution(grid)
    error = ((u - true).norm() / true.norm()).item()
    print(f"mean squared residual {squared_residual:.1e}; relative L2 error of u {error:.1e}")

    front = torch.tensor([[0.0, 0.5]], dtype=torch.float64, requires_grad=True)  # where and when it is steepest
    slope = velocity(net, front)[1].item()
    true_slope = torch.autograd.grad(solution(front).sum(), front)[0][0, 0].item()
    print(f"∂u/∂x at the front at t = 0.5: {slope:.1f}, truly {true_slope:.1f}")
    return {"squared_residual": squared_residual, "error": error, "slope": slope, "true_slope": true_slope}


if __name__ == "__main__":
    main()
