"""`verify` finds what is broken, by the name of its row, and nothing else."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_functions import BROKEN, CORRECT, BiasSumMissing, Exp, GradientTransposed, Linear, Subject
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import MLP, Dense, functional
from torchann.__main__ import main, own_subjects
from torchann.activations import TABLE
from torchann.verification import CHECKS, Report, Row, verify

SEEDS = range(5)
QUICK = [name for name in CHECKS if name != "compile"]


def row(report: Report, check: str) -> Row:
    return next(row for row in report.rows if row.check == check)


class TestBrokenFunctions:
    @pytest.mark.parametrize("broken", BROKEN, ids=lambda subject: subject.name)
    def test_is_found_by_name(self, broken: Subject) -> None:
        report = verify(broken.fn, broken.inputs, broken.reference, require=broken.require)
        assert not report.ok
        assert {row.check for row in report.failures} == {broken.row} | broken.also, report

    def test_every_check_finds_something(self) -> None:
        assert {broken.row for broken in BROKEN} == set(CHECKS)

    @pytest.mark.parametrize("broken", [each for each in BROKEN if each.require], ids=lambda subject: subject.name)
    def test_is_no_failure_unless_required(self, broken: Subject) -> None:
        report = verify(broken.fn, broken.inputs, broken.reference, checks=[broken.row])
        assert report.ok
        assert report.rows[0].verdict == ("pass" if broken.row == "saved-bytes" else "unsupported")
        assert report.rows[0].message

    def test_a_failing_row_names_input_entry_and_both_values(self) -> None:
        x, weight, bias = torch.eye(3), torch.zeros(3, 3), torch.zeros(3)
        x[0, 1] = 2.0
        report = verify(GradientTransposed, (x, weight, bias), checks=["reverse"])
        # ∂ output [2, i] / ∂ weight [j, k] is x[n, k] where i = j; transposed, it is at [k, j]
        assert "input 1 (weight), entry [" in report.rows[0].message
        assert ", to output 0, entry [" in report.rows[0].message
        assert "analytical 2, numerical 0" in report.rows[0].message or "analytical 0, numerical 2" in report
        assert report.rows[0].error == pytest.approx(2.0) or report.rows[0].error == pytest.approx(2 / 3)

    def test_a_wrong_derivative_that_nobody_refused_is_silently_wrong(self) -> None:
        for name in ("WrongThirdDerivative", "OpaqueKernel"):
            broken = next(each for each in BROKEN if each.name == name)
            report = verify(broken.fn, broken.inputs, checks=[broken.row])
            assert "silently wrong: input 0 (x), entry [" in report.rows[0].message

    def test_finds_what_gradgradcheck_does_not(self) -> None:
        broken = next(each for each in BROKEN if each.name == "OpaqueForOneInput")
        inputs = tuple(tensor.requires_grad_() for tensor in broken.inputs(0))
        assert torch.autograd.gradgradcheck(broken.fn.apply, inputs)
        assert not verify(broken.fn, inputs, checks=["double-backward"]).ok

    def test_finds_the_third_derivative_of_layer_norm(self) -> None:
        """https://github.com/pytorch/pytorch/issues/175754, where this PyTorch has it."""
        x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
        wrong = not torch.allclose(*(third_derivative(f, x) for f in (layer_norm, plain_layer_norm)))
        report = verify(layer_norm, (x,), checks=["double-backward", "third-order"])
        assert row(report, "double-backward").verdict == "pass"
        assert row(report, "third-order").verdict == ("fail" if wrong else "pass")


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (3,))


def plain_layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def third_derivative(f: Any, x: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    y = f(x)
    for power in (1, 2, 3):
        (y,) = torch.autograd.grad((y * weights**power).sum(), x, create_graph=True)
    return y.detach()


class TestCorrectFunctions:
    @pytest.mark.parametrize("subject", CORRECT, ids=lambda subject: subject.name)
    def test_is_not_flagged(self, subject: Subject) -> None:
        report = verify(subject.fn, subject.inputs, subject.reference, require=subject.require)
        assert report.ok, report

    @pytest.mark.parametrize("subject", CORRECT, ids=lambda subject: subject.name)
    def test_is_not_flagged_over_seeds(self, subject: Subject) -> None:
        for seed in SEEDS:
            report = verify(subject.fn, subject.inputs(seed), subject.reference, checks=QUICK)
            assert report.ok, report

    @pytest.mark.parametrize(
        "activation", [*TABLE, F.softplus, F.elu, F.hardswish], ids=lambda each: getattr(each, "__name__", each)
    )
    def test_dense_is_not_flagged_over_seeds(self, activation: Any) -> None:
        def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return functional.dense(x, weight, bias, activation)

        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            inputs = tuple(torch.randn(shape, generator=generator) for shape in ((4, 3), (2, 3), (2,)))
            report = verify(dense, inputs, checks=QUICK)
            assert report.ok, report

    @pytest.mark.parametrize(
        "module",
        [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), nn.Conv1d(2, 2, 3), nn.PReLU()],
        ids=lambda module: type(module).__name__,
    )
    def test_modules_of_pytorch_are_not_flagged(self, module: nn.Module) -> None:
        shape = (2, 2, 5) if isinstance(module, nn.Conv1d) else (4, 3)
        report = verify(module, lambda seed: (torch.randn(shape),), require=["vmap", "compile", "third-order"])
        assert report.ok, report

    def test_steep_functions_are_not_flagged(self) -> None:
        for fn in (lambda x: torch.sin(20 * x), lambda x: (100 * x) ** 3, lambda x: (x + 1e-3).rsqrt()):
            assert (report := verify(fn, lambda seed: (torch.rand(4),), checks=QUICK)).ok, report


class TestKinks:
    @pytest.mark.parametrize("fn", [torch.relu, torch.abs, F.elu, F.hardtanh, lambda x: x.max(-1).values])
    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_inputs_are_moved_away(self, fn: Any, value: float) -> None:
        report = verify(fn, (torch.full((3, 2), value),), checks=QUICK)
        assert report.ok, report

    def test_the_row_says_so(self) -> None:
        report = verify(torch.relu, (torch.tensor([0.0, 1.0]),), checks=["reverse"])
        assert report.rows[0].message == "the inputs were moved away from a kink"
        assert verify(torch.relu, (torch.tensor([0.1, 1.0]),), checks=["reverse"]).rows[0].message == ""

    def test_a_kink_of_the_second_derivative_counts(self) -> None:
        def square_above_zero(x: Tensor) -> Tensor:
            return torch.relu(x) ** 2

        report = verify(square_above_zero, (torch.zeros(3),), checks=["double-backward", "third-order"])
        assert report.ok, report
        assert "moved" in report.rows[0].message

    def test_a_kink_behind_a_sum_counts(self) -> None:
        report = verify(lambda x: torch.relu(x.sum()), (torch.tensor([1.0, -1.0]),), checks=["reverse"])
        assert report.ok, report
        assert "moved" in report.rows[0].message

    def test_a_kink_that_autocast_rounds_across_is_no_failure(self) -> None:
        def layer(x: Tensor, weight: Tensor) -> Tensor:
            return torch.relu(F.linear(x, weight))

        x, weight = torch.ones(1, 2), torch.tensor([[1.001, -1.0]])  # 1 and −1 in bfloat16
        report = verify(layer, (x, weight), checks=["autocast"])
        assert report.ok, report
        assert report.rows[0].error > torch.finfo(torch.bfloat16).eps ** 0.5

    def test_kinks_all_over_are_named(self) -> None:
        def zigzag(x: Tensor) -> Tensor:
            return torch.asin(torch.sin(x * 1e6))

        report = verify(zigzag, (torch.linspace(0, 1, 7),), checks=["reverse"])
        assert not report.ok
        assert "the inputs lie near a kink" in report.rows[0].message

    def test_a_wrong_formula_at_a_kink_is_found(self) -> None:
        class WrongRelu(Exp):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                ctx.save_for_backward(x)
                return x.clamp(min=0)

        assert not verify(WrongRelu, (torch.zeros(3),), checks=["reverse"]).ok


class TestInputs:
    def test_those_that_require_grad_are_differentiated(self) -> None:
        class LeavesOutTheTarget(Linear):
            @staticmethod
            def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
                ctx.save_for_backward(x, target)
                return (x - target).square()

            @staticmethod
            def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
                x, target = ctx.saved_tensors
                return 2 * grad_output * (x - target), None

        x, target = torch.randn(3), torch.randn(3)
        assert not verify(LeavesOutTheTarget, (x, target), checks=["reverse"]).ok
        assert verify(LeavesOutTheTarget, (x.requires_grad_(), target), checks=QUICK).ok

    def test_may_be_nested_and_mixed(self) -> None:
        def fn(layers: list[dict[str, Tensor]], index: Tensor, power: int, nothing: None) -> dict[str, Tensor]:
            return {"y": layers[0]["w"][index] ** power * layers[1]["w"].sum()}

        report = verify(fn, ([{"w": torch.randn(4)}, {"w": torch.randn(2)}], torch.tensor([2, 0]), 3, None))
        assert report.ok, report

    def test_a_nested_input_is_named(self) -> None:
        def fn(pair: list[Tensor]) -> Tensor:
            return pair[0] + pair[1].detach() * pair[1]

        report = verify(fn, ([torch.randn(3), torch.randn(3)],), checks=["reverse"])
        assert "input 0 (pair)[1], entry [" in report.rows[0].message

    def test_a_function_of_a_seed_is_called_with_each(self) -> None:
        seeds = []

        def inputs(seed: int) -> tuple[Tensor]:
            seeds.append(seed)
            return (torch.randn(2 + seed),)

        assert verify(torch.sin, inputs, checks=["reverse"], seeds=[3, 1]).ok
        assert seeds == [3, 1]

    def test_the_seed_that_fails_is_named(self) -> None:
        def right_for_two(x: Tensor) -> Tensor:
            return x.sin() if len(x) == 2 else x.detach().sin() + 0 * x

        report = verify(right_for_two, lambda seed: (torch.randn(2 + seed),), checks=["reverse"], seeds=[0, 1])
        assert report.rows[0].message.startswith("seed 1: input 0 (x), entry [")

    def test_nothing_of_the_callers_is_touched(self) -> None:
        threads = torch.get_num_threads()
        module, x = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.randn(4, 3, requires_grad=True)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        given, generator = x.detach().clone(), torch.get_rng_state()
        verify(module, (x,), checks=QUICK)
        assert all(value.equal(before[name]) for name, value in module.state_dict().items())
        assert x.equal(given)
        assert x.grad is None
        assert all(parameter.grad is None for parameter in module.parameters())
        assert torch.get_rng_state().equal(generator)
        assert torch.get_num_threads() == threads

    @pytest.mark.parametrize(
        ("inputs", "error", "message"),
        [
            (torch.ones(3), TypeError, "inputs: expected a tuple of arguments, got Tensor"),
            (3, TypeError, "inputs: expected a tuple of arguments, got int"),
            ((torch.tensor([1, 2]),), ValueError, "inputs: expected a tensor of floating point"),
            ((torch.ones(2, dtype=torch.complex64),), ValueError, "complex tensors are not supported"),
        ],
    )
    def test_must_make_sense(self, inputs: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            verify(torch.sin, inputs)

    def test_some_seed_is_needed(self) -> None:
        with pytest.raises(ValueError, match="seeds: expected at least one"):
            verify(torch.sin, lambda seed: (torch.ones(3),), seeds=[])

    @pytest.mark.parametrize("fn", [3, nn.Linear])
    def test_so_must_fn(self, fn: Any) -> None:
        with pytest.raises(TypeError, match="fn: expected a callable"):
            verify(fn, (torch.ones(3),))


class TestModules:
    def test_parameters_are_differentiated_and_named(self) -> None:
        class Broken(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return BiasSumMissing.apply(x, self.weight, self.bias)

        report = verify(Broken(3, 3), (torch.randn(4, 3),), checks=["reverse"])
        assert "parameter bias, entry [" in report.rows[0].message
        assert verify(nn.Linear(3, 3), (torch.randn(4, 3),), checks=["reverse"]).ok

    def test_frozen_parameters_are_constants(self) -> None:
        module = nn.Linear(3, 2)
        module.weight.requires_grad_(False)
        report = verify(module, (torch.randn(4, 3),), checks=["reverse", "saved-bytes"])
        assert report.ok, report

    def test_reference_may_be_a_module_or_a_function_of_the_parameters(self) -> None:
        dense, x = Dense(3, 4, "tanh"), (torch.randn(5, 3),)
        checks = ["reference-value", "reference-gradient"]
        assert verify(dense, x, nn.Sequential(nn.Linear(3, 4), nn.Tanh()), checks=checks, require=checks).ok
        assert verify(dense, x, lambda x, w, b: torch.tanh(F.linear(x, w, b)), checks=checks, require=checks).ok
        assert not verify(dense, x, lambda x, w, b: torch.tanh(F.linear(x, w)), checks=checks).ok

    def test_reference_with_other_parameters_is_an_error(self) -> None:
        with pytest.raises(
            ValueError, match=r"reference: expected parameters of the shapes of fn's, \[\[4, 3\], \[4\]\]"
        ):
            verify(Dense(3, 4), (torch.randn(5, 3),), nn.Linear(3, 5))

    def test_no_input_need_be_floating(self) -> None:
        report = verify(nn.Embedding(5, 3), (torch.tensor([1, 4, 1]),))
        assert report.ok, report


class TestRequire:
    def test_unsupported_fails_where_required(self) -> None:
        report = verify(Exp, (torch.randn(3),), require={"forward"}, checks=["forward", "vmap"])
        assert [row.verdict for row in report.rows] == ["fail", "unsupported"]
        assert report.rows[0].message.startswith("required, but unsupported: NotImplementedError: You must implement")

    def test_skipped_fails_where_required(self) -> None:
        assert not verify(torch.sin, (torch.randn(3),), require=["reference-value"], checks=["reference-value"]).ok

    def test_what_is_required_is_checked(self) -> None:
        assert [row.check for row in verify(torch.sin, (torch.randn(3),), checks=[], require=["forward"]).rows] == [
            "forward"
        ]

    @pytest.mark.parametrize("argument", ["require", "checks"])
    def test_unknown_names_are_errors(self, argument: str) -> None:
        with pytest.raises(ValueError, match="unknown check 'revers'; known: determinism, inputs-untouched"):
            verify(torch.sin, (torch.ones(3),), **{argument: ["revers"]})
        with pytest.raises(TypeError, match="got the str 'reverse'"):
            verify(torch.sin, (torch.ones(3),), **{argument: "reverse"})


class TestTrouble:
    def test_one_row_says_that_fn_cannot_be_run(self) -> None:
        def broken(x: Tensor) -> Tensor:
            raise RuntimeError("out of order")

        report = verify(broken, (torch.ones(3),))
        assert [row.check for row in report.failures] == ["reverse"]
        assert "out of order" in row(report, "reverse").message
        assert {row.verdict for row in report.rows if row.check != "reverse"} == {"skipped"}
        assert not verify(broken, (torch.ones(3),), checks=["vmap", "compile"]).ok
        assert verify(broken, (torch.ones(3),), checks=[]).rows == ()

    def test_so_it_is_where_backward_is_missing(self) -> None:
        class NoBackward(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.sin()

        report = verify(NoBackward, (torch.ones(3),))
        assert [row.check for row in report.failures] == ["reverse"]
        assert "You must implement either the backward or vjp method" in report

    def test_and_where_the_graph_is_cut(self) -> None:
        report = verify(lambda x: x.detach().sin(), (torch.ones(3),))
        assert [row.check for row in report.failures] == ["reverse"]
        assert "no output requires grad" in report

    def test_without_determinism_nothing_else_is_blamed(self) -> None:
        report = verify(nn.Dropout(), (torch.ones(4, 4),))
        assert [row.check for row in report.failures] == ["determinism"]
        assert row(report, "reverse").verdict == "skipped"


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

    def test_pickles(self) -> None:
        report = Report("fn", self.rows)
        copy = pickle.loads(pickle.dumps(report))
        assert (copy, copy.name, repr(copy.rows)) == (report, report.name, repr(report.rows))

    def test_ok_is_without_failures(self) -> None:
        assert not Report("fn", self.rows).ok
        assert Report("fn", self.rows[1:]).ok

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
        unmeasured = {"opcheck"}
        report = verify(torch.sin, lambda seed: (torch.randn(4, 3),), torch.sin)
        for each in report.rows:
            assert each.check in unmeasured or 0 <= each.error <= each.tolerance, each

    def test_every_check_says_what_it_does(self) -> None:
        assert all(len(check.summary) > 20 for check in CHECKS.values())


def print_of(report: Report) -> str:
    return f"{report}"


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

    def test_print_a_matrix(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", "--checks", "inputs-untouched,reference-value"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "on cpu"
        assert printed[16].split() == ["d", "e"]  # the names of the checks, downwards
        assert sum(line.startswith("dense, ") and " ✓ ✓ " in line for line in printed) >= 2 * len(TABLE)
        assert " rows: " in printed[-1]
        assert " fail" not in printed[-1]

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
        assert verdicts == {*((name, "pass") for name in CHECKS if name != "opcheck"), ("opcheck", "skipped")}

    def test_an_mlp_module_passes(self) -> None:
        report = verify(
            MLP([3, 4, 2], "tanh", "identity"), lambda seed: (torch.randn(5, 3),), require=["vmap", "compile"]
        )
        assert report.ok, report


def run(*arguments: str, cwd: Path, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False
    )


def test_an_infinity_in_the_output_is_no_disagreement() -> None:
    def with_infinity(x: Tensor) -> Tensor:
        return torch.cat([torch.sin(x), x.new_full((1,), torch.inf)])

    checks = ["determinism", "reference-value", "compile"]
    report = verify(with_infinity, (torch.randn(3),), with_infinity, checks=checks)
    assert [row.verdict for row in report.rows] == ["pass"] * 3, report
    report = verify(with_infinity, (torch.randn(3),), lambda x: -with_infinity(x), checks=["reference-value"])
    assert not report.ok
