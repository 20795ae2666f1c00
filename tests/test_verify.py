"""`verify` finds what is broken, by the name of its row, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest
import torch
from broken_gradients import GRADIENTS, GradientTransposed
from broken_manners import MANNERS
from cases import REPRESENTATIVES, own_callable
from correct_functions import CORRECT, Exp
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import functional
from torchann.verification import CHECKS, Report, Row, verify
from torchann.verification.situations import crash_of

SEEDS = range(5)
QUICK = [name for name in CHECKS if name != "compile"]
BROKEN = GRADIENTS + MANNERS


def row(report: Report, check: str) -> Row:
    return next(row for row in report.rows if row.check == check)


class TestBrokenFunctions:
    @pytest.mark.parametrize("broken", BROKEN, ids=lambda subject: subject.name)
    def test_is_found_by_name(self, broken: Subject) -> None:
        report = verify(broken.fn, broken.inputs, broken.reference, require=broken.require, **broken.options)
        assert not report.ok
        assert {row.check for row in report.failures} == {broken.row} | broken.also, report
        assert {row.check for row in report.rows if row.verdict == "advice"} == broken.advised, report

    def test_every_check_finds_something(self) -> None:
        assert {broken.row for broken in BROKEN} == set(CHECKS)

    @pytest.mark.parametrize("broken", [each for each in BROKEN if each.require], ids=lambda subject: subject.name)
    def test_is_no_failure_unless_required(self, broken: Subject) -> None:
        report = verify(broken.fn, broken.inputs, broken.reference, checks=[broken.row])
        assert report.ok
        assert report.rows[0].verdict == ("advice" if broken.row.startswith("saved") else "unsupported")
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
        report = verify(subject.fn, subject.inputs, subject.reference, require=subject.require, **subject.options)
        assert report.ok, report
        assert {row.check for row in report.rows if row.verdict == "advice"} == subject.advised, report

    @pytest.mark.slow
    @pytest.mark.parametrize("subject", CORRECT, ids=lambda subject: subject.name)
    def test_is_not_flagged_over_seeds(self, subject: Subject) -> None:
        for seed in SEEDS:
            report = verify(subject.fn, subject.inputs(seed), subject.reference, checks=QUICK, **subject.options)
            assert report.ok, report

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "activation", [*REPRESENTATIVES, own_callable, F.rrelu], ids=lambda each: getattr(each, "__name__", each)
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

    def test_a_pole_nearby_is_not_flagged(self) -> None:
        report = verify(lambda x: (x + 1e-3).rsqrt(), lambda seed: (torch.rand(4),), checks=QUICK)
        assert report.ok, report

    @pytest.mark.parametrize("training", [True, False])
    def test_batch_norm_is_not_flagged_up_to_its_second_derivative(self, training: bool) -> None:
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train(training)
        report = verify(module, (torch.randn(5, 3),), skip=["third-order"])  # which is wrong in PyTorch itself
        assert report.ok, report


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

    def test_where_differences_settle_nowhere_nothing_is_said(self) -> None:
        def zigzag(x: Tensor) -> Tensor:
            return torch.asin(torch.sin(x * 1e13))

        report = verify(zigzag, (torch.linspace(0, 1, 7),), checks=["reverse"])
        assert report.rows[0].verdict == "unsupported"
        assert "central differences settle at no step" in report.rows[0].message
        assert not report.ok

    def test_kinks_all_over_are_named_and_a_right_derivative_between_them_passes(self) -> None:
        def zigzag(x: Tensor) -> Tensor:
            return torch.asin(torch.sin(x * 1e6))

        report = verify(zigzag, (torch.linspace(0, 1, 7),), checks=["reverse"])
        assert report.ok, report
        assert "the inputs lie near a" in report.rows[0].message

    def test_a_wrong_formula_at_a_kink_is_found(self) -> None:
        class WrongRelu(Exp):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                ctx.save_for_backward(x)
                return x.clamp(min=0)

        assert not verify(WrongRelu, (torch.zeros(3),), checks=["reverse"]).ok


def test_an_infinity_in_the_output_is_no_disagreement() -> None:
    def with_infinity(x: Tensor) -> Tensor:
        return torch.cat([torch.sin(x), x.new_full((1,), torch.inf)])

    checks = ["determinism", "reference-value", "compile"]
    report = verify(with_infinity, (torch.randn(3),), with_infinity, checks=checks)
    assert [row.verdict for row in report.rows] == ["pass"] * 3, report
    report = verify(with_infinity, (torch.randn(3),), lambda x: -with_infinity(x), checks=["reference-value"])
    assert not report.ok


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is tried in a child process elsewhere")
@pytest.mark.parametrize(("ending", "found"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGTERM, "")])
def test_a_child_process_that_numba_ends_has_not_crashed(ending: signal.Signals, found: str) -> None:
    assert crash_of(lambda: os.kill(os.getpid(), ending)) == found
