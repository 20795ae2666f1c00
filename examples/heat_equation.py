"""A physics-informed network: the heat equation ∂u/∂t = a ∂²u/∂x² solved without a grid and without data.

A rod of length 1 starts warm in the middle, u(x, 0) = sin πx, and is held at 0 at both ends. The solution is written as

    u(x, t) = sin πx + t x (1 − x) N(x, t)

with a network N(x, t). It satisfies the conditions at the start and at the ends for any N. N learns to make the
residual ∂u/∂t − a ∂²u/∂x² zero inside, which takes two derivatives by the inputs, and one by the parameters. The exact
solution is exp(−a π² t) sin πx.

python examples/heat_equation.py
"""

import torch
from torch import Tensor

import torchann

A = 0.2  # thermal diffusivity


def temperature(net: torchann.MLP, x: Tensor, t: Tensor) -> Tensor:
    """u at the points x and t, each [N, 1]."""
    return torch.sin(torch.pi * x) + t * x * (1 - x) * net(torch.cat([x, t], dim=1))


def residual(net: torchann.MLP, x: Tensor, t: Tensor) -> Tensor:
    """∂u/∂t − a ∂²u/∂x² at each point [N, 1], differentiable by the parameters."""
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    u = temperature(net, x, t)
    # u at a point depends on no other point, so the gradient of the sum holds the derivative at each point.
    u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    return u_t - A * u_xx


def train(net: torchann.MLP, x: Tensor, t: Tensor, steps: int = 200) -> float:
    """The mean squared residual after the last step."""
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = residual(net, x, t).square().mean()
        error.backward()
        return error

    optimizer.step(closure)
    return closure().item()


def solution(x: Tensor, t: Tensor) -> Tensor:
    return torch.exp(-A * torch.pi**2 * t) * torch.sin(torch.pi * x)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([2, 32, 32, 1], "tanh", "identity", dtype=torch.float64)
    x, t = torch.rand(2, 500, 1, dtype=torch.float64)  # the points at which the residual is minimised
    squared_residual = train(net, x, t)

    axis = torch.linspace(0, 1, 51, dtype=torch.float64)
    x, t = (points.reshape(-1, 1) for points in torch.meshgrid(axis, axis, indexing="ij"))
    with torch.no_grad():
        u, true = temperature(net, x, t), solution(x, t)
    error = ((u - true).norm() / true.norm()).item()
    print(f"mean squared residual {squared_residual:.1e}; relative L2 error of u {error:.1e}")
    print("the middle of the rod:")
    for at in (0.0, 0.5, 1.0):
        x, t = (torch.tensor([[point]], dtype=torch.float64) for point in (0.5, at))
        print(f"  t = {at}: u = {temperature(net, x, t).item():.5f}, truly {solution(x, t).item():.5f}")
    return {"squared_residual": squared_residual, "error": error}


if __name__ == "__main__":
    main()
