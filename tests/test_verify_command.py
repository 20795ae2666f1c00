"""The command `torchann verify`: functions of the user, and every operation of torchann."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from command import run

from torchann import MLP
from torchann.__main__ import main, own_subjects
from torchann.activations import TABLE
from torchann.verification import CHECKS, verify

MODULE = """
import torch
import torch.nn.functional as F
from torch.autograd import Function

class gelu(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, grad_output):
        x, = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad_output, x)

def gelu_inputs(seed):
    return (torch.randn(4, 3),)

gelu_reference = F.gelu

class Exp(Function):
    @staticmethod
    def forward(ctx, i):
        result = i.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, grad_output):
        result, = ctx.saved_tensors
        return grad_output * result

def Exp_inputs():
    return (torch.randn(4, 3, dtype=torch.float64, requires_grad=True),)

class PolarToCartesian(Function):
    @staticmethod
    def forward(ctx, r, phi):
        ctx.save_for_backward(r, phi)
        return r * phi.cos(), r * phi.sin()

    @staticmethod
    def backward(ctx, grad_x, grad_y):
        r, phi = ctx.saved_tensors
        return grad_x * phi.cos() + grad_y * phi.sin(), r * (grad_y * phi.cos() - grad_x * phi.sin())

def PolarToCartesian_inputs(seed):
    return torch.rand(5), torch.randn(5)

class Wrong(Exp):
    @staticmethod
    def backward(ctx, grad_output):
        return grad_output

Wrong_inputs = Exp_inputs

layer = torch.nn.Linear(3, 2)

def layer_inputs():
    return (torch.randn(4, 3),)

Layer, Layer_inputs = torch.nn.Linear, layer_inputs
integers, integers_inputs = torch.sin, lambda: (torch.arange(3),)

def lonely(x):
    return x
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current directory."""
    name = "users_functions"
    (tmp_path / f"{name}.py").write_text(MODULE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    yield name
    sys.modules.pop(name, None)


class TestCommand:
    @pytest.mark.parametrize("name", ["gelu", "Exp", "PolarToCartesian", "layer"])
    def test_functions_that_torchann_did_not_write_pass(
        self, user_module: str, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["verify", f"{user_module}:{name}"]) == 0
        printed = capsys.readouterr().out
        assert f"{user_module}:{name}: " in printed
        assert "third-order           pass" in printed
        assert " fail" not in printed.splitlines()[-1]

    def test_exit_status_1_where_a_row_fails(self, user_module: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", f"{user_module}:Wrong", "--checks", "reverse,vmap"]) == 1
        printed = capsys.readouterr().out
        assert "reverse               FAIL" in printed
        assert "input 0 (i), entry [" in printed
        assert "determinism" not in printed

    def test_require(self, user_module: str) -> None:
        assert main(["verify", f"{user_module}:Exp", "--checks", "vmap"]) == 0
        assert main(["verify", f"{user_module}:Exp", "--checks", "vmap", "--require", "vmap"]) == 1

    def test_reference_is_found_beside_it(self, user_module: str, capsys: pytest.CaptureFixture[str]) -> None:
        checks = ["--checks", "reference-value"]
        assert main(["verify", f"{user_module}:gelu", *checks, "--dtype", "bfloat16"]) == 0
        assert "reference-value       pass           0.0e+00    3.9e-02" in capsys.readouterr().out
        assert main(["verify", f"{user_module}:Exp", *checks]) == 0
        assert "reference-value       skipped" in capsys.readouterr().out

    def test_json(self, user_module: str, tmp_path: Path) -> None:
        assert main(["verify", f"{user_module}:Wrong", "--checks", "reverse", "--json", "report.json"]) == 1
        document = json.loads((tmp_path / "report.json").read_text("utf-8"))
        assert (document["ok"], document["torch"]) == (False, torch.__version__)
        assert document["reports"][0]["device"] == "cpu"
        (report,) = document["reports"]
        assert report["rows"][0]["verdict"] == "fail"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere:fn"], "can't import 'nowhere'"),
            (["users_functions:fn"], "users_functions has no fn"),
            (["users_functions:lonely"], "users_functions has no lonely_inputs"),
            (["users_functions"], "expected package.module:name"),
            (["users_functions:Layer"], "fn: expected a callable, a module or an autograd.Function"),
            (["users_functions:integers"], "inputs: expected a tensor of floating point"),
            (["--checks", "revers"], "unknown check 'revers'; known: determinism"),
            (["--require", "revers"], "unknown check 'revers'"),
            (["--device", "nonsense"], "device 'nonsense' is not available"),
            (["--dtype", "int64"], "dtype: expected one of floating point"),
            (["--dtype", "nonsense"], "dtype: expected one of floating point"),
            (["users_functions:Exp", "--checks", "reverse", "--json", "nowhere/report.json"], "can't write"),
        ],
    )
    def test_exit_status_2_and_one_line_for_bad_arguments(
        self, user_module: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["verify", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("torchann verify: ")
        assert error.count("\n") == 1
        assert message in error

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
    def test_a_device_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", "--device", "cuda"]) == 2
        assert "device 'cuda' is not available" in capsys.readouterr().err

    def test_help_lists_the_checks(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["verify", "--help"])
        printed = capsys.readouterr().out
        assert all(f"  {name} " in printed for name in CHECKS)
        assert "name_inputs" in printed

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    def test_runs_as_a_module(self, user_module: str, encoding: str, tmp_path: Path) -> None:
        """And prints UTF-8, whatever the encoding of a pipe is there."""
        arguments = "-W", "error", "-m", "torchann", "verify", f"{user_module}:Wrong", "--checks", "reverse"
        ran = run(*arguments, cwd=tmp_path, encoding=encoding)
        assert (ran.returncode, ran.stderr) == (1, "")
        assert "reverse               FAIL" in ran.stdout
        assert " · cpu" in ran.stdout


class TestOwnOperations:
    def test_cover_the_table(self) -> None:
        names = [subject.name for subject in own_subjects()]
        assert len(set(names)) == len(names)
        assert {f"dense, {name}" for name in TABLE} <= set(names)

    @pytest.fixture
    def few_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The table with the rows that the subjects name, which saves most of the time."""
        for name in {*TABLE} - {"sigmoid", "tanh", "relu", "identity", "silu"}:
            monkeypatch.delitem(TABLE, name)

    @pytest.mark.usefixtures("few_rows")
    def test_print_a_matrix(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", "--checks", "inputs-untouched,reference-value"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "on cpu"
        assert printed[16].split() == ["d", "e"]  # the names of the checks, downwards
        assert sum(line.startswith("dense, ") and " ✓ ✓ " in line for line in printed) >= 2 + len(TABLE)
        assert " rows: " in printed[-1]
        assert " fail" not in printed[-1]

    @pytest.mark.usefixtures("few_rows")
    def test_a_wrong_row_of_the_table_fails(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from torchann.activations import Activation

        wrong = Activation("wrong", torch.tanh, df=lambda o: 1 - o, reads="output")
        monkeypatch.setitem(TABLE, "wrong", wrong)
        assert main(["verify", "--checks", "reverse"]) == 1
        printed = capsys.readouterr().out
        assert "dense, wrong                  ✗" in printed
        assert "analytical" in printed

    @pytest.mark.slow
    def test_pass(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert main(["verify", "--json", str(tmp_path / "report.json")]) == 0
        document = json.loads((tmp_path / "report.json").read_text("utf-8"))
        assert document["ok"]
        assert [report["name"] for report in document["reports"]] == [subject.name for subject in own_subjects()]
        verdicts = {(row["check"], row["verdict"]) for report in document["reports"] for row in report["rows"]}
        verdicts -= {("saved-tensors", "advice"), ("saved-bytes", "advice")}  # see OPTIONAL in torchann/__main__.py
        assert verdicts == {*((name, "pass") for name in CHECKS if name != "opcheck"), ("opcheck", "skipped")}

    def test_an_mlp_module_passes(self) -> None:
        report = verify(
            MLP([3, 4, 2], "tanh", "identity"), lambda seed: (torch.randn(5, 3),), require=["vmap", "compile"]
        )
        assert report.ok, report
