"""`Monitor`: decides when to trace the model, writes the results to TensorBoard, and warns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from torchann.monitor import health, pictures
from torchann.monitor.budget import Budget
from torchann.monitor.history import History
from torchann.monitor.pictures import as_array
from torchann.monitor.sample import (
    Task,
    class_names,
    classes_of,
    confusion_of,
    is_plane,
    outputs_on_plane,
    targets_of,
    task_of,
)
from torchann.tracing import LayerTrace, Loss, Trace, disagreement, trace, unwrap, worked
from torchann.transforms import own_parameters

CHARTS = {  # on TensorBoard's custom-scalars page: each chart shows one quantity for all layers
    "mean |δ| by layer": "mean_delta",
    "saturated neurons by layer": "saturated",
    "neurons without gradient by layer": "dead",
    "update ratio ‖∂E/∂W‖ / ‖W‖ by layer": "update_ratio",
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
EXAMPLE = worked.Scope(neurons=2, terms=4)


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Monitor:
    """Writes to TensorBoard what each neuron of a model contributes to the error while it trains.

    Every `every` steps, or as often as the budget allows, the monitor traces the sample and writes below `monitor/`:

    - for each `Dense` layer mean |δ|, the shares of saturated neurons and of neurons without gradient, and the update
      ratio ‖∂E/∂W‖ / ‖W‖;
    - less often, the distributions of o, δ, W, b and ∂E/∂W, and how far the hand-derived gradient is from autograd's;
    - still less often, pictures.

    It warns in words if something is wrong. At all other steps it does nothing, and the model has no hooks.

    Args:
        model: has `Dense` layers anywhere in it. It may be compiled, or in DDP, where only the first process monitors.
        writer: where to write; None to do nothing.
        sample: x and y of the few dozen samples that are traced.
        loss: E = loss(model(x), y), a scalar.
        every: the fewest steps between two traces.
        budget: the largest share of the training time that the monitor may take; the writer's own thread takes some
            more. Numbers, distributions and pictures get equal parts of it. The first trace, and the last, which has
            pictures, are made even if they take longer.
        rate: the learning rate, for the update in the worked example.
        task: "classification" or "regression"; None to decide by y: one-hot rows, 0 and 1, and integers are classes.
        classes: the names of the classes.
        image_shape: (height, width), if an input is an image.
        say: is called with each warning, one line.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> with Monitor(net, SummaryWriter("runs/xor"), sample=(x, y), loss=loss) as monitor:  # doctest: +SKIP
        ...     for step in range(1000):
        ...         train_one_step()
        ...         monitor.step(step)
    """

    def __init__(
        self,
        model: nn.Module,
        writer: SummaryWriter | None,
        *,
        sample: tuple[Tensor, Tensor],
        loss: Loss,
        every: int = 100,
        budget: float = 0.03,
        rate: float | None = None,
        task: Task | None = None,
        classes: Sequence[Any] | None = None,
        image_shape: tuple[int, int] | None = None,
        say: Callable[[str], None] = print_to_stderr,
    ) -> None:
        check(every, budget, sample, task, image_shape)
        self.model, self.loss, self.say = unwrap(model), loss, say
        self.writer: Any = writer
        self.x, self.y = sample
        self.every, self.rate, self.image_shape = every, rate, image_shape
        self.task = task or task_of(self.y)
        self.classes = None if classes is None else list(classes)  # a list, as the truth value of an array is ambiguous
        self.history = History()
        self.said: dict[tuple[str, str], str] = {}
        self.silent_before: dict[str, Tensor] = {}
        self.latest: int | None = None  # step
        self.drawn: int | None = None  # the step of the last pictures
        self.next = 0.0
        self.budget = Budget(budget, {"numbers": 0.0, "distributions": 0.0, "pictures": 0.5})
        reason = why_not(self.model)
        if reason is not None and writer is not None and is_rank_0():
            say(f"monitor: {reason}; nothing is monitored")
        if reason is not None or writer is None or not is_rank_0():
            self.next = math.inf
        else:
            writer.add_custom_scalars({"monitor": as_layout(CHARTS)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def step(self, step: int) -> None:
        """Call this after each optimizer step, with an increasing number."""
        self.latest = step
        if step >= self.next:
            self.next = step + self.every
            self.look(step)

    def close(self) -> None:
        """Trace a last time, with pictures. Later calls of `step` do nothing."""
        if self.next < math.inf and self.latest is not None and self.latest != self.drawn:
            self.look(self.latest, whatever_it_takes=True)
        self.next = math.inf

    def look(self, step: int, whatever_it_takes: bool = False) -> None:
        is_first = not self.history.steps
        if not (is_first or whatever_it_takes or self.budget.affords("numbers")):
            return
        if self.x.device.type != "cpu":
            torch.accelerator.synchronize()  # else the budget would count the device's pending work as ours
        with self.budget.spend("numbers"):
            seen = trace(self.model, self.x, self.y, self.loss)
            if step not in self.history.steps:
                self.write_numbers(seen, step)
                self.history.add(step, seen)
            self.warn(health.problems(seen), step)
        if is_first or whatever_it_takes or self.budget.affords("distributions"):
            with self.budget.spend("distributions"):
                self.write_distributions(seen, step)
        if whatever_it_takes or self.budget.affords("pictures"):
            with self.budget.spend("pictures"):
                self.draw(seen, step)
        if is_first:
            self.budget.restart()  # the first look takes longer than others, as it loads libraries

    # --- Numbers ------------------------------------------------------------------------------------------------------

    def write_numbers(self, seen: Trace, step: int) -> None:
        self.write_number("error", seen.error, step)
        for layer in seen.layers:
            silent = health.has_no_gradient(layer)
            before = self.silent_before.get(layer.name, silent)
            self.silent_before[layer.name] = silent
            numbers = {
                "mean_delta": layer.delta.abs().mean().item(),
                "saturated": health.fraction(health.is_saturated(layer)),
                "dead": health.fraction(silent & before),
                "update_ratio": self.update_ratio(layer),
            }
            for name, value in numbers.items():
                self.write_number(f"{name}/{layer.name}", value, step)

    def write_distributions(self, seen: Trace, step: int) -> None:
        found = disagreement(self.model, self.x, self.y, self.loss)
        if found.gradients:
            self.write_number("disagreement_with_autograd", max(found.gradients.values()), step)
            self.warn(health.disagreeing(seen, found), step)
        for layer in seen.layers:
            parameters = {"weights": layer.weight, "biases": layer.bias, "gradients": layer.weight_gradient}
            for name, values in {"o": layer.o, "delta": layer.delta, **parameters}.items():
                if values is not None:
                    self.write_histogram(f"{name}/{layer.name}", values, step)

    def write_number(self, tag: str, value: float, step: int) -> None:
        self.writer.add_scalar(f"monitor/{tag}", value, step)

    def write_histogram(self, tag: str, values: Tensor, step: int) -> None:
        shown = values[values.abs() < 1e20]  # larger ones and NaN don't fit into TensorBoard's buckets
        if shown.numel():
            self.writer.add_histogram(f"monitor/{tag}", shown, step)

    def update_ratio(self, layer: LayerTrace) -> float:
        """‖∂E/∂W‖ / ‖W‖, with the gradient of the training step from `.grad`, or the sample's if that is None."""
        module = dict(self.model.named_modules()).get(layer.name)
        kept = own_parameters(module).get("weight") if module is not None else None
        gradient = layer.weight_gradient if kept is None or kept.grad is None else kept.grad
        return (gradient.norm() / layer.weight.norm()).item()

    def warn(self, problems: Iterable[health.Problem], step: int) -> None:
        """Report each new problem on the console and, with the earlier ones, as text."""
        new = [problem for problem in problems if problem.cause not in self.said]
        for cause, words in new:
            self.said[cause] = f"step {step}: {words}"
            self.say(f"monitor: {self.said[cause]}")
        if new:
            self.writer.add_text("monitor/warnings", "\n".join(f"- {line}" for line in self.said.values()), step)

    # --- Pictures -----------------------------------------------------------------------------------------------------

    def draw(self, seen: Trace, step: int) -> None:
        for name, figure in self.figures(seen):
            self.writer.add_image(f"monitor/{name}", pictures.as_image(figure), step, dataformats="HWC")
        self.writer.add_text("monitor/worked_example", self.worked_example(seen), step)
        self.drawn = step

    def figures(self, seen: Trace) -> Iterator[tuple[str, Figure]]:
        yield "network/weights", pictures.network_by_weight(seen)
        yield "network/error", pictures.network_by_error(seen)
        yield "neurons/error", pictures.error_over_time(self.history.steps, self.history.error)
        yield "neurons/saturation", pictures.flatness_over_time(self.history.steps, self.history.flatness)
        if self.image_shape is not None:
            yield "first_layer", pictures.first_weights(seen.layers[0], self.image_shape)
        if isinstance(seen.output, Tensor):
            yield from self.figures_of_outputs(seen.output)

    def figures_of_outputs(self, output: Tensor) -> Iterator[tuple[str, Figure]]:
        if self.task == "classification":
            predicted, true = classes_of(output), classes_of(targets_of(self.y, output))
            if len(predicted) != len(true):  # the classes are not along the last dimension
                return
            names = class_names(self.classes, predicted, true)
            yield "confusion", pictures.confusion(confusion_of(predicted, true, len(names)), names)
            if is_plane(self.x):
                outputs, extent = outputs_on_plane(self.model, self.x)
                yield (
                    "decision_surface",
                    pictures.decision_surface(classes_of(outputs), extent, as_array(self.x), true, names),
                )
        elif output.shape == self.y.shape:
            predicted, true = as_array(output).ravel(), as_array(self.y).ravel()
            yield "predicted_against_true", pictures.predicted_against_true(predicted, true)
            if is_plane(self.x) and output.numel() == len(self.x):
                outputs, extent = outputs_on_plane(self.model, self.x)
                yield "surface", pictures.surface(as_array(outputs).ravel(), extent, as_array(self.x), true)

    def worked_example(self, seen: Trace) -> str:
        """Of the first sample only; traced alone, unless batch normalization needs several samples."""
        alone = not any(isinstance(module, BATCH_NORMS) and module.training for module in self.model.modules())
        shown = trace(self.model, self.x[:1], self.y[:1], self.loss) if alone else seen
        scope = EXAMPLE._replace(rate=self.rate)
        return worked.as_markdown(worked.example(shown.layers, shown.error, shown.target, scope))


def check(
    every: int,
    budget: float,
    sample: tuple[Tensor, Tensor],
    task: Task | None,
    image_shape: tuple[int, int] | None,
) -> None:
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every: expected a positive integer, got {every!r}")
    if not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise ValueError(f"budget: expected a number above 0 and at most 1, got {budget!r}")
    if task not in (None, "classification", "regression"):
        raise ValueError(f"task: expected 'classification', 'regression' or None, got {task!r}")
    is_pair = isinstance(sample, tuple | list) and len(sample) == 2 and all(isinstance(e, Tensor) for e in sample)
    if not is_pair:
        raise TypeError(f"sample: expected two Tensors, x and y, got {type(sample).__name__}")
    x, y = sample
    if x.dim() < 2 or y.dim() == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(f"sample: expected x [N, …] and y [N, …], got {list(x.shape)} and {list(y.shape)}")
    if image_shape is not None and math.prod(image_shape) != x.shape[-1]:
        raise ValueError(f"image_shape: expected height · width = {x.shape[-1]}, as x has, got {image_shape}")


def why_not(model: nn.Module) -> str | None:
    """Why the model can't be monitored; None if it can."""
    if isinstance(model, torch.jit.ScriptModule):
        return "expected a model in Python, got a ScriptModule, whose layers can't be looked into"
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()) or any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    ):
        return "expected whole parameters, got sharded ones (FSDP), which one process can't look at alone"
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        return "expected layers that work in one process, got SyncBatchNorm, which waits for the others"
    return None


def is_rank_0() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def as_layout(charts: dict[str, str]) -> dict[str, list[Any]]:
    return {title: ["Multiline", [f"monitor/{tag}/.*"]] for title, tag in charts.items()}
