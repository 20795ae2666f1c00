"""The report: its table, its data, JSON and JUnit, and how pytest shows it."""

from __future__ import annotations

import json
import math
import pickle
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import torch
from command import run
from correct_functions import Exp
from torch import nn

from torchann.verification import CHECKS, Report, Row, verify


class TestReport:
    rows = (
        Row("reverse", "fail", math.inf, 1e-6, 0.5, "input 0, entry [1]: analytical 1, numerical 2"),
        Row("forward", "pass", 1e-9, 1e-6, 0.25),
        Row("vmap", "unsupported", math.nan, math.nan, 0.0, "no rule"),
    )

    def test_text_is_a_table_with_messages(self) -> None:
        report = Report("fn", self.rows)
        assert print_of(report) == textwrap.dedent(
            """\
            fn: 1 pass, 1 fail, 1 unsupported
              check                 verdict          error  tolerance  seconds
              reverse               FAIL                      1.0e-06     0.50
                  input 0, entry [1]: analytical 1, numerical 2
              forward               pass           1.0e-09    1.0e-06     0.25
              vmap                  unsupported                           0.00
                  no rule"""
        )

    def test_json_is_plain_and_valid(self) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"not JSON: {constant}")

        document = json.loads(Report("fn", self.rows).to_json(), parse_constant=refuse)
        assert (document["name"], document["ok"]) == ("fn", False)
        assert document["rows"][0]["error"] is None
        assert document["rows"][1] == {
            "check": "forward",
            "verdict": "pass",
            "error": 1e-9,
            "tolerance": 1e-6,
            "seconds": 0.25,
            "message": "",
        }

    def test_junit_counts_what_is_not_proven_as_failure(self) -> None:
        rows = (*self.rows[1:], Row("saved-tensors", "advice", 1, 0, 0.0, "ctx.x"))
        suite = ElementTree.fromstring(Report("fn", rows).to_junit()).find("testsuite")
        assert [case.get("name") for case in suite] == ["forward", "vmap", "saved-tensors"]
        assert [child.tag for case in suite for child in case] == ["skipped", "system-out"]
        suite = ElementTree.fromstring(Report("fn", self.rows).to_junit()).find("testsuite")
        assert suite[0][0].tag == "failure"
        assert "analytical 1, numerical 2" in suite[0][0].get("message")
        unproven = Report("fn", [Row("reverse", "unsupported", math.nan, math.nan, 0.0, "sparse")])
        assert "<failure" in unproven.to_junit()

    def test_pickles(self) -> None:
        report = Report("fn", self.rows)
        copy = pickle.loads(pickle.dumps(report))
        assert (copy, copy.name, repr(copy.rows)) == (report, report.name, repr(report.rows))

    def test_ok_is_without_failures(self) -> None:
        assert not Report("fn", self.rows).ok
        assert Report("fn", self.rows[1:]).ok

    def test_ok_is_not_said_where_reverse_could_not_be_run(self) -> None:
        for verdict in ("unsupported", "skipped"):
            report = Report("fn", [Row("reverse", verdict, math.nan, math.nan, 0.0, "sparse")])
            assert not report.ok
            assert report.splitlines()[0] == f"fn: 1 {verdict} · not proven, as reverse is {verdict}"

    def test_names_are_those_of_fn(self) -> None:
        x = (torch.ones(2),)
        assert verify(Exp, x, checks=[]).name == "Exp"
        assert verify(torch.sin, x, checks=[]).name == "sin"
        assert verify(nn.Tanh(), x, checks=[]).name == "Tanh"
        assert verify(torch.sin, x, checks=[], name="mine").name == "mine"

    def test_a_failing_assertion_shows_the_row(self, tmp_path: Path) -> None:
        (tmp_path / "test_mine.py").write_text(
            "import torch\n"
            "from torchann.verification import verify\n"
            "def test_mine():\n"
            "    report = verify(lambda x: x * x.detach(), (torch.ones(3),))\n"
            "    assert report.ok, report\n"
        )
        ran = run("-m", "pytest", "-p", "no:cacheprovider", "test_mine.py", cwd=tmp_path)
        assert ran.returncode == 1
        assert "input 0 (x), entry [0], to output 0, entry [0]: analytical 1, numerical 2" in ran.stdout
        assert "compile" in ran.stdout

    def test_rows_come_in_the_order_of_the_table(self) -> None:
        report = verify(torch.sin, (torch.ones(3),), checks=["vmap", "reverse"])
        assert [row.check for row in report.rows] == ["reverse", "vmap"]

    def test_errors_and_tolerances_are_measured(self) -> None:
        unmeasured = {"opcheck", "needs-input-grad"}  # sine is no registered operator, and has one input
        report = verify(torch.sin, lambda seed: (torch.randn(4, 3),), torch.sin)
        for each in report.rows:
            assert each.check in unmeasured or 0 <= each.error <= each.tolerance, each

    def test_every_check_says_what_it_does(self) -> None:
        assert all(len(check.summary) > 20 for check in CHECKS.values())


def print_of(report: Report) -> str:
    return f"{report}"
