"""What `import torchann` costs beyond `import torch`: python -m benchmarks.importing

Each measurement starts a new process, which imports torch and then torchann.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.report import as_time, circumstances, machine, new_results, parser_of, table, write
from benchmarks.timing import spread
from torchann.console import speak_utf8

AT_MOST = 0.05  # seconds
MODULES = ("torch", "torchann")
PROGRAM = """
from time import perf_counter
start = perf_counter()
import torch
between = perf_counter()
import torchann
print(between - start, perf_counter() - between)
"""


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("importing", __doc__)
    parser.add_argument("--runs", type=int, default=21, help="processes (default: 21)")
    arguments = parser.parse_args(argv)
    results = measure(arguments.runs)
    print(markdown(results))
    write(results, markdown(results), arguments.out, "import-cpu")
    return 0


def measure(runs: int) -> dict[str, Any]:
    once()  # so that the files are cached and compiled to bytecode
    seconds = dict(zip(MODULES, map(list, zip(*(once() for _ in range(runs)), strict=True)), strict=True))
    return {
        **new_results(machine("cpu"), {"runs": runs, "at_most": AT_MOST}, {}),
        "seconds": {name: spread(each)._asdict() for name, each in seconds.items()},
    }


def once() -> list[float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return [float(seconds) for seconds in done.stdout.split()]


def markdown(results: dict[str, Any]) -> str:
    settings = results["settings"]
    verdict = "met" if results["seconds"]["torchann"]["median"] <= settings["at_most"] else "missed"
    rows = [[name, as_time(each["median"]), as_time(each["iqr"])] for name, each in results["seconds"].items()]
    return "\n".join(
        [
            "# What the import costs",
            "",
            circumstances(results),
            "",
            f"Medians over {settings['runs']} processes, each of which imports `torch` and then `torchann`; ± is the "
            "distance between the quartiles.",
            "",
            *table(["import", "time", "±"], rows),
            "",
            f"torchann ≤ {as_time(settings['at_most'])} beyond torch: {verdict}",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
