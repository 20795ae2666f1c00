"""How much time the monitor adds to a training run: python -m benchmarks.monitor

Two runs of train.py on digits take turns in one process, one with the monitor and one without it. The monitor traces
the model rarely, and chooses when, so the total time of many epochs is compared, not the median epoch. Its budget
counts only the time of its own run. The first and the last trace ignore the budget, and are reported separately.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py does

import torch

from benchmarks.report import as_time, circumstances, machine, new_results, parser_of, table, write
from torchann.console import speak_utf8
from torchann.monitor import Monitor
from torchann.training.config import Config
from torchann.training.distributed import ProcessGroup
from torchann.training.interruption import Interruption
from torchann.training.loop import Run, few_threads
from torchann.training.monitoring import monitor_of
from torchann.training.record import Record
from torchann.training.step import Trainer

TURN = 0.25  # seconds
PARTS = 10  # the time is divided into so many parts, to report their spread


class Stopwatch:
    """A clock that runs only inside `on`."""

    def __init__(self) -> None:
        self.passed = self.started = 0.0
        self.is_on = False

    def __call__(self) -> float:
        return self.passed + (time.perf_counter() - self.started if self.is_on else 0)

    @contextmanager
    def on(self) -> Iterator[None]:
        self.started, self.is_on = time.perf_counter(), True
        yield
        self.passed, self.is_on = self(), False


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("monitor", __doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each of the two runs (default: 120)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ProcessGroup(torch.device("cpu")) as processes:
        results = measure(Config(epochs=10**6, device="cpu", logdir=folder), processes, arguments.seconds)
    print(markdown(results))
    write(results, markdown(results), arguments.out, "monitor-cpu")
    return 0


def measure(config: Config, processes: ProcessGroup, seconds: float) -> dict[str, Any]:
    with ExitStack() as stack:
        dataset = config.load_data(processes.device)
        interruption = stack.enter_context(Interruption())
        plain, monitored = (
            Run(
                Trainer(config, dataset, processes),
                stack.enter_context(Record(config, dataset, processes)),
                interruption,
            )
            for _ in range(2)
        )
        stack.enter_context(few_threads(plain.trainer))
        monitor, clock = monitor_of(monitored.trainer, monitored.record.writer), Stopwatch()
        monitor.budget.clock = clock
        looks = count_calls(monitor)
        first = timed(lambda: monitor.step(0))
        monitored.look = monitor.step
        steps = take_turns(plain, monitored, clock, seconds)
        between = dict(looks)
        last = timed(monitor.close)
    return {
        **new_results(machine("cpu"), {"seconds": seconds}, {}),
        "seconds_a_step": {name: sum(each) / sum(counts) for name, (each, counts) in steps.items()},
        "overhead": overhead(steps),
        "looks": between,
        "first_look": first,
        "last_look": last,
    }


def take_turns(
    plain: Run, monitored: Run, clock: Stopwatch, seconds: float
) -> dict[str, tuple[list[float], list[int]]]:
    """For each run the seconds of every turn, and the steps of every turn."""
    steps: dict[str, tuple[list[float], list[int]]] = {"without": ([], []), "with": ([], [])}
    while sum(steps["with"][0]) < seconds or len(steps["with"][0]) < PARTS:
        for name, run in (("without", plain), ("with", monitored)):
            start, first = time.perf_counter(), run.trainer.steps
            if name == "with":
                with clock.on():
                    turn(run, start)
            else:
                turn(run, start)
            steps[name][0].append(time.perf_counter() - start)
            steps[name][1].append(run.trainer.steps - first)
    return steps


def turn(run: Run, start: float) -> None:
    """Train whole epochs for about `TURN` seconds."""
    while time.perf_counter() - start < TURN:
        run.train_epoch()
        run.record.write([run.end_epoch()], run.trainer.steps)


def overhead(steps: dict[str, tuple[list[float], list[int]]]) -> dict[str, float]:
    """The additional time of a step with the monitor, as a fraction: over all turns, and its spread over the parts."""
    plain, monitored = steps["without"], steps["with"]

    def of(turns: slice) -> float:
        times = [sum(seconds[turns]) / sum(counts[turns]) for seconds, counts in (monitored, plain)]
        return times[0] / times[1] - 1

    size = len(plain[0]) // PARTS
    parts = [of(slice(start, start + size)) for start in range(0, size * PARTS, size)]
    return {"total": of(slice(None)), "median_of_parts": statistics.median(parts), "spread": statistics.stdev(parts)}


def count_calls(monitor: Monitor) -> dict[str, int]:
    """Counts, from now on, how often the monitor does each kind of work."""
    counts = {"write_numbers": 0, "write_distributions": 0, "draw": 0}

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return original(*arguments)

        return call

    for name in counts:
        setattr(monitor, name, counted(name, getattr(monitor, name)))
    return counts


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def markdown(results: dict[str, Any]) -> str:
    cost, looks = results["overhead"], results["looks"]
    rows = [[name, as_time(value)] for name, value in results["seconds_a_step"].items()]
    return "\n".join(
        [
            "# What the monitor costs",
            "",
            circumstances(results),
            "",
            "`train.py` on digits with its defaults, with the monitor and without it, "
            f"{results['settings']['seconds']:g} s each in turns; means over all steps.",
            "",
            *table(["monitor", "a step"], rows),
            "",
            f"A step takes {cost['total']:.1%} longer with it (± {cost['spread']:.1%}, the standard deviation over "
            f"tenths of the time; their median is {cost['median_of_parts']:.1%}).",
            f"In that time it wrote numbers {looks['write_numbers']} times, distributions "
            f"{looks['write_distributions']} times and pictures {looks['draw']} times.",
            f"Apart from that, the first look took {as_time(results['first_look'])}, and the last one, with pictures, "
            f"{as_time(results['last_look'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
