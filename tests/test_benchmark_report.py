"""The report of the benchmarks: the figures as Markdown, in the README and as a plot."""

from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import input_derivatives, report


def entry(seconds, eager=0.002, peak=3 * 2**20):
    ratios = {"eager": {"median": seconds / eager, "iqr": 0.01}, "floor": {"median": seconds / 0.0005, "iqr": 0.1}}
    return {"peak_bytes": peak, "kept_bytes": 512, "seconds": {"median": seconds, "iqr": 2e-6}, "ratios": ratios}


RESULTS = {
    "machine": {
        "device": "A Processor", "kind": "cpu", "cores": 2, "threads": 2, "wait policy": "passive", "instructions": "AVX2",
        "system": "Linux x86_64", "python": "3.11.7", "torch": "2.13.0", "cuda": None, "torchann": "0.1.0",
    },
    "date": "2026-01-31",
    "settings": {"rounds": 21, "block_seconds": 0.02},
    "absent": {"apex.mlp.MLP": "absent: No module named 'apex'"},
    "rows": [
        {
            "name": "4x3-4-1",
            "title": "4 × [3,4,1]",
            "competitors": {
                "eager": entry(0.002),
                "compiled": {"failed": "RuntimeError: a | b"},
                "dense": {"wrong": "0.weight: off"},
                "mlp": entry(0.0015, peak=2**20),
                "floor": {**entry(0.0005), "peak_bytes": 0},
            },
            "targets": [
                {"competitor": "mlp", "against": "eager", "quantity": "time", "at_most": 0.8, "value": 0.75, "met": True},
                {"competitor": "mlp", "against": "eager", "quantity": "peak", "at_most": 0.3, "value": 1 / 3, "met": False},
                {"competitor": "mlp", "against": "compiled", "quantity": "time", "at_most": 1.0, "value": None, "met": None},
            ],
        }
    ],
    "growth": {},
}  # fmt: skip


GROWTH = {"batch": {"label": "samples", "points": [[size, RESULTS["rows"][0]] for size in (1, 10)]}}


def test_markdown():
    text = report.markdown(RESULTS, "plot.png")
    lines = text.splitlines()
    assert "A Processor (2 cores, 2 threads, AVX2)" in text
    assert "PyTorch 2.13.0, Python 3.11.7, torchann 0.1.0, 2026-01-31." in text
    assert "- apex.mlp.MLP: absent: No module named 'apex'" in lines
    assert "| mlp | 1.50 ms | 2.00 µs | 0.75 | – | 3.00 | 1.0 MiB | 512 B |" in lines
    assert "| compiled | failed: RuntimeError: a \\| b | – | – | – | – | – | – |" in lines
    assert "- mlp ≤ 0.8 × eager: met at 0.750" in lines
    assert "- mlp ≤ 0.3 × eager in peak memory: missed at 0.333" in lines
    assert "- mlp ≤ 1 × compiled: not measured" in lines
    assert "plot.png" not in text


def test_markdown_of_growth():
    lines = report.markdown({**RESULTS, "growth": GROWTH}, "plot.png").splitlines()
    assert "![How cost grows](plot.png)" in lines
    assert "| 10 | 2.00 ms | failed | wrong | 1.50 ms | 500 µs |" in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5e-6, "1.50 µs"), (2.5e-4, "250 µs"), (1e-3, "1.00 ms"), (0.25, "250 ms"), (12.34, "12.3 s")],
)
def test_times(seconds, text):
    assert report.as_time(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(None, "–"), (0, "0 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB")])
def test_sizes(size, text):
    assert report.as_size(size) == text


def test_readme_table_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n", encoding="utf-8")
    report.save(RESULTS, tmp_path, "cpu-another-avx2")
    report.save({**RESULTS, "rows": []}, tmp_path, "cpu-another-avx2-rough")
    for _ in range(2):  # the second time changes nothing
        assert command.main(["--table", "--out", str(tmp_path), "--readme", str(readme)]) == 0
        text = readme.read_text(encoding="utf-8")
        assert text.startswith("before\n<!-- benchmarks -->\n| forward + backward | eager |")
        assert text.endswith("\n<!-- /benchmarks -->\nafter\n")
        assert "| 4 × [3,4,1] | 2.00 ms | failed | wrong | 0.75 | 0.25 | 0.33 |" in text.splitlines()
        assert "A Processor" in text
        assert "PyTorch 2.13.0" in text
        assert "old" not in text


@pytest.mark.parametrize("text", ["nothing", "<!-- benchmarks --> no end", "<!-- /benchmarks --> <!-- benchmarks -->"])
def test_readme_without_markers(tmp_path, capsys, text):
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    report.save(RESULTS, tmp_path, "cpu")
    assert command.main(["--table", "--out", str(tmp_path), "--readme", str(readme)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("benchmarks: README.md: expected the markers")
    assert readme.read_text(encoding="utf-8") == text


def test_the_page_on_speed_has_the_saved_derivatives():
    root = Path(__file__).parents[1]
    saved = root / "benchmarks" / "results"
    stems = [path.stem for path in sorted(saved.glob("input-derivatives-*.json"))]
    text = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    between = text.partition(input_derivatives.BEGIN)[2].partition(input_derivatives.END)[0]
    assert stems
    assert between.strip() == input_derivatives.on_page(saved, stems)


def test_rows_are_merged_where_the_circumstances_are_the_same():
    def with_rows(*named, **others):
        return {**RESULTS, "rows": [{"name": name, "from": origin} for name, origin in named], **others}

    old, new = with_rows(("b", 1), ("c", 1), growth=GROWTH), with_rows(("b", 2), ("a", 2))
    both = report.merged(old, new, order=["a", "b", "c"])
    assert both["rows"] == [{"name": "a", "from": 2}, {"name": "b", "from": 2}, {"name": "c", "from": 1}]
    assert both["growth"] == GROWTH
    assert report.merged({**old, "machine": {**old["machine"], "torch": "2.6.0"}}, new, ["a"]) is new
    assert report.merged(None, new, ["a"]) is new


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot_growth({**RESULTS, "growth": GROWTH}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
