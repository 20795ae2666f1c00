"""A beam that bends under its own weight: u″″ = q, an equation of fourth order.

The beam is clamped at x = 0, where u = u′ = 0, and free at x = 1, where no moment and no force act: u″ = u‴ = 0. The
network is u itself. `torchann.jet` gives u and all its derivatives up to the fourth in one sweep, so the conditions at
the ends are entries of the same result as the residual. In units in which the load q and the beam's stiffness are 1,
the exact solution is x² (x² − 4x + 6) / 24.

python examples/beam.py
"""

import torch
from torch import Tensor

import torchann


def loss(net: torchann.MLP, x: Tensor) -> Tensor:
    """Mean squared residual at the points x [N, 1], and the squares of what should be zero at the ends."""
    fourth = torchann.jet(net, x, order=4).derivatives[3]
    ends = torchann.jet(net, torch.tensor([[0.0], [1.0]], dtype=x.dtype), order=3)
    (u, _), (_, moment) = ends.value, ends.derivatives[1][0]
    (slope, _), (_, force) = ends.derivatives[0][0], ends.derivatives[2][0]
    return (fourth - 1).square().mean() + sum(each.square().sum() for each in (u, slope, moment, force))


def train(net: torchann.MLP, x: Tensor, steps: int = 300) -> float:
    """The loss after the last step."""
    optimizer = torch.optim.LBFGS(
        net.parameters(),
        max_iter=steps,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = loss(net, x)
        error.backward()
        return error

    optimizer.step(closure)
    return closure().item()


def solution(x: Tensor) -> Tensor:
    return x**2 * (x**2 - 4 * x + 6) / 24


def main() -> dict[str, float]:
    torch.manual_seed(0)
    net = torchann.MLP([1, 16, 16, 1], "tanh", "identity", dtype=torch.float64)
    loss_after = train(net, torch.linspace(0, 1, 64, dtype=torch.float64).unsqueeze(1))

    x = torch.linspace(0, 1, 101, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        u, true = net(x), solution(x)
    error = ((u - true).norm() / true.norm()).item()
    print(f"loss {loss_after:.1e}; relative L2 error of u {error:.1e}")
    print(f"the free end: u = {u[-1].item():.6f}, truly {1 / 8}")
    return {"loss": loss_after, "error": error}


if __name__ == "__main__":
    main()
