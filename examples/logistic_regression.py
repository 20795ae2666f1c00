"""Logistic regression is one neuron: breast cancer, benign or malignant, beside scikit-learn's LogisticRegression.

Both minimise Σ cross-entropy + ½ ‖w‖², which has only one minimum, so both must find the same weights.

python examples/logistic_regression.py
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

import torchann


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and y for training, x and y for the test; inputs have mean 0 and standard deviation 1 in the training split."""
    x, y = load_breast_cancer(return_X_y=True)
    split = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    x, x_test, y, y_test = (torch.from_numpy(part).double() for part in split)
    mean, deviation = x.mean(0), x.std(0)
    return (x - mean) / deviation, y, (x_test - mean) / deviation, y_test


def fit(neuron: torchann.Dense, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.LBFGS(neuron.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = neuron.weight.square().sum() / 2
        error = binary_cross_entropy(neuron(x).squeeze(1), y, reduction="sum") + penalty
        error.backward()
        return error

    optimizer.step(closure)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    x, y, x_test, y_test = load()
    neuron = torchann.Dense(30, 1, "sigmoid", dtype=torch.float64)
    fit(neuron, x, y)
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x.numpy(), y.numpy())

    with torch.no_grad():
        accuracy = ((neuron(x_test).squeeze(1) > 0.5) == y_test).double().mean().item()
    their_accuracy = theirs.score(x_test.numpy(), y_test.numpy())
    difference = (neuron.weight.detach() - torch.from_numpy(theirs.coef_)).abs().max().item()
    print(f"accuracy on {len(x_test)} patients: one neuron {accuracy:.3f}, scikit-learn {their_accuracy:.3f}")
    print(f"largest difference between the weights: {difference:.1e}, of {neuron.weight.abs().max():.2f}")
    return {"accuracy": accuracy, "their_accuracy": their_accuracy, "difference": difference}


if __name__ == "__main__":
    main()
