"""Handwritten digits in a plain PyTorch loop, watched by the Monitor: three lines, marked below.

python examples/monitored_digits.py [FOLDER]
tensorboard --logdir runs
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split
from torch.utils.tensorboard import SummaryWriter

import torchann
from torchann.monitor import Monitor

EPOCHS, BATCH = 20, 64


def load() -> list[Subset]:
    """1,437 images for training and 360 for the test: x [64] from 0 to 1, y [10] one-hot."""
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    return random_split(TensorDataset(images.float() / 16, one_hot(labels).float()), [1437, 360])


def accuracy_of(net: torchann.MLP, data: Subset) -> float:
    x, y = data[:]
    with torch.no_grad():
        return (net(x).argmax(1) == y.argmax(1)).float().mean().item()


def main(folder: str | Path = "runs/example-digits") -> dict[str, float]:
    torch.manual_seed(0)
    training, test = load()
    net, loss = torchann.MLP([64, 32, 10]), torchann.HalfSquaredErrorLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    step = 0
    with (
        SummaryWriter(folder) as writer,  # the first line
        Monitor(net, writer, sample=test[:128], loss=loss, image_shape=(8, 8)) as monitor,  # the second
    ):
        for _ in range(EPOCHS):
            for x, y in DataLoader(training, BATCH, shuffle=True):
                optimizer.zero_grad()
                loss(net(x), y).backward()
                optimizer.step()
                monitor.step(step)  # the third
                step += 1

    accuracy = accuracy_of(net, test)
    print(f"{step} steps; accuracy on {len(test)} images that it has not seen: {accuracy:.3f}")
    print(f"what each neuron contributed to the error: tensorboard --logdir {folder}")
    return {"steps": step, "accuracy": accuracy}


if __name__ == "__main__":
    main(*sys.argv[1:])
