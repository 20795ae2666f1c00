"""Define your own activation with its derivatives, and check them: Snake, z + sin² z.

Snake (Ziyin, Hartwig and Ueda, 2020) is made for periodic data: beyond the samples it keeps oscillating, where tanh
becomes constant.

python examples/own_activation.py
"""

import torch
from torch import Tensor
from torch.nn import functional as F

import torchann

snake = torchann.Activation(
    "snake",
    f=lambda z: z + torch.sin(z) ** 2,
    df=lambda z: 1 + torch.sin(2 * z),  # 2 sin z cos z = sin 2z
    d2f=lambda z: 2 * torch.cos(2 * z),
)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same layer in plain PyTorch, whose derivatives are autograd's."""
    z = F.linear(x, weight, bias)
    return z + torch.sin(z) ** 2


def wave(x: Tensor) -> Tensor:
    return torch.sin(2 * x) + x / 2


def fit(activation: torchann.Activation, x: Tensor, y: Tensor, steps: int = 1000) -> torchann.MLP:
    torch.manual_seed(0)
    net = torchann.MLP([1, 32, 32, 1], activation, "identity")
    loss = torchann.HalfSquaredErrorLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
    return net


def main() -> dict[str, float | bool]:
    torch.manual_seed(0)
    report = torchann.verify(torchann.Dense(3, 4, snake), (torch.randn(5, 3),), reference=plain)
    print(report)

    inside, outside = torch.linspace(-5, 5, 200).unsqueeze(1), torch.linspace(5, 8, 100).unsqueeze(1)
    print("\nmean squared error among the samples and beyond them")
    beyond = {}
    for activation in (snake, torchann.activations.get("tanh")):
        net = fit(activation, inside, wave(inside))
        with torch.no_grad():
            among, beyond[activation.name] = (F.mse_loss(net(x), wave(x)).item() for x in (inside, outside))
        print(f"  {activation.name:6} {among:.1e} {beyond[activation.name]:8.3f}")
    return {"ok": report.ok, "snake_beyond": beyond["snake"], "tanh_beyond": beyond["tanh"]}


if __name__ == "__main__":
    main()
