"""The cost of single calls beside `nn.Sequential`: inference, a training step, and a Hessian-vector product.

    python -m benchmarks.calls

Competitors take turns in one process, on the same parameters. A figure is the median, over the rounds, of the ratio
between their times in the same round. Results are compared before they are timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import torchann
from benchmarks.report import as_time, circumstances, kind_of_cpu, machine, new_results, parser_of, table, write
from benchmarks.timing import alternate, ratio, spread
from torchann.console import speak_utf8

ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity, nn.SiLU, nn.GELU, nn.Softplus)
INFERENCE = [(rows, widths) for rows in (1, 8, 64) for widths in ((16, 16), (16, 16, 16, 16))]
STEPS = [(4, (3, 4, 1)), (64, (64, 64, 32, 10))]  # small ones, where the overhead around the products counts
HESSIANS = [(4, (3, 4, 1)), (512, (64, 256, 256, 1))]


class Part(NamedTuple):
    """A section of the report.

    Args:
        competitor: whom the target is for; None for all of them.
        at_most: the target, as a ratio to `nn.Sequential`; None for no target.
    """

    title: str
    competitor: str | None = None
    at_most: float | None = None


PARTS = {
    "inference": Part("Inference, under `torch.no_grad()`", at_most=1.1),
    "step": Part("`zero_grad`, forward, `nn.MSELoss`, backward", "backpropagate", 0.6),
    "hessian": Part("Hessian-vector product of `nn.MSELoss`: forward, backward, double backward"),
}


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("calls", __doc__)
    parser.add_argument("--rounds", type=int, default=21, help="default: 21")
    arguments = parser.parse_args(argv)
    results = {
        **new_results(machine("cpu"), {"rounds": arguments.rounds}, {}),
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
        "hessian": [
            {"rows": rows, "widths": widths, **hessian(rows, widths, arguments.rounds)} for rows, widths in HESSIANS
        ],
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


def hessian(rows: int, widths: Sequence[int], rounds: int) -> dict[str, Any]:
    """H v, the derivative of ∂E/∂θ · v, for a vector v as long as all parameters θ together."""
    eager, loss = sequential(widths, nn.Sigmoid), nn.MSELoss()
    x, target = torch.randn(rows, widths[0]), torch.rand(rows, widths[-1])
    parameters = list(eager.parameters())
    v = [torch.randn_like(parameter) for parameter in parameters]

    def product(net: nn.Module) -> Sequence[Tensor]:
        gradients = torch.autograd.grad(loss(net(x), target), parameters, create_graph=True)
        return torch.autograd.grad(gradients, parameters, v)

    nets = {"nn.Sequential": eager, "MLP": torchann.MLP.from_sequential(eager)}
    torch.testing.assert_close(product(nets["MLP"]), product(eager))
    return timed({name: lambda net=net: product(net) for name, net in nets.items()}, rounds)


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
    for name, part in PARTS.items():
        lines += ["", f"## {part.title}", "", *section(results[name], part)]
    return "\n".join(lines) + "\n"


def section(rows: list[dict[str, Any]], part: Part) -> list[str]:
    """A line for each network, and whether the target is met."""
    names = [name for name in rows[0]["ratios"] if name != "nn.Sequential"]
    cells = [
        [
            f"{row['rows']} × {list(row['widths'])}" + (f", {row['activation']}" if "activation" in row else ""),
            as_time(row["seconds"]["median"]),
            *(f"{row['ratios'][name]['median']:.2f} ± {row['ratios'][name]['iqr']:.2f}" for name in names),
        ]
        for row in rows
    ]
    lines = table(["", "nn.Sequential", *names], cells)
    if part.at_most is None:
        return lines
    judged = [part.competitor] if part.competitor else names
    worst = max(row["ratios"][name]["median"] for row in rows for name in judged)
    verdict = "met" if worst <= part.at_most else "missed"
    whose = f"`{part.competitor}`" if part.competitor else "each"
    return [*lines, "", f"{whose} ≤ {part.at_most} × `nn.Sequential`: {verdict}, at most {worst:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
