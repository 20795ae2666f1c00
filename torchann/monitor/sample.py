"""The sample's targets and the model's outputs as classes or numbers, and the outputs at points around the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from torchann.tracing import undisturbed

Array: TypeAlias = np.ndarray[Any, Any]
Task: TypeAlias = Literal["classification", "regression"]

RESOLUTION = 80  # points of the grid in each direction
Extent: TypeAlias = tuple[float, float, float, float]  # left, right, bottom, top


def task_of(y: Tensor) -> Task:
    """The task that the targets suggest: classification for integers, one-hot rows, or a single column of 0 and 1.

    Example:
        >>> task_of(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), task_of(torch.tensor([[0.5], [1.0]]))
        ('classification', 'regression')
    """
    if not y.is_floating_point():
        return "classification"
    is_binary = bool(((y == 0) | (y == 1)).all())
    is_one_hot = y.dim() < 2 or y.shape[-1] == 1 or bool((y.sum(-1) == 1).all())
    return "classification" if is_binary and is_one_hot else "regression"


def classes_of(values: Tensor) -> Array:
    """The class of each row, [N]: the index of the largest value; for a single value, whether it is above ½.

    Example:
        >>> classes_of(torch.tensor([[0.1, 0.7, 0.2]])), classes_of(torch.tensor([[0.7], [0.2]]))
        (array([1]), array([1, 0]))
    """
    if not values.is_floating_point():
        return values.flatten().long().cpu().numpy()
    if values.dim() < 2 or values.shape[-1] == 1:
        return (values.flatten() > 0.5).long().cpu().numpy()
    return values.argmax(-1).flatten().cpu().numpy()


def targets_of(y: Tensor, output: Tensor) -> Tensor:
    """y in the shape and dtype of the outputs, if it has as many values (such as integer one-hot rows); else unchanged.

    Example:
        >>> targets_of(torch.tensor([0, 1]), torch.tensor([[0.7], [0.2]]))
        tensor([[0.],
                [1.]])
    """
    return y.to(output.dtype).reshape(output.shape) if y.numel() == output.numel() else y


def class_names(classes: Sequence[Any] | None, *found: Array) -> list[str]:
    """The given names, or the class numbers if there are no names or too few."""
    count = max(2, *(int(numbers.max()) + 1 for numbers in found))
    return [str(name) for name in classes] if classes and len(classes) >= count else [str(n) for n in range(count)]


def confusion_of(predicted: Array, true: Array, count: int) -> Array:
    """The confusion matrix [true, predicted]. Samples of a negative class, which a loss ignores, are left out.

    Example:
        >>> confusion_of(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
        array([[1, 1],
               [0, 1]])
    """
    counts = np.zeros((count, count), dtype=int)
    known = true >= 0
    np.add.at(counts, (true[known], predicted[known]), 1)
    return counts


def is_plane(x: Tensor) -> bool:
    """Whether the samples are points with two coordinates."""
    return x.dim() == 2 and x.shape[1] == 2 and bool(x.isfinite().all())


def outputs_on_plane(model: nn.Module, x: Tensor) -> tuple[Tensor, Extent]:
    """The model's outputs on a grid around the samples, row by row, and the extent of the grid."""
    low, high = x.amin(0), x.amax(0)
    margin = 0.15 * (high - low).clamp_min(1e-3)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    across, up = (
        torch.linspace(*ends, RESOLUTION, dtype=x.dtype, device=x.device) for ends in ((left, right), (bottom, top))
    )
    with undisturbed(model), torch.no_grad():
        outputs = model(torch.cartesian_prod(up, across).flip(1))
    return outputs, (left, right, bottom, top)
