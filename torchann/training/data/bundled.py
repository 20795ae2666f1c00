"""The data sets that come with scikit-learn, and a few generated ones. To add one, add a row to `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets  # type: ignore[import-untyped]

from torchann.training.data.arrays import Arrays
from torchann.training.data.preparation import Task

GENERATED_SAMPLES = 1000


def bundled(loader: Callable[..., Any], **options: Any) -> Callable[[int], Arrays]:
    def make(seed: int) -> Arrays:
        bunch = loader(**options)
        images = bunch.get("images")
        shape = None if images is None else images.shape[1:]
        classes, features = (tuple(map(str, bunch.get(key, ()))) for key in ("target_names", "feature_names"))
        return Arrays(bunch.data, bunch.target, classes, shape, features)

    return make


def xor(seed: int) -> Arrays:
    """Two bits with noise added; the class says whether the bits differ."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (GENERATED_SAMPLES, 2))
    return Arrays(bits + random.normal(0, 0.15, bits.shape), bits[:, 0] ^ bits[:, 1], ("same", "different"))


def moons(seed: int) -> Arrays:
    x, y = datasets.make_moons(GENERATED_SAMPLES, noise=0.15, random_state=seed)
    return Arrays(x, y, ("upper", "lower"))


def circles(seed: int) -> Arrays:
    x, y = datasets.make_circles(GENERATED_SAMPLES, noise=0.08, factor=0.5, random_state=seed)
    return Arrays(x, y, ("outer", "inner"))


def spirals(seed: int) -> Arrays:
    """Two spiral arms of one and a half turns; the second is the first rotated by 180°."""
    random = np.random.default_rng(seed)
    arm = np.arange(GENERATED_SAMPLES) % 2
    radius = np.sqrt(random.uniform(0.01, 1, GENERATED_SAMPLES))  # the square root spreads samples evenly along the arm
    angle = 3 * np.pi * radius + np.pi * arm
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return Arrays(points + random.normal(0, 0.02, points.shape), arm, ("first", "second"))


class Source(NamedTuple):
    task: Task
    make: Callable[[int], Arrays]


SOURCES: dict[str, Source] = {
    "digits": Source("classification", bundled(datasets.load_digits)),
    "iris": Source("classification", bundled(datasets.load_iris)),
    "wine": Source("classification", bundled(datasets.load_wine)),
    "breast_cancer": Source("classification", bundled(datasets.load_breast_cancer)),
    # Unscaled, because scikit-learn's own scaling uses the test samples, too.
    "diabetes": Source("regression", bundled(datasets.load_diabetes, scaled=False)),
    "xor": Source("classification", xor),
    "moons": Source("classification", moons),
    "circles": Source("classification", circles),
    "spirals": Source("classification", spirals),
}
