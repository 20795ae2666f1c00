"""Train a pretrained model further with torchann: one line converts it; Parameters, checkpoint and optimizer stay.

python examples/convert_pretrained.py
"""

import copy
import io

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import torchann


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10)
    )


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        error = cross_entropy(model(x), y)
        error.backward()
        optimizer.step()
    return error.item()


def checkpoint(x: Tensor, y: Tensor) -> io.BytesIO:
    """A checkpoint of an earlier training: the model's parameters and the optimizer's momentum."""
    model = build()
    optimizer = optimizer_of(model)
    train(model, optimizer, x, y, steps=50)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return file


def main() -> dict[str, float | bool]:
    torch.manual_seed(0)
    images, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    x = images.float() / 16

    saved = torch.load(checkpoint(x, y))
    model = build()
    model.load_state_dict(saved["model"])
    optimizer = optimizer_of(model)
    optimizer.load_state_dict(saved["optimizer"])
    plain, plain_optimizer = copy.deepcopy((model, optimizer))  # trained without torchann, to compare with

    converted = torchann.convert(model)
    print(converted)
    same_keys = list(converted.state_dict()) == list(saved["model"])
    same_parameters = all(a is b for a, b in zip(converted.parameters(), model.parameters(), strict=True))
    output_difference = (converted(x) - plain(x)).abs().max().item()

    before = cross_entropy(converted(x), y).item()
    after = train(converted, optimizer, x, y, steps=50)  # with the optimizer that was made before the conversion
    after_plain = train(plain, plain_optimizer, x, y, steps=50)
    print(f"same keys: {same_keys}; same Parameters: {same_parameters}; outputs differ by {output_difference:.1e}")
    print(f"error {before:.4f}; 50 steps later {after:.4f}, and without torchann {after_plain:.4f}")
    return {
        "same_keys": same_keys,
        "same_parameters": same_parameters,
        "output_difference": output_difference,
        "before": before,
        "after": after,
        "after_plain": after_plain,
    }


if __name__ == "__main__":
    main()
