"""The page on `verify` and other packages is what the saved results say. No other package is needed."""

import copy
from pathlib import Path

import pytest

from benchmarks import verify_world
from benchmarks.report import ReportError, load

ROOT = Path(__file__).parents[1]
RESULTS = load(ROOT / "benchmarks/results", verify_world.STEM)


def test_the_page_is_what_the_results_say():
    assert (ROOT / "docs/verify-world.md").read_text(encoding="utf-8") == verify_world.page(RESULTS)


def test_the_results_are_of_every_function_and_name_no_folder():
    assert tuple(row["name"] for row in RESULTS["rows"]) == verify_world.NAMES
    assert "site-packages" not in str(RESULTS)
    assert str(ROOT) not in str(RESULTS)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda row: row.update(raised="TypeError: no"), "verify raised TypeError: no"),
        (lambda row: row["verdicts"].update(linearity="fail"), "no sentence says why"),
        (lambda row: row["verdicts"].update({"third-order": "pass"}), "explained, but it did not fail"),
    ],
)
def test_no_page_where_something_is_unexplained(spoil, problem):
    results = copy.deepcopy(RESULTS)
    (row,) = (each for each in results["rows"] if each["name"] == "torch.nn.functional.layer_norm")
    row["messages"]["linearity"] = "off"
    spoil(row)
    with pytest.raises(ReportError, match=f"torch.nn.functional.layer_norm.*: {problem}"):
        verify_world.page(results)
