"""How exact the activations are beside PyTorch's own, and the page docs/activations.md that says so."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from cases import ROWS
from torch import nn

import torchann
from benchmarks import accuracy
from torchann.activations import TABLE

PAGE = Path(__file__).parents[1] / "docs" / "activations.md"
HALF = 0.5  # ulp: the error of a value that is rounded correctly


@pytest.mark.parametrize("implementation", ["auto", "readable"])
@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_errors_are_at_most_twice_those_of_pytorch(row, dtype, implementation):
    with torchann.implementation(implementation):
        errors = accuracy.errors(row, dtype)
    assert errors.output <= max(2 * errors.output_of_pytorch, HALF), errors
    assert errors.slope <= max(2 * errors.slope_of_pytorch, HALF), errors


def test_an_error_is_counted_in_ulp():
    eps = torch.finfo(torch.float32).eps
    exact = torch.tensor([1e-8, 1.0, 3.0, 1e39], dtype=torch.float64)
    for place, step in ((0, eps), (1, eps), (2, 2 * eps)):
        found = exact.float()
        found[place] += step
        assert accuracy.largest_error(found, exact) == pytest.approx(1, abs=0.1)


def test_a_slope_without_its_digits_is_seen():
    """1 − T² from a T that is rounded to bfloat16."""
    coarse = torchann.Activation(
        "coarse", torch.tanh, lambda z: 1 - torch.tanh(z).bfloat16().to(z.dtype) ** 2, lambda z: -2 * torch.tanh(z)
    )
    errors = accuracy.errors(coarse, torch.float32)
    assert errors.slope > 100 * errors.slope_of_pytorch


# --- The page ---------------------------------------------------------------------------------------------------------


def cells(heading):
    """The cells of the table below a heading of the page, by the name in the first one."""
    section = PAGE.read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*$", section, re.M)]
    return {row[0].strip("`"): [cell.strip("| ") for cell in row[1:]] for row in rows}


INITIALISATIONS = {
    "Xavier": nn.init.xavier_uniform_,
    "Kaiming": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "LeCun": lambda weight: nn.init.normal_(weight, std=(1 / 30) ** 0.5),
    "SIREN": lambda weight: nn.init.uniform_(weight, -((6 / 30) ** 0.5), (6 / 30) ** 0.5),
}


def drawn(init):
    torch.manual_seed(0)
    return init(torch.empty(20, 30))


def test_the_page_lists_every_row():
    """In the table's order, with what it reads, its parameters and its initial weights."""
    line = re.compile(r"^\| `(\w+)` \|(.*?)\| .* \| ([oz]) \| (\w+) \|$", re.M)
    listed = line.findall(PAGE.read_text("utf-8"))
    assert [name for name, *_ in listed] == [*TABLE]
    for name, parameters, reads, init in listed:
        row = TABLE[name]
        assert reads == ("o" if row.reads_output else "z"), name
        defaults = row.family.defaults if row.family else {}
        text = [f"{name}={value!r}".replace("'", '"').removesuffix(".0") for name, value in defaults.items()]
        assert re.findall(r"`(.*?)`", parameters) == text
        tolerance = {"rtol": 2e-4, "atol": 0} if name == "leaky_relu" else {"rtol": 1e-6, "atol": 0}  # 1 + 0.01²
        torch.testing.assert_close(drawn(row.init), drawn(INITIALISATIONS[init]), **tolerance)


def test_the_tables_of_errors_has_every_row():
    assert [*cells("How exact they are")] == [*TABLE]


def test_the_command_writes_between_the_markers(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "activations.md"
    page.write_text(f"before\n{accuracy.BEGIN}\nwhat was here\n{accuracy.END}\nafter\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert accuracy.main() == 0
    written = page.read_text("utf-8")
    assert re.fullmatch(r"before\n.*after\n", written, re.S)
    assert "what was here" not in written
    assert written.count("\n| `") == len(TABLE)
    page.write_text("no markers", "utf-8")
    assert accuracy.main() == 2
    assert "expected the markers" in capsys.readouterr().err


def test_every_family_is_documented():
    assert all(inspect.getdoc(row.family) for row in TABLE.values() if row.family)
