"""From which size on a sweep is faster than PyTorch's operations one by one: python -m benchmarks.crossover

`TRAINING` and `INFERENCE` in torchann/conversion.py were chosen by its results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import as_time, circumstances, kind_of_cpu, machine, new_results, parser_of, table, write
from benchmarks.timing import alternate, ratio, spread
from torchann import activations
from torchann.console import speak_utf8
from torchann.functional.layers import network, one_by_one

DEPTH = 3
WIDTHS = (16, 64, 256, 512)
ENTRIES = tuple(2**k for k in range(14, 22))  # of a layer's output: samples × width
ACTIVATIONS = ("sigmoid", "tanh", "relu", "silu", "gelu", "leaky_relu", "softplus", "hardswish", "mish", "identity")


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("crossover", __doc__)
    parser.add_argument("--rounds", type=int, default=11, help="default: 11")
    parser.add_argument("--activations", nargs="+", metavar="NAME", help="default: all of the script's")
    arguments = parser.parse_args(argv)
    results = new_results(machine("cpu"), {"rounds": arguments.rounds}, {})
    for name in arguments.activations or ACTIVATIONS:
        for width in WIDTHS:
            for entries in ENTRIES:
                results["rows"].append(measure(name, width, entries, arguments.rounds))
    print(markdown(results))
    write(results, markdown(results), arguments.out, f"crossover-{kind_of_cpu()}")
    return 0


def measure(name: str, width: int, entries: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    x, error = torch.randn(entries // width, width), torch.rand(entries // width, width)
    weights = [(torch.randn(width, width) / width**0.5).requires_grad_() for _ in range(DEPTH)]
    biases = [torch.zeros(width, requires_grad=True) for _ in range(DEPTH)]
    rows = [activations.get(name)] * DEPTH

    def step(run: Callable[..., Any]) -> Callable[[], None]:
        def call() -> None:
            for parameter in (*weights, *biases):
                parameter.grad = None
            run(x, weights, biases, rows).backward(error)

        return call

    def infer(run: Callable[..., Any]) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: run(x, weights, biases, rows))

    found: dict[str, Any] = {"activation": name, "width": width, "entries": entries}
    for task, timed in (("training", step), ("inference", infer)):
        seconds = alternate({"sweep": timed(network), "one by one": timed(one_by_one)}, "cpu", rounds, 0.01)
        found[task] = ratio(seconds["sweep"], seconds["one by one"])._asdict()
        found[f"{task}, one by one"] = spread(seconds["one by one"])._asdict()
    return found


def markdown(results: dict[str, Any]) -> str:
    lines = ["# From which size on a sweep is faster", "", circumstances(results), ""]
    lines += [
        f"Networks of {DEPTH} layers of one width: the time of a sweep as a part of what PyTorch's operations take one "
        f"by one, medians over {results['settings']['rounds']} rounds. In brackets, the time of those operations.",
    ]
    for task in ("training", "inference"):
        lines += ["", f"## {task.capitalize()}", ""]
        lines += table(["activation, width", *(f"{n >> 10} Ki entries" for n in ENTRIES)], [*cells(results, task)])
    return "\n".join(lines) + "\n"


def cells(results: dict[str, Any], task: str) -> Any:
    for first in results["rows"]:
        if first["entries"] == ENTRIES[0]:
            same = [
                r for r in results["rows"] if (r["activation"], r["width"]) == (first["activation"], first["width"])
            ]
            times = (f"{r[task]['median']:.2f} ({as_time(r[f'{task}, one by one']['median'])})" for r in same)
            yield [f"{first['activation']}, {first['width']}", *times]


if __name__ == "__main__":
    sys.exit(main())
