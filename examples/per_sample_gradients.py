"""Find wrong labels by the gradient of each sample, computed for all samples at once by torch.func.

In a network that was trained on all samples, the loss of a sample with a wrong label has a gradient of large norm,
because the sample contradicts the others.

python examples/per_sample_gradients.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import torchann

WRONG = 90  # labels of 1,797


def load() -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and which of the labels are wrong."""
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    chosen = torch.randperm(len(labels))[:WRONG]
    labels[chosen] = (labels[chosen] + torch.randint(1, 10, (WRONG,))) % 10
    is_wrong = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, chosen, True)
    return images.float() / 16, labels, is_wrong


def train(net: torchann.MLP, x: Tensor, y: Tensor, steps: int = 100) -> None:
    """Train briefly: a network that has memorised the wrong labels has small gradients for them, too."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()


def per_sample_gradients(net: torchann.MLP, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """For each parameter, the gradient of each sample's error  [N, *shape]."""

    def error(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, parameters, x), y)

    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}
    return vmap(grad(error), in_dims=(None, 0, 0))(parameters, x, y)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    x, y, is_wrong = load()
    net = torchann.MLP([64, 32, 10], "tanh", "identity")
    train(net, x, y)

    gradients = per_sample_gradients(net, x, y)
    rows = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)  # [N, parameters]
    norms = rows.norm(dim=1)

    net.zero_grad()
    cross_entropy(net(x), y, reduction="sum").backward()
    of_all = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
    difference = ((rows.sum(0) - of_all).norm() / of_all.norm()).item()

    suspects = norms.topk(WRONG).indices
    found = is_wrong[suspects].sum().item()
    print(f"{WRONG} of {len(y)} labels are wrong; of the {WRONG} samples with the largest gradients {found} have one")
    print(f"mean norm of a gradient: {norms[is_wrong].mean():.2f} if wrong, {norms[~is_wrong].mean():.2f} if right")
    print(f"the sum over the samples against the gradient of the batch: relative difference {difference:.1e}")
    return {"found": found, "wrong": WRONG, "difference": difference}


if __name__ == "__main__":
    main()
