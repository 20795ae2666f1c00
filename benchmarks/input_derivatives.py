"""Derivatives with respect to the inputs, and their backward pass, beside what a user would write instead.

    python -m benchmarks.input_derivatives             measure, save, and draw how the cost grows with the dimension D
    python -m benchmarks.input_derivatives --table     write the tables of docs/performance.md from the saved results

Each call computes the terms of a row (u, ∇u and Δu, say) of a tanh network in float32, adds up the means of their
squares, and differentiates that sum with respect to the parameters. Competitors take turns in one process, on the same
parameters. A competitor is timed only if its terms and gradients agree with those of nested autograd in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import torchann
from benchmarks import memory, report, timing
from benchmarks.competitors import Competitor, Gradients, natively
from benchmarks.measure import Measured, check, judge, one_line, snapshot
from benchmarks.report import as_ratio, as_size, as_time, kind_of_cpu, parser_of, table
from benchmarks.rows import Target
from torchann.console import speak_utf8

TOLERANCE = 1e-4  # relative to a tensor's largest entry: float32 after five layers and four derivatives loses 1e-5
TURN = 0.2  # seconds: several calls in a row, as in training; in a single call, page faults of the one before count
BEGIN, END = "<!-- input derivatives -->", "<!-- /input derivatives -->"
DASH = report.DASH

Terms = Callable[[], Sequence[Tensor]]  # each [N, ·]
Run = Callable[[], tuple[Tensor, Sequence[Tensor]]]  # the loss, and the terms


class Row(NamedTuple):
    """What is computed, of a network with one output.

    Args:
        at_most: the target, as a ratio of torchann's time to nested autograd's; None for no target.
        coefficients: c of Σᵢ cᵢ ∂²u/∂xᵢ², which is computed with u and ∇u; None for ones, Δu.
        order: if given, u and its derivatives up to this order instead; the network then has one input.
    """

    title: str
    samples: int
    widths: tuple[int, ...]
    at_most: float | None = None
    coefficients: tuple[float, ...] | None = None
    order: int | None = None

    @property
    def inputs(self) -> int:
        return self.widths[0]

    @property
    def weights(self) -> dict[int, float]:
        """The coefficients that are not zero, by the number of the input."""
        return {i: c for i, c in enumerate(self.coefficients or [1.0] * self.inputs) if c}

    @property
    def size(self) -> str:
        return f"{self.samples} × [{','.join(map(str, self.widths))}]"


ROWS = [
    Row("u, ∇u, u_xx of (x, t)", 4096, (2, 64, 64, 64, 64, 1), 0.65, coefficients=(1.0, 0.0)),
    Row("Δu in 2 dimensions", 4096, (2, 64, 64, 64, 64, 1), 0.5),
    Row("Δu in 3 dimensions", 1024, (3, 256, 256, 256, 1), 0.55),
    Row("Δu in 10 dimensions", 2048, (10, 64, 64, 64, 64, 1), 0.38),
    Row("Δu in 50 dimensions", 512, (50, 128, 128, 128, 128, 1), 0.33),
    Row("u to u⁗ of x", 4096, (1, 64, 64, 64, 64, 1), 0.4, order=4),
]
PEAK_AT_MOST = 0.5
GROWTH = {d: Row(f"Δu in {d} dimensions", 256, (d, 64, 64, 64, 1)) for d in (1, 2, 3, 5, 10, 20, 50, 100)}
GROWTH_NAME = "Δu, 256 × [D,64,64,64,1]"
GROWTH_COMPETITORS = ("nested", "torchann")


class Problem(NamedTuple):
    row: Row
    net: nn.Sequential
    x: Tensor  # [N, D]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if gradients are wrong, 2 for invalid arguments."""
    speak_utf8()
    arguments = parse(argv)
    try:
        if arguments.table:
            write_page(arguments.page, arguments.out)
            return 0
        if find_spec("matplotlib") is None:
            raise report.ReportError("expected matplotlib, which draws the plot, got none; it is in the extra `bench`")
    except report.ReportError as error:
        print(f"benchmarks.input_derivatives: {error}", file=sys.stderr)
        return 2
    return run(arguments.out, arguments.rounds, arguments.block_seconds)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("input_derivatives", __doc__)
    parser.add_argument("--rounds", type=int, default=21, help="default: 21")
    parser.add_argument("--block-seconds", type=float, default=TURN, help=f"the least time of a turn; default: {TURN}")
    parser.add_argument("--table", action="store_true", help="only write the page's tables from the saved results")
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"), metavar="FILE")
    return parser.parse_args(argv)


def run(folder: Path, rounds: int, block_seconds: float) -> int:
    """Measure, print, save and draw."""
    absent, settings = absences(), {"rounds": rounds, "block_seconds": block_seconds}
    results = report.new_results(report.machine("cpu"), settings, absent)
    results["peers"] = {} if absent else {"jet-for-pytorch": version("jet-for-pytorch")}
    print("\n".join([report.circumstances(results), *report.absences(results)]), flush=True)
    there = [name for name in COMPETITORS if name.removesuffix(" compiled") not in absent]
    for row in ROWS:
        results["rows"].append(measure(row, there, rounds, block_seconds))
        print("\n".join(["", *section(results["rows"][-1])]), flush=True)
    points = [(d, measure(row, GROWTH_COMPETITORS, rounds, block_seconds)) for d, row in GROWTH.items()]
    results["growth"] = {GROWTH_NAME: {"label": "D", "points": points}}
    print("\n".join(["", *report.growth_section(GROWTH_NAME, results["growth"][GROWTH_NAME])]))
    stem = f"input-derivatives-{kind_of_cpu()}"
    report.write(results, markdown(results, plot_name(stem)), folder, stem)
    report.plot_growth(results, folder / plot_name(stem))

    measured = [*results["rows"], *(row for _, row in points)]
    wrong = [(row, name) for row in measured for name, entry in row["competitors"].items() if "wrong" in entry]
    for row, name in wrong:
        print(f"benchmarks.input_derivatives: {row['title']}: {name}: wrong", file=sys.stderr)
    return 1 if wrong else 0


def absences() -> dict[str, str]:
    if find_spec("jet") is not None:
        return {}
    return {"jet-for-pytorch": "absent: No module named 'jet'. It needs Python ≥ 3.12; pip install jet-for-pytorch"}


# --- One row ----------------------------------------------------------------------------------------------------------


def measure(row: Row, names: Iterable[str], rounds: int, block_seconds: float) -> Measured:
    torch.compiler.reset()  # forget what earlier rows compiled
    problem = make_problem(row)
    ready, verdicts = admit(problem, names)
    calls: dict[str, Callable[[], Any]] = {**ready, "floor": floor(row)}
    verdicts["floor"] = {"peak_bytes": None}
    seconds = timing.alternate(calls, "cpu", rounds, block_seconds)
    for name, each in seconds.items():
        ratios = {other: timing.ratio(each, seconds[other])._asdict() for other in ("nested", "floor")}
        verdicts[name] |= {"seconds": timing.spread(each)._asdict(), "ratios": ratios}
    targets = [Target(PEAK_AT_MOST, "torchann", "nested", "peak")]
    if row.at_most is not None:
        targets.insert(0, Target(row.at_most, "torchann", "nested"))
    return {
        **row._asdict(),
        "title": f"{row.title}, {row.size}",
        "competitors": verdicts,
        "targets": [judge(target, verdicts) for target in targets],
    }


def make_problem(row: Row) -> Problem:
    """A network and samples, the same in every run."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for sizes in pairwise(row.widths) for layer in (nn.Linear(*sizes), nn.Tanh())))
    return Problem(row, net[:-1], torch.randn(row.samples, row.inputs))


def admit(problem: Problem, names: Iterable[str]) -> tuple[dict[str, Callable[[], Any]], dict[str, Measured]]:
    """The calls of the competitors with right terms and gradients; and for each competitor its memory, or the error."""
    exact = Problem(problem.row, copy.deepcopy(problem.net).double(), problem.x.double())
    expected = snapshot(competitor(exact, COMPETITORS["nested"](exact)).gradients)
    ready, verdicts = {}, {}
    for name in names:
        try:
            entered = competitor(problem, COMPETITORS[name](problem))
            check(entered, expected, TOLERANCE)
            verdicts[name] = {"peak_bytes": memory.peak_bytes(entered.call, "cpu")}
        except AssertionError as error:
            verdicts[name] = {"wrong": one_line(error)}
        except Exception as error:  # a compiler or a peer may raise anything; the others still run
            verdicts[name] = {"failed": f"{type(error).__name__}: {one_line(error)}"}
        else:
            ready[name] = entered.call
    return ready, verdicts


def competitor(problem: Problem, run: Run) -> Competitor:
    def call() -> Sequence[Tensor]:
        problem.net.zero_grad()
        loss, terms = run()
        loss.backward()
        return [term.detach() for term in terms]

    def find() -> Gradients:
        terms = {f"term {index}": term for index, term in enumerate(call())}
        return {**terms, **{name: weight.grad for name, weight in problem.net.named_parameters()}}

    return Competitor(call, find)


def with_loss(terms: Terms) -> Run:
    def run() -> tuple[Tensor, Sequence[Tensor]]:
        found = terms()
        return torch.stack([term.square().mean() for term in found]).sum(), found

    return run


def compiled(terms: Terms) -> Run:
    return torch.compile(with_loss(terms), dynamic=False, fullgraph=True)


# --- The competitors --------------------------------------------------------------------------------------------------


def nested(problem: Problem, net: nn.Module) -> Terms:
    """`torch.autograd.grad` of its own results: a backward pass for each order, or for each second derivative."""
    row = problem.row

    def by_order() -> Sequence[Tensor]:
        x = problem.x.detach().requires_grad_()
        found = [net(x)]
        for _ in range(row.order):
            found += torch.autograd.grad(found[-1].sum(), x, create_graph=True)
        return found

    def by_input() -> Sequence[Tensor]:
        x = problem.x.detach().requires_grad_()
        u = net(x)
        (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        second = torch.zeros_like(u)
        for i, weight in row.weights.items():
            (row_of_hessian,) = torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)
            second = second + weight * row_of_hessian[:, i : i + 1]
        return [u, gradient, second]

    return by_order if row.order else by_input


def torch_func(problem: Problem) -> Terms:
    """`torch.func.grad` of its own results; for second derivatives vjp of grad, with the D directions under vmap.

    The forms with jvp are slower, and their compiled code fails or crashes in PyTorch 2.13.
    """
    row, x, net = problem.row, problem.x, problem.net

    def u(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        value = net(x)
        return value.sum(), [value]

    def derivative_of(f: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def derivative(x: Tensor) -> tuple[Tensor, list[Tensor]]:
            found, lower = torch.func.grad(f, has_aux=True)(x)
            return found.sum(), [*lower, found]

        return derivative

    def by_order() -> Sequence[Tensor]:
        f: Callable[[Tensor], Any] = u
        for _ in range(row.order):
            f = derivative_of(f)
        return f(x)[1]

    directions = torch.eye(row.inputs)[list(row.weights)]
    weights = torch.tensor(list(row.weights.values()))

    def by_input() -> Sequence[Tensor]:
        gradient, pull_back, (value,) = torch.func.vjp(torch.func.grad(u, has_aux=True), x, has_aux=True)
        second = torch.func.vmap(lambda v: pull_back(v.expand_as(x))[0] @ v)(directions)
        return [value, gradient, (weights @ second).unsqueeze(1)]

    return by_order if row.order else by_input


def jet_for_pytorch(problem: Problem) -> Terms:
    """Taylor mode by the package of that name, as a graph that it has simplified; collapsed for Δu."""
    import jet

    row, x, net = problem.row, problem.x, problem.net
    zeros = torch.zeros_like(x)
    directions = torch.eye(row.inputs).unsqueeze(1).expand(-1, *x.shape).contiguous()  # [D, N, D]
    plain, collapsed = jet.jet(net, (x,)), jet.jet(net, (x,), collapsed=True)

    def by_order(x: Tensor) -> Sequence[Tensor]:
        return plain((x, torch.ones_like(x), *[zeros] * (row.order - 1)))

    def laplacian(x: Tensor) -> Sequence[Tensor]:
        u, first, second = collapsed((x, directions, zeros))
        return [u, as_gradient(first), second]

    def by_input(x: Tensor) -> Sequence[Tensor]:
        """A jet for each input: of second order if its coefficient is not zero."""
        jets = [plain((x, v, *([zeros] if i in row.weights else []))) for i, v in enumerate(directions)]
        second = sum(weight * jets[i][2] for i, weight in row.weights.items())
        return [jets[0][0], as_gradient([each[1] for each in jets]), second]

    terms = by_order if row.order else laplacian if row.coefficients is None else by_input
    graph, _ = jet.capture_graph(terms, (x,))
    jet.common_subexpression_elimination(graph.graph)
    graph.recompile()
    return lambda: graph(x)


def as_gradient(derivatives: Iterable[Tensor]) -> Tensor:
    """D tensors [N, 1] → [N, D]"""
    return torch.cat(list(derivatives), 1)


def ours(problem: Problem) -> Terms:
    row, x, net = problem.row, problem.x, problem.net
    coefficients = None if row.coefficients is None else torch.tensor(row.coefficients)

    def by_order() -> Sequence[Tensor]:
        found = torchann.jet(net, x, order=row.order)
        return [found.value, *(derivative[0] for derivative in found.derivatives)]

    def operator() -> Sequence[Tensor]:
        found = torchann.laplacian(net, x, coefficients)
        return [found.value, found.gradient[:, 0], found.laplacian]

    return by_order if row.order else operator


COMPETITORS: dict[str, Callable[[Problem], Run]] = {
    "nested": lambda problem: with_loss(nested(problem, problem.net)),
    "nested MLP": lambda problem: with_loss(nested(problem, torchann.MLP.from_sequential(problem.net))),
    "torch.func": lambda problem: with_loss(torch_func(problem)),
    "torch.func compiled": lambda problem: compiled(torch_func(problem)),
    "jet-for-pytorch": lambda problem: with_loss(jet_for_pytorch(problem)),
    "jet-for-pytorch compiled": lambda problem: compiled(jet_for_pytorch(problem)),
    "torchann": lambda problem: with_loss(ours(problem)),
    "torchann native": lambda problem: with_loss(natively(ours(problem))),
}


def floor(row: Row) -> Callable[[], None]:
    """The products alone: x Wᵀ, δ W and δᵀ x of each layer, for N rows of each term that travels through it."""
    rows = row.samples * (row.order + 1 if row.order else row.inputs + 2)
    chain = []
    for inputs, outputs in pairwise(row.widths):
        x, weight, delta = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        chain += [(x, weight.t()), (delta, weight), (delta.t(), x)]
    operands = [(left, right, left.new_empty(left.shape[0], right.shape[1])) for left, right in chain]

    def call() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    return call


# --- The report -------------------------------------------------------------------------------------------------------


def markdown(results: report.Results, plot: str) -> str:
    settings = results["settings"]
    lines = [
        "# Derivatives with respect to the inputs",
        "",
        report.circumstances(results),
        "",
        "Forward, the sum of the means of the squares of all terms, and backward to the parameters; tanh, float32. "
        f"Medians over {settings['rounds']} rounds, in each of which every competitor ran for at least "
        f"{settings['block_seconds'] * 1e3:g} ms in a turn of its own. A ratio is the median over the rounds of what "
        "both took in the same round, ± the distance between its quartiles. Peak is what one call has allocated at "
        f"once beyond what was there before. {floor_explained()} Every competitor's terms and gradients agree with "
        f"those of nested autograd in float64 to {TOLERANCE:g} of their largest entry, or it is not timed.",
        "",
        *(f"- {name} {number}" for name, number in results["peers"].items()),
        *report.absences(results),
    ]
    for row in results["rows"]:
        lines += ["", *section(row)]
    for name, sweep in results["growth"].items():
        lines += ["", *report.growth_section(name, sweep)]
    return "\n".join([*lines, "", f"![How time and memory grow with D]({plot})"]) + "\n"


def floor_explained() -> str:
    return (
        "The floor is three products (`torch.mm`) for each layer alone, on N rows for each of the terms that travel "
        "through it: u, D first derivatives and Δu, or u and four derivatives."
    )


def section(row: Measured) -> list[str]:
    entries = row["competitors"]
    return [
        f"## {row['title']}",
        "",
        *table(
            ["", "time", "× nested", "× floor", "peak", "peak × nested"],
            [[name, *cells(entry, entries["nested"])] for name, entry in entries.items()],
        ),
        "",
        *(f"- {report.sentence(target)}" for target in row["targets"]),
    ]


def cells(entry: Measured, reference: Measured) -> list[str]:
    if (problem := problem_of(entry)) is not None:
        return [f"{problem}: {report.as_cell(entry[problem])}", *[DASH] * 4]
    return [
        as_time(entry["seconds"]["median"]),
        with_spread(entry["ratios"]["nested"]),
        as_ratio(entry, "floor"),
        as_size(entry["peak_bytes"]),
        peak_ratio(entry, reference),
    ]


def problem_of(entry: Measured) -> str | None:
    return next((problem for problem in ("wrong", "failed") if problem in entry), None)


def with_spread(ratio: Measured) -> str:
    return f"{ratio['median']:.2f} ± {ratio['iqr']:.2f}"


def peak_ratio(entry: Measured, reference: Measured) -> str:
    ours, theirs = entry.get("peak_bytes"), reference.get("peak_bytes")
    return f"{ours / theirs:.2f}" if ours and theirs else DASH


def plot_name(stem: str) -> str:
    return f"{stem}-growth.svg"


# --- The tables of docs/performance.md --------------------------------------------------------------------------------


def write_page(page: Path, folder: Path) -> None:
    """Replace what stands between the markers.

    Raises:
        ReportError: there are no saved results, or no markers.
    """
    stems = [path.stem for path in sorted(folder.glob("input-derivatives-*.json"))]
    if not stems:
        raise report.ReportError(f"--table: expected saved results in {folder}, got none; run without --table first")
    report.write_between(page, BEGIN, END, on_page(folder, stems))


def on_page(folder: Path, stems: Iterable[str]) -> str:
    return "\n\n".join(page_section(json.loads((folder / f"{stem}.json").read_text("utf-8")), stem) for stem in stems)


def page_section(results: report.Results, stem: str) -> str:
    """A line for each row: nested autograd's time, and the others' as parts of it."""
    rows = results["rows"]
    others = [name for name in report.competitors_of(rows) if name not in ("nested", "torchann", "floor")]
    head = ["", "nested", *others, "torchann", "target", "floor", "peak memory, torchann"]
    lines = [[row["title"], *page_cells(row, [*others, "torchann"])] for row in rows]
    peers = "".join(f" {name} {number}." for name, number in results["peers"].items())
    link = f"[All figures](../benchmarks/results/{stem}.md)."
    below = [f"{report.circumstances(results)}{peers} {link}", *report.absences(results)]
    plot = f"![How time and memory grow with D](../benchmarks/results/{plot_name(stem)})"
    return "\n".join([*table(head, lines), "", *below, "", plot])


def page_cells(row: Measured, names: Sequence[str]) -> list[str]:
    entries = row["competitors"]
    target = next(each for each in row["targets"] if each["quantity"] == "time")
    verdict = {True: "met", False: "missed", None: "not measured"}[target["met"]]
    return [
        as_time(entries["nested"]["seconds"]["median"]),
        *(problem_of(entry) or as_ratio(entry, "nested") for entry in (entries.get(name, {}) for name in names)),
        f"≤ {target['at_most']:g}: {verdict}",
        as_ratio(entries["floor"], "nested"),
        peak_ratio(entries.get("torchann", {}), entries["nested"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
