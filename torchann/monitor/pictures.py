"""The pictures, drawn with matplotlib's objects: no pyplot, no global state.

They have a background of their own, so that they look the same in TensorBoard's light and dark mode. The colours can be
told apart with colour blindness: cividis for amounts, PuOr for signed values, Okabe and Ito's palette for classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize, PowerNorm, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from torchann.monitor.sample import Array, Extent
from torchann.tracing import LayerTrace, Trace

OverTime: TypeAlias = Mapping[str, Sequence[Array]]  # for each layer the values of its neurons: [O] for each step

PAPER, INK, GREY = "#f7f7f5", "#222222", "#8a8a8a"
AMOUNT, SIGNED = "cividis", "PuOr"
CLASSES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
MARKERS = "osD^vP*X"
TEXT, SMALL = 10, 8.5  # points; the pictures are about as wide as TensorBoard shows them
WIDTH, HEIGHT, DPI = 4.0, 3.04, 125

MOST_NEURONS = 10  # of a layer that are drawn
MOST_LAYERS = 6
MOST_IMAGES = 16
MOST_NUMBERED = 12  # classes of a confusion matrix with numbers in it
MOST_LETTERS = 3  # longer class names are written vertically


def as_image(figure: Figure) -> Array:
    """The picture as [height, width, 3] of uint8."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks is shown as a box
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def blank(title: str, height: float = HEIGHT) -> Figure:
    figure = Figure((WIDTH, height), DPI, facecolor=PAPER)
    figure.suptitle(title, fontsize=TEXT, color=INK, y=0.98, va="top")
    return figure


def style(axes: Axes, x: str = "", y: str = "") -> Axes:
    axes.set_facecolor(PAPER)
    axes.set_xlabel(x, fontsize=SMALL, color=INK)
    axes.set_ylabel(y, fontsize=SMALL, color=INK)
    axes.tick_params(labelsize=SMALL, colors=INK)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    return axes


def plain(name: str) -> str:
    """Escape dollars, between which matplotlib would expect a formula."""
    return name.replace("$", r"\$")


def add_scale(figure: Figure, mappable: ScalarMappable, label: str) -> None:
    """Add the colour bar at the right edge."""
    axes = style(figure.add_axes((0.8, 0.14, 0.03, 0.7)))
    figure.colorbar(mappable, cax=axes, format=None if isinstance(mappable.norm, LogNorm) else "%.2g")
    axes.set_title(label, fontsize=SMALL, color=INK, loc="left")


def as_array(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def largest_of(values: Array) -> float:
    """The largest finite |value|, or 1 where there is none."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def within(bound: float, values: Array) -> Array:
    """Replace NaN by 0, and ±∞ by ±`bound`."""
    return np.nan_to_num(values, nan=0, posinf=bound, neginf=-bound)


# --- The network ------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of nodes in the drawing of the network: the neurons of a layer, or inputs.

    Args:
        name: of the layer; empty for inputs.
        shown: the indices of the nodes that are drawn, in order.
        width: how many nodes there are.
        values: of the nodes that are drawn: mean |δ|, or mean |x| for inputs.
    """

    name: str
    shown: Array
    width: int
    values: Array

    @property
    def label(self) -> str:
        left_out = self.width - len(self.shown)
        return f"{plain(self.name) or 'x'}\n{self.width}" + (f"\n{left_out} left out" if left_out else "")

    @property
    def heights(self) -> Array:
        return (np.arange(len(self.shown)) - (len(self.shown) - 1) / 2)[::-1] / max(1, MOST_NEURONS - 1)


def columns_of(layers: Sequence[LayerTrace]) -> list[tuple[Column | None, Column]]:
    """For each layer a column of its neurons and, unless the preceding layer's outputs are its inputs, one of inputs.

    A wide column shows the neurons with the largest mean |δ|, or the inputs with the largest ‖∂E/∂W‖.
    """
    columns = []
    for index, layer in enumerate(layers):
        inputs = None
        if index == 0 or not layer.follows:
            inputs = column("", as_array(layer.weight_gradient.norm(dim=0)), as_array(layer.x.abs().mean(0)))
        delta = as_array(layer.mean_delta)
        columns.append((inputs, column(layer.name, delta, delta)))
    return columns


def column(name: str, busy: Array, values: Array) -> Column:
    shown = np.sort(np.argsort(-busy, kind="stable")[:MOST_NEURONS])
    return Column(name, shown, len(values), values[shown])


def network_by_weight(trace: Trace) -> Figure:
    """The network as nodes and edges; the colour of an edge shows its weight."""
    layers = trace.layers[:MOST_LAYERS]
    figure, axes = network_axes(trace, "weights")
    bound = max(largest_of(as_array(layer.weight)) for layer in layers)
    norm = Normalize(-bound, bound)
    for start, end, matrix in edges(layers, [layer.weight for layer in layers]):
        order = np.argsort(np.abs(matrix), axis=None)  # the heaviest on top
        values = within(bound, matrix.ravel()[order])
        widths = 0.4 + 2.2 * np.abs(values) / bound
        lines = LineCollection(list(segments(start, end)[order]), linewidths=widths.tolist(), cmap=SIGNED, norm=norm)
        lines.set_array(values)
        axes.add_collection(lines)
    draw_nodes(axes, layers, None)
    add_scale(figure, ScalarMappable(norm, SIGNED), "w")
    return figure


def network_by_error(trace: Trace) -> Figure:
    """Where the error comes from: the colour of a node shows mean |δ|, the width of an edge |∂E/∂w|."""
    layers = trace.layers[:MOST_LAYERS]
    figure, axes = network_axes(trace, "nodes by mean |δ|, edges by |∂E/∂w|")
    gradients = [layer.weight_gradient.abs() for layer in layers]
    bound = max(largest_of(as_array(gradient)) for gradient in gradients)
    for start, end, matrix in edges(layers, gradients):
        widths = 3 * np.nan_to_num(matrix.ravel()) / bound
        axes.add_collection(
            LineCollection(list(segments(start, end)), linewidths=widths.tolist(), color=INK, alpha=0.7)
        )
    norm = PowerNorm(0.5, 0, max(largest_of(as_array(layer.mean_delta)) for layer in layers))
    draw_nodes(axes, layers, norm)
    add_scale(figure, ScalarMappable(norm, AMOUNT), "mean |δ|")
    return figure


def network_axes(trace: Trace, what: str) -> tuple[Figure, Axes]:
    left_out = len(trace.layers) - MOST_LAYERS
    figure = blank(f"Network: {what}" + (f"; {left_out} layers left out" if left_out > 0 else ""))
    axes = figure.add_axes((0.01, 0.02, 0.78, 0.88))
    axes.set_axis_off()
    return figure, axes


def placed(layers: Sequence[LayerTrace]) -> list[tuple[tuple[int, Column], tuple[int, Column]]]:
    """For each layer the columns of its inputs and neurons, with their positions from left to right."""
    places: list[tuple[tuple[int, Column], tuple[int, Column]]] = []
    place = 0
    for inputs, neurons in columns_of(layers):
        start = (place, inputs) if inputs else places[-1][1]
        place = start[0] + 1
        places.append((start, (place, neurons)))
        place += 1
    return places


def edges(layers: Sequence[LayerTrace], matrices: Sequence[Tensor]) -> list[tuple[Array, Array, Array]]:
    """For each layer the points of its inputs [I, 2] and neurons [O, 2], and its matrix [O, I], as far as shown."""
    return [
        (points(*start), points(*end), as_array(matrix)[np.ix_(end[1].shown, start[1].shown)])
        for (start, end), matrix in zip(placed(layers), matrices, strict=True)
    ]


def points(place: int, column: Column) -> Array:
    return np.column_stack([np.full(len(column.shown), place), column.heights])


def segments(start: Array, end: Array) -> Array:
    """The lines from each start to each end, [O · I, 2, 2], in the order of the entries of W."""
    outputs, inputs = len(end), len(start)
    return np.stack([np.tile(start, (outputs, 1)), np.repeat(end, inputs, axis=0)], axis=1)


def draw_nodes(axes: Axes, layers: Sequence[LayerTrace], norm: Normalize | None) -> None:
    """Inputs are white; neurons are coloured by mean |δ| if there is a `norm`."""
    last = 0
    for start, (place, neurons) in placed(layers):
        if not start[1].name:
            draw_column(axes, *start, None)
        draw_column(axes, place, neurons, norm)
        last = place
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(-0.95, 0.58)


def draw_column(axes: Axes, place: int, column: Column, norm: Normalize | None) -> None:
    colours: dict[str, Any] = {"c": column.values, "cmap": AMOUNT, "norm": norm} if norm else {"c": "white"}
    x, y = points(place, column).T
    axes.scatter(x, y, s=110, edgecolors=INK, linewidths=0.8, zorder=2, **colours)
    axes.text(place, -0.6, column.label, ha="center", va="top", fontsize=SMALL, color=INK)


# --- Neurons × time ---------------------------------------------------------------------------------------------------


def error_over_time(steps: Sequence[int], values: OverTime) -> Figure:
    """Mean |δ| of each neuron; blank where its layer did not run."""
    top = largest_of(np.concatenate([column for columns in values.values() for column in columns]))
    return heat_map("Mean |δ| of each neuron", steps, values, LogNorm(top * 1e-4, top, clip=True))


def flatness_over_time(steps: Sequence[int], values: OverTime) -> Figure:
    """1 − |f′| / max |f′| of each neuron: 0 where f is steepest, 1 where it is flat."""
    return heat_map("Saturation of each neuron, 1 − |f′| / max |f′|", steps, values, Normalize(0, 1, clip=True))


def heat_map(title: str, steps: Sequence[int], values: OverTime, norm: Normalize) -> Figure:
    shown = list(values.items())[:MOST_LAYERS]
    left_out = len(values) - len(shown)
    figure = blank(title + (f"; {left_out} layers left out" if left_out else ""))
    frame = {"left": 0.15, "right": 0.77, "bottom": 0.14, "top": 0.88, "hspace": 0.12}
    grid = figure.subplots(len(shown), squeeze=False, gridspec_kw=frame)
    for axes, (name, columns) in zip(grid.flat, shown, strict=True):
        style(axes, y=plain(name))
        image = np.stack(columns, axis=1)  # [O, time]
        axes.imshow(image, cmap=AMOUNT, norm=norm, aspect="auto", interpolation="nearest")
        axes.set_yticks(sorted({0, len(image) - 1}), [str(place + 1) for place in sorted({0, len(image) - 1})])
        axes.set_xticks([])
    places = np.unique(np.linspace(0, len(steps) - 1, min(5, len(steps))).astype(int))
    grid[-1, 0].set_xticks(places, [str(steps[place]) for place in places])
    grid[-1, 0].set_xlabel("step", fontsize=SMALL, color=INK)
    add_scale(figure, ScalarMappable(norm, AMOUNT), "")
    return figure


# --- What depends on the data -----------------------------------------------------------------------------------------


def first_weights(layer: LayerTrace, shape: tuple[int, int]) -> Figure:
    """The weights of the neurons with the largest mean |δ|, each as an image."""
    busiest = np.argsort(-as_array(layer.mean_delta), kind="stable")[:MOST_IMAGES]
    left_out = len(layer.weight) - len(busiest)
    figure = blank(f"{layer.name}: weights as images" + (f"; {left_out} neurons left out" if left_out else ""))
    sheet = side_by_side([as_array(layer.weight[neuron]).reshape(shape) for neuron in np.sort(busiest)])
    bound = largest_of(sheet)
    axes = figure.add_axes((0.02, 0.03, 0.75, 0.86))
    axes.set_axis_off()
    axes.imshow(sheet, cmap=SIGNED, norm=Normalize(-bound, bound), interpolation="nearest")
    add_scale(figure, ScalarMappable(Normalize(-bound, bound), SIGNED), "w")
    return figure


def side_by_side(images: Sequence[Array]) -> Array:
    """One array with all images in rows, one pixel apart."""
    across = int(np.ceil(np.sqrt(len(images))))
    height, width = images[0].shape
    sheet = np.full((-(-len(images) // across) * (height + 1), across * (width + 1)), np.nan)
    for index, image in enumerate(images):
        row, place = index // across * (height + 1), index % across * (width + 1)
        sheet[row : row + height, place : place + width] = image
    return sheet[:-1, :-1]


def decision_surface(surface: Array, extent: Extent, x: Array, true: Array, names: Sequence[str]) -> Figure:
    """The class that the model predicts at each point, and the samples in the colours of their classes.

    Args:
        surface: [height · width], the predicted classes, row by row from the bottom; as many rows as columns.
        extent: the coordinates of its edges.
        x: [N, 2], the samples.
        true: [N], their classes.
    """
    figure, axes = plane("Decision surface")
    palette = np.array([to_rgb(colour) for colour in CLASSES])
    pale = 1 - 0.4 * (1 - palette[surface % len(CLASSES)])
    axes.imshow(square(pale), extent=extent, origin="lower", aspect="auto")
    samples = []
    for index in range(len(names)):
        look: dict[str, Any] = {"c": CLASSES[index % len(CLASSES)], "marker": MARKERS[index % len(MARKERS)]}
        samples.append(
            axes.scatter(x[true == index, 0], x[true == index, 1], s=28, edgecolors=PAPER, linewidths=0.6, **look)
        )
    axes.legend(
        samples,
        list(map(plain, names)),
        loc="upper left",
        bbox_to_anchor=(1.0, 1),
        borderaxespad=0.2,
        handletextpad=0.1,
        fontsize=SMALL,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def surface(surface: Array, extent: Extent, x: Array, true: Array) -> Figure:
    """The outputs as a surface, as in `decision_surface`, and the samples in the colours of their targets."""
    figure, axes = plane("Learned function, and the samples' targets")
    bound = largest_of(true)
    colours: dict[str, Any] = {"cmap": SIGNED, "norm": Normalize(-bound, bound)}
    shown = axes.imshow(square(surface), extent=extent, origin="lower", aspect="auto", **colours)
    axes.scatter(x[:, 0], x[:, 1], c=true, s=28, edgecolors=INK, linewidths=0.8, **colours)
    add_scale(figure, shown, "y")
    return figure


def plane(title: str) -> tuple[Figure, Axes]:
    figure = blank(title)
    return figure, style(figure.add_axes((0.14, 0.15, 0.63, 0.74)), "x_1", "x_2")


def square(rows: Array) -> Array:
    side = round(len(rows) ** 0.5)
    return rows.reshape(side, side, *rows.shape[1:])


def confusion(counts: Array, names: Sequence[str]) -> Figure:
    """The confusion matrix; `counts` is [true, predicted]."""
    right, total = int(np.trace(counts)), int(counts.sum())
    figure = blank(f"Confusion: {right} of {total} right")
    axes = style(figure.add_axes((0.15, 0.15, 0.62, 0.74)), "predicted", "true")
    shown = axes.imshow(counts, AMOUNT, Normalize(0, max(1, counts.max())), aspect="auto")
    places = range(len(names)) if len(names) <= MOST_NUMBERED else np.linspace(0, len(names) - 1, 6).astype(int)
    ticks = [plain(names[place]) for place in places]
    axes.set_xticks(places, ticks)
    is_upright = max(map(len, names)) <= MOST_LETTERS
    axes.set_yticks(places, ticks, rotation=0 if is_upright else 90, va="center")
    if len(names) <= MOST_NUMBERED:
        for (true, predicted), count in np.ndenumerate(counts):
            if count:
                colour = INK if count > counts.max() / 2 else "white"
                axes.text(predicted, true, str(count), ha="center", va="center", color=colour, fontsize=SMALL)
    add_scale(figure, shown, "samples")
    return figure


def predicted_against_true(predicted: Array, true: Array) -> Figure:
    """[N] each; a perfect prediction lies on the diagonal."""
    figure = blank("Predicted against true")
    axes = style(figure.add_axes((0.15, 0.15, 0.8, 0.74)), "true", "predicted")
    axes.scatter(true, predicted, s=22, c=CLASSES[0], edgecolors=PAPER, linewidths=0.5)
    finite = np.concatenate([true, predicted])[np.isfinite(np.concatenate([true, predicted]))]
    if finite.size:
        axes.plot([finite.min(), finite.max()], [finite.min(), finite.max()], color=GREY, linewidth=1, zorder=0)
    return figure
