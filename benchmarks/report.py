"""Writes the results: as JSON, as Markdown, as the README's table, and as a plot of how cost grows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import torchann
from benchmarks.measure import Measured
from torchann.fast.products import this_cpu

Results = dict[str, Any]

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEADINGS = {  # of the columns in the README; peers follow
    "eager": "eager",
    "compiled": "torch.compile",
    "convert": "`convert`",
    "dense": "`Dense`",
    "mlp": "`MLP`",
    "native mlp": "`MLP`, native",
    "floor": "floor",
}
NOT_IN_README = ("compiled max-autotune", "native dense", "compiled mlp")
DASH = "–"


class ReportError(Exception):
    pass


# --- The results, and where they are kept -----------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """The hardware and software that the times depend on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "kind": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "wait policy": os.environ.get("OMP_WAIT_POLICY", "default").lower(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "family": this_cpu()[1],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "torchann": torchann.__version__,
    }


def kind_of_cpu() -> str:
    """Vendor, family and instructions, for file names, such as `cpu-amd-25-avx512`: each kind has its own results."""
    vendor, family, instructions = this_cpu()
    vendor = vendor.removeprefix("Authentic").removeprefix("Genuine") or platform.machine()
    return f"cpu-{vendor}-{family}-{instructions}".lower()


def cpu_model() -> str:
    """The CPU's model on Linux; elsewhere what Python's `platform` knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def parser_of(script: str, doc: str) -> argparse.ArgumentParser:
    """For `python -m benchmarks.SCRIPT`: the first line of its docstring, and the option `--out`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{script}", description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    return parser


def new_results(machine: dict[str, Any], settings: dict[str, Any], absent: dict[str, str]) -> Results:
    date = datetime.now(UTC).date().isoformat()
    return {"machine": machine, "date": date, "settings": settings, "absent": absent, "rows": [], "growth": {}}


def merged(old: Results | None, new: Results, order: Sequence[str]) -> Results:
    """`new`, with the rows and sweeps of `old` that `new` lacks, if machine, settings and peers are the same."""
    same = ("machine", "settings", "absent")
    if old is None or any(old[key] != new[key] for key in same):
        return new
    rows = {row["name"]: row for row in [*old["rows"], *new["rows"]]}
    ordered = sorted(rows.values(), key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    return {**new, "rows": ordered, "growth": {**old["growth"], **new["growth"]}}


def save(results: Results, folder: Path, stem: str) -> None:
    write(results, markdown(results, plot_name(stem)), folder, stem)


def write(results: Results, text: str, folder: Path, stem: str) -> None:
    """Write STEM.json and STEM.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")


def plot_name(stem: str) -> str:
    return f"{stem}-growth.png"


def load(folder: Path, stem: str) -> Results | None:
    path = folder / f"{stem}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise ReportError(f"{path}: expected JSON, got something else: {error}") from None


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(results: Results, plot: str) -> str:
    rows = [line for row in results["rows"] for line in ("", *row_section(row))]
    growth = [line for name, sweep in results["growth"].items() for line in ("", *growth_section(name, sweep))]
    image = ["", f"![How cost grows]({plot})"] if growth else []
    lines = [
        "# Benchmarks",
        "",
        circumstances(results),
        "",
        how(results),
        "",
        *absences(results),
        *rows,
        *image,
        *growth,
    ]
    return "\n".join(lines) + "\n"


def circumstances(results: Results) -> str:
    where = results["machine"]
    family = f" family {where['family']}" if where.get("family") else ""
    threads = f"{where['threads']} thread" + ("s" if where["threads"] > 1 else "")
    cuda = f", CUDA {where['cuda']}" if where["cuda"] else ""
    return (
        f"{where['device']}{family} ({where['cores']} cores, {threads}, {where['instructions']}), "
        f"{where['system']}, PyTorch {where['torch']}{cuda}, Python {where['python']}, torchann {where['torchann']}, "
        f"{results['date']}."
    )


def how(results: Results) -> str:
    settings = results["settings"]
    return (
        f"Medians over {settings['rounds']} rounds, in each of which every competitor ran for at least "
        f"{settings['block_seconds'] * 1e3:g} ms in a turn of its own; ± is the distance between the quartiles. A "
        "ratio is the median over the rounds of what both took in the same round. The floor is PyTorch's products "
        "of matrices (`torch.mm`) alone, layer after layer; what takes faster products, or goes through the layers in "
        "blocks of rows, can be below it. Peak is what forward + backward have allocated at once beyond what was there "
        "before, kept what they save in between."
    )


def absences(results: Results) -> list[str]:
    return [f"- {name}: {why}" for name, why in results["absent"].items()]


def row_section(row: Measured) -> list[str]:
    return [
        f"## {row['title']}",
        "",
        *table(
            ["", "time", "±", "× eager", "× compiled", "× floor", "peak", "kept"],
            [[name, *entry_cells(entry)] for name, entry in row["competitors"].items()],
        ),
        *(["", *(f"- {sentence(target)}" for target in row["targets"])] if row["targets"] else []),
    ]


def entry_cells(entry: Measured) -> list[str]:
    for problem in ("wrong", "failed"):
        if problem in entry:
            return [f"{problem}: {as_cell(entry[problem])}", *[DASH] * 6]
    return [
        as_time(entry["seconds"]["median"]),
        as_time(entry["seconds"]["iqr"]),
        *(as_ratio(entry, reference) for reference in ("eager", "compiled", "floor")),
        as_size(entry["peak_bytes"]),
        as_size(entry["kept_bytes"]),
    ]


def sentence(target: Measured) -> str:
    quantity = " in peak memory" if target["quantity"] == "peak" else ""
    verdict = {True: "met", False: "missed", None: "not measured"}[target["met"]]
    value = "" if target["value"] is None else f" at {target['value']:.3f}"
    return f"{target['competitor']} ≤ {target['at_most']:g} × {target['against']}{quantity}: {verdict}{value}"


def growth_section(name: str, sweep: Measured) -> list[str]:
    points = sweep["points"]
    competitors = competitors_of(row for _, row in points)
    cells = [
        [str(size), *(growth_cell(row["competitors"].get(competitor, {})) for competitor in competitors)]
        for size, row in points
    ]
    return [f"## Growth: {name}", "", *table([sweep["label"], *competitors], cells)]


def growth_cell(entry: Measured) -> str:
    return as_time(entry["seconds"]["median"]) if "seconds" in entry else next(iter(entry), DASH)


def competitors_of(rows: Iterable[Measured]) -> list[str]:
    """The competitors of all rows, each once, in order."""
    return list(dict.fromkeys(name for row in rows for name in row["competitors"]))


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table: the first column is left-aligned, the others right-aligned."""
    return [as_line(head), "|---|" + "---:|" * (len(head) - 1), *map(as_line, rows)]


def as_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_cell(text: str) -> str:
    return text.replace("|", "\\|")


def as_time(seconds: float) -> str:
    """With three significant digits, and a unit."""
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{seconds * factor:#.3g} {unit}".replace(". ", " ")


def as_ratio(entry: Measured, reference: str) -> str:
    return f"{entry['ratios'][reference]['median']:.2f}" if reference in entry.get("ratios", {}) else DASH


def as_size(size: int | None) -> str:
    if size is None:
        return DASH
    for unit, bytes_in_unit in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_in_unit:
            return f"{size / bytes_in_unit:.1f} {unit}"
    return f"{size} B"


# --- The README's table -----------------------------------------------------------------------------------------------


def write_readme(readme: Path, all_results: list[Results]) -> None:
    """Replace the tables between the markers."""
    write_between(readme, BEGIN, END, "\n\n".join(map(readme_table, all_results)))


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two markers on a page.

    Raises:
        ReportError: the page lacks a marker.
    """
    before, first, rest = page.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ReportError(f"{page.name}: expected the markers {begin} and {end}, got none")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def status_of(write: Callable[[], Any]) -> int:
    """Write a page: 0, or 1 and a line on stderr where saved results or markers are missing."""
    try:
        write()
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def readme_table(results: Results) -> str:
    rows = results["rows"]
    there = competitors_of(rows)
    columns = [name for name in dict.fromkeys([*HEADINGS, *there]) if name in there and name not in NOT_IN_README]
    head = ["forward + backward", *(HEADINGS.get(name, name) for name in columns), "peak memory, `MLP`"]
    cells = [[row["title"], *readme_cells(row["competitors"], columns)] for row in rows]
    return "\n".join([*table(head, cells), "", f"{explanation()} {circumstances(results)}", *absences(results)])


def readme_cells(entries: dict[str, Measured], columns: list[str]) -> list[str]:
    peak, reference = (entries.get(name, {}).get("peak_bytes") for name in ("mlp", "eager"))
    return [
        *(readme_cell(name, entries.get(name, {})) for name in columns),
        f"{peak / reference:.2f}" if peak and reference else DASH,
    ]


def readme_cell(name: str, entry: Measured) -> str:
    for problem in ("wrong", "failed"):
        if problem in entry:
            return problem
    if name == "eager" and "seconds" in entry:
        return as_time(entry["seconds"]["median"])
    return as_ratio(entry, "eager")


def explanation() -> str:
    return (
        "Time and peak memory as parts of eager's, `nn.Sequential(nn.Linear, nn.Sigmoid, …)`, on the same parameters; "
        "the floor is PyTorch's products of matrices (`torch.mm`) alone."
    )


# --- The plot ---------------------------------------------------------------------------------------------------------


def plot_growth(results: Results, path: Path) -> None:
    """A column for each sweep: time above, peak memory below."""
    from matplotlib.figure import Figure  # only needed here, and only in the extra `bench`

    sweeps = results["growth"]
    figure = Figure(figsize=(4.5 * len(sweeps), 7), layout="constrained")
    grid = figure.subplots(2, len(sweeps), squeeze=False, sharex="col")
    for column, (name, sweep) in enumerate(sweeps.items()):
        upper, lower = grid[0][column], grid[1][column]
        for competitor in competitors_of(row for _, row in sweep["points"]):
            upper.plot(*line(sweep, competitor, lambda entry: entry["seconds"]["median"] * 1e3), ".-", label=competitor)
            lower.plot(*line(sweep, competitor, lambda entry: entry["peak_bytes"]), ".-", label=competitor)
        upper.set(title=name, xscale="log", yscale="log", ylabel="ms, forward + backward")
        lower.set(xscale="log", yscale="log", xlabel=sweep["label"], ylabel="bytes, peak")
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
    grid[0][0].legend()
    figure.suptitle(circumstances(results), fontsize="small", wrap=True)
    figure.savefig(path, dpi=120)


def line(sweep: Measured, competitor: str, value: Callable[[Measured], float | None]) -> tuple[list[int], list[float]]:
    """The sizes at which the competitor has that value, and the values."""
    entries = [(size, row["competitors"].get(competitor, {})) for size, row in sweep["points"]]
    heights = [(size, value(entry)) for size, entry in entries if "seconds" in entry]
    points = [(size, height) for size, height in heights if height]
    return [size for size, _ in points], [height for _, height in points]
