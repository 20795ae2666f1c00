"""The data sets: those that scikit-learn carries and a few generated ones, as tensors on the device.

To add a data set, add a row to `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn import datasets  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

Task: TypeAlias = Literal["classification", "regression"]

TEST_SHARE = 0.2
GENERATED_SAMPLES = 1000


class Standard(NamedTuple):
    """The mean and the standard deviation of each column, [K] each; 1 stands for the deviation of a constant column."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Standard:
        std, mean = torch.std_mean(values, dim=0, correction=0)
        constant = values.amin(dim=0) == values.amax(dim=0)
        return cls(mean, torch.where(constant, 1.0, std))

    def __call__(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.scale


@dataclass(frozen=True)
class Dataset:
    """Data split for training, on the device; whatever is standardised is so by the training split alone.

    Args:
        task: "classification" or "regression".
        x_train, x_test: standardised features, [N, inputs].
        y_train, y_test: targets, [N, outputs]: one-hot classes, or standardised numbers.
        x_standard: what the features were standardised with.
        y_standard: what the numbers were standardised with; None for classes.
        classes: the names of the classes, in the order of the outputs.
    """

    task: Task
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    x_standard: Standard
    y_standard: Standard | None = None
    classes: tuple[str, ...] = ()

    @property
    def inputs(self) -> int:
        return self.x_train.shape[1]

    @property
    def outputs(self) -> int:
        return self.y_train.shape[1]


def load(name: str, seed: int, device: torch.device | str = "cpu") -> Dataset:
    """The data set of that name, split (and, where it is generated, generated) by the seed.

    Example:
        >>> iris = load("iris", seed=0)
        >>> iris.x_train.shape, iris.y_test.shape, iris.classes
        (torch.Size([120, 4]), torch.Size([30, 3]), ('setosa', 'versicolor', 'virginica'))
    """
    task, make = SOURCES[name]
    raw = make(seed)
    # A stratified split: each class has the same share of both parts.
    x_train, x_test, y_train, y_test = train_test_split(
        raw.x, raw.y, test_size=TEST_SHARE, random_state=seed, stratify=raw.y if task == "classification" else None
    )
    x_train, x_test, y_train, y_test = (torch.from_numpy(each) for each in (x_train, x_test, y_train, y_test))
    x_standard = Standard.of(x_train.double())
    y_standard = None
    if task == "classification":
        y_train, y_test = (F.one_hot(y.long(), len(raw.classes)) for y in (y_train, y_test))
    else:
        y_train, y_test = y_train.double().unsqueeze(1), y_test.double().unsqueeze(1)
        y_standard = Standard.of(y_train)
        y_train, y_test = y_standard(y_train), y_standard(y_test)

    def place(tensor: Tensor) -> Tensor:
        return tensor.float().to(device)

    return Dataset(
        task=task,
        x_train=place(x_standard(x_train)),
        y_train=place(y_train),
        x_test=place(x_standard(x_test)),
        y_test=place(y_test),
        x_standard=Standard(*map(place, x_standard)),
        y_standard=y_standard and Standard(*map(place, y_standard)),
        classes=raw.classes,
    )


class Raw(NamedTuple):
    x: np.ndarray  # [N, inputs]
    y: np.ndarray  # [N], class numbers or values
    classes: tuple[str, ...] = ()


def bundled(loader: Callable[..., Any], **options: Any) -> Callable[[int], Raw]:
    def make(seed: int) -> Raw:
        bunch = loader(**options)
        return Raw(bunch.data, bunch.target, tuple(map(str, bunch.get("target_names", ()))))

    return make


def xor(seed: int) -> Raw:
    """Two bits with noise on them; the class is whether they differ."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (GENERATED_SAMPLES, 2))
    return Raw(bits + random.normal(0, 0.15, bits.shape), bits[:, 0] ^ bits[:, 1], ("same", "different"))


def moons(seed: int) -> Raw:
    x, y = datasets.make_moons(GENERATED_SAMPLES, noise=0.15, random_state=seed)
    return Raw(x, y, ("upper", "lower"))


def circles(seed: int) -> Raw:
    x, y = datasets.make_circles(GENERATED_SAMPLES, noise=0.08, factor=0.5, random_state=seed)
    return Raw(x, y, ("outer", "inner"))


def spirals(seed: int) -> Raw:
    """Two arms of one and a half turns, each the other turned by half a circle."""
    random = np.random.default_rng(seed)
    arm = np.arange(GENERATED_SAMPLES) % 2
    radius = np.sqrt(random.uniform(0.01, 1, GENERATED_SAMPLES))  # the square root spreads samples evenly along the arm
    angle = 3 * np.pi * radius + np.pi * arm
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return Raw(points + random.normal(0, 0.02, points.shape), arm, ("first", "second"))


class Source(NamedTuple):
    task: Task
    make: Callable[[int], Raw]


SOURCES: dict[str, Source] = {
    "digits": Source("classification", bundled(datasets.load_digits)),
    "iris": Source("classification", bundled(datasets.load_iris)),
    "wine": Source("classification", bundled(datasets.load_wine)),
    "breast_cancer": Source("classification", bundled(datasets.load_breast_cancer)),
    # Unscaled, as scikit-learn's own scaling looks at the test samples as well.
    "diabetes": Source("regression", bundled(datasets.load_diabetes, scaled=False)),
    "xor": Source("classification", xor),
    "moons": Source("classification", moons),
    "circles": Source("classification", circles),
    "spirals": Source("classification", spirals),
}
