"""What single calls cost beside `nn.Sequential`: inference, and a training step with its loss.

    python -m benchmarks.calls

Competitors alternate in one process on the same parameters; a figure is the median over the rounds of what both took in
the same round. The gradients are compared before they are timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torchann
from benchmarks.report import as_time, circumstances, kind_of_cpu, machine, new_results, table, write
from benchmarks.timing import alternate, ratio, spread
from torchann.console import speak_utf8

ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity, nn.SiLU, nn.GELU, nn.Softplus)
INFERENCE = [(rows, widths) for rows in (1, 8, 64) for widths in ((16, 16), (16, 16, 16, 16))]
STEPS = [(4, (3, 4, 1)), (64, (64, 64, 32, 10))]  # where what surrounds the products counts
AT_MOST = {"inference": 1.1, "step": 0.6}


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="default: 21")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    arguments = parser.parse_args(argv)
    results = {
        **new_results(machine("cpu"), {"rounds": arguments.rounds, "at_most": AT_MOST}, {}),
        "inference": [
            {
                "rows": rows,
                "widths": widths,
                "activation": kind.__name__,
                **inference(rows, widths, kind, arguments.rounds),
            }
            for rows, widths in INFERENCE
            for kind in ACTIVATIONS
        ],
        "step": [{"rows": rows, "widths": widths, **step(rows, widths, arguments.rounds)} for rows, widths in STEPS],
    }
    print(markdown(results))
    write(results, markdown(results), arguments.out, f"calls-{kind_of_cpu()}")
    return 0


def sequential(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(module for sizes in pairwise(widths) for module in (nn.Linear(*sizes), activation())))


def inference(rows: int, widths: Sequence[int], activation: type[nn.Module], rounds: int) -> dict[str, Any]:
    """Under no_grad."""
    eager, x = sequential(widths, activation), torch.randn(rows, widths[0])
    nets = {"nn.Sequential": eager, "MLP": torchann.MLP.from_sequential(eager), "convert": torchann.convert(eager)}
    with torch.no_grad():
        return timed({name: lambda net=net: net(x) for name, net in nets.items()}, rounds)


def step(rows: int, widths: Sequence[int], rounds: int) -> dict[str, Any]:
    """`zero_grad`, forward, loss and backward."""
    eager = sequential(widths, nn.Sigmoid)
    mlp, loss = torchann.MLP.from_sequential(eager), nn.MSELoss()
    x, target = torch.randn(rows, widths[0]), torch.rand(rows, widths[-1])

    def by_autograd(net: nn.Module) -> None:
        net.zero_grad()
        loss(net(x), target).backward()

    def by_backpropagate() -> None:
        mlp.zero_grad()
        torchann.backpropagate(mlp, x, target, loss)

    calls: dict[str, Callable[[], None]] = {
        "nn.Sequential": lambda: by_autograd(eager),
        "MLP": lambda: by_autograd(mlp),
        "backpropagate": by_backpropagate,
    }
    found = []
    for call in calls.values():
        call()
        found.append([parameter.grad for parameter in eager.parameters()])
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0])
    return timed(calls, rounds)


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    seconds = alternate(calls, "cpu", rounds, block_seconds=0.01)
    return {
        "seconds": spread(seconds["nn.Sequential"])._asdict(),
        "ratios": {name: ratio(each, seconds["nn.Sequential"])._asdict() for name, each in seconds.items()},
    }


def markdown(results: dict[str, Any]) -> str:
    lines = ["# What single calls cost", "", circumstances(results), ""]
    lines += [
        f"Medians over {results['settings']['rounds']} rounds, in each of which every competitor ran; ratios are to "
        "`nn.Sequential` on the same parameters in the same round, ± the distance between their quartiles.",
    ]
    titles = {"inference": "Inference, under `torch.no_grad()`", "step": "`zero_grad`, forward, `nn.MSELoss`, backward"}
    for part, title in titles.items():
        rows = results[part]
        names = [name for name in rows[0]["ratios"] if name != "nn.Sequential"]
        worst = max(row["ratios"][names[-1] if part == "step" else name]["median"] for row in rows for name in names)
        cells = [
            [
                f"{row['rows']} × {list(row['widths'])}" + (f", {row['activation']}" if "activation" in row else ""),
                as_time(row["seconds"]["median"]),
                *(f"{row['ratios'][name]['median']:.2f} ± {row['ratios'][name]['iqr']:.2f}" for name in names),
            ]
            for row in rows
        ]
        of = f"`{names[-1]}`" if part == "step" else "each"
        at_most = results["settings"]["at_most"][part]
        verdict = "met" if worst <= at_most else "missed"
        lines += ["", f"## {title}", "", *table(["", "nn.Sequential", *names], cells)]
        lines += ["", f"{of} ≤ {at_most} × `nn.Sequential`: {verdict}, at most {worst:.2f}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
