"""Which matrix product is fastest on this CPU, by size. `torchann/fast/products.py` has a table made from the results.

    python -m benchmarks.products

For N rows, I inputs and O outputs: x Wᵀ and δ W by PyTorch and by oneDNN; δᵀ x also as a convolution and in 16 parts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import as_time, circumstances, kind_of_cpu, machine, new_results, parser_of, table, write
from benchmarks.timing import alternate, spread
from torchann import formulas
from torchann.console import speak_utf8
from torchann.fast import onednn, products

SIZES = [
    (256, 256, 256), (512, 64, 256), (512, 256, 256), (1024, 512, 512), (2048, 64, 64), (4096, 1024, 1024),
    (8192, 50, 50), (8192, 64, 64), (8192, 128, 128), (16384, 64, 64), (16384, 256, 256), (32768, 32, 32),
    (65536, 3, 32), (65536, 32, 32), (65536, 64, 64),
]  # fmt: skip
NAMES = {
    "x Wᵀ": ("PyTorch", "oneDNN"),
    "δ W": ("PyTorch", "oneDNN"),
    "δᵀ x": ("PyTorch", "oneDNN", "convolution", "16 parts"),
}


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("products", __doc__)
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    arguments = parser.parse_args(argv)
    sizes = [{"size": size, **measure(*size, arguments.rounds)} for size in SIZES]
    results = {**new_results(machine("cpu"), {"rounds": arguments.rounds}, {}), "sizes": sizes}
    print(markdown(results))
    write(results, markdown(results), arguments.out, f"products-{kind_of_cpu()}")
    return 0


@torch.no_grad()
def measure(rows: int, inputs: int, outputs: int, rounds: int) -> dict[str, Any]:
    x, weight, delta = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
    calls: dict[str, dict[str, Callable[[], Tensor]]] = {
        "x Wᵀ": {
            "PyTorch": lambda: formulas.pre_activation(x, weight, None),
            "oneDNN": lambda: onednn.linear(x, weight),
        },
        "δ W": {
            "PyTorch": lambda: formulas.input_gradient(delta, weight),
            "oneDNN": lambda: onednn.linear(delta, weight.t()),
        },
        "δᵀ x": {
            "PyTorch": lambda: formulas.weight_gradient(delta, x),
            "oneDNN": lambda: onednn.weight_gradient(delta, x),
            "convolution": lambda: onednn.weight_gradient_by_convolution(delta, x),
            "16 parts": lambda: products.weight_gradient_in_parts(delta, x),
        },
    }
    return {
        product: {name: spread(each)._asdict() for name, each in alternate(ways, "cpu", rounds, 0.005).items()}
        for product, ways in calls.items()
    }


def markdown(results: dict[str, Any]) -> str:
    head = ["N × I × O", *(f"{product}, {name}" for product, names in NAMES.items() for name in names)]
    rows = []
    for size in results["sizes"]:
        cells = []
        for product, names in NAMES.items():
            fastest = min(size[product][name]["median"] for name in names)
            for name in names:
                seconds = size[product][name]["median"]
                cells.append(f"**{as_time(seconds)}**" if seconds == fastest else as_time(seconds))
        rows.append([" × ".join(map(str, size["size"])), *cells])
    rounds = results["settings"]["rounds"]
    return "\n".join(
        [
            "# Products of matrices",
            "",
            circumstances(results),
            "",
            f"Medians over {rounds} rounds, in which they alternate; the fastest is bold.",
            "",
            *table(head, rows),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
