"""What `verify` is called with: inputs, modules, options; and what it says where fn cannot be run."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from broken_gradients import BiasSumMissing
from correct_functions import CORRECT, Exp, Linear, StraightThrough
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import Dense
from torchann.verification import CHECKS, Report, Row, verify

QUICK = [name for name in CHECKS if name != "compile"]


def nested(*lengths: int) -> Tensor:
    return torch.nested.nested_tensor([torch.ones(length) for length in lengths], layout=torch.jagged)


def row(report: Report, check: str) -> Row:
    return next(row for row in report.rows if row.check == check)


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
            ((torch.eye(2).to_sparse(),), ValueError, r"expected dense tensors; input 0 is of layout torch.sparse_coo"),
            ((nested(2, 3),), ValueError, "expected dense tensors; input 0 is nested"),
            ((nn.LazyLinear(2).weight,), ValueError, "input 0 is not initialised yet"),
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
        generator = torch.Generator()

        def noisy(x: Tensor) -> Tensor:
            return x * torch.rand(x.shape, generator=generator)

        report = verify(noisy, (torch.ones(4, 4),))
        assert [row.check for row in report.failures] == ["determinism"]
        assert row(report, "reverse").verdict == "skipped"
        assert "not proven, as reverse is skipped" in report

    def test_dropout_is_checked_with_one_mask(self) -> None:
        report = verify(nn.Dropout(), (torch.randn(4, 4),))
        assert report.ok, report
        assert "module.eval() turns dropout off" in row(report, "determinism").message
        assert row(report, "double-backward").verdict == "pass"
        assert row(verify(nn.Dropout().eval(), (torch.randn(4, 4),)), "determinism").verdict == "pass"

    def test_where_pytorch_has_no_derivative_nothing_is_proven(self) -> None:
        report = verify(lambda x: torch.heaviside(x, torch.zeros_like(x)), (torch.ones(3),))
        assert not report.ok
        assert not report.failures
        assert row(report, "reverse").verdict == "unsupported"

    def test_a_tensor_of_another_dtype_inside_is_hinted_at(self) -> None:
        layer = nn.Linear(3, 2)
        report = verify(lambda x: layer(x), (torch.randn(4, 3),))
        assert report.ok, report
        assert "pass the module itself" in row(report, "dtype").message
        assert "checked in float32" in row(report, "dtype").message

    def test_a_function_for_float64_alone_has_one_row_on_float32(self) -> None:
        subject = next(each for each in CORRECT if each.name == "Float64Alone")
        report = verify(subject.fn, subject.inputs)
        about_it = [row.check for row in report.rows if "expected float64" in row.message]
        assert about_it == ["dtype", "autocast"]
        assert row(report, "dtype").verdict == "unsupported"

    def test_an_assertion_of_the_users_is_no_refusal_by_a_transform(self) -> None:
        def particular(x: Tensor) -> Tensor:
            assert "BatchedTensor" not in repr(x), "expected an ordinary tensor"
            return x.sin()

        report = verify(particular, (torch.randn(2, 3),), checks=["vmap"])
        assert report.rows[0].verdict == "fail"
        assert "AssertionError: expected an ordinary tensor" in report.rows[0].message


class TestOptions:
    def test_skip(self) -> None:
        report = verify(torch.sin, (torch.ones(3),), checks=["reverse", "vmap"], skip={"vmap"})
        assert [row.check for row in report.rows] == ["reverse"]

    def test_kwargs_go_to_the_reference_too(self) -> None:
        def scaled(x: Tensor, *, scale: Tensor) -> Tensor:
            return scale * x.sin()

        options = {"kwargs": {"scale": torch.randn(3)}, "checks": ["reverse", "reference-gradient"]}
        assert verify(scaled, (torch.randn(3),), scaled, **options).ok
        broken = verify(lambda x, scale: scale.detach() * x.sin(), (torch.randn(3),), scaled, **options)
        assert "input scale" in row(broken, "reverse").message

    def test_domain(self) -> None:
        def spd(factor: Tensor) -> Tensor:
            return factor @ factor.mT + torch.eye(3).to(factor)

        checks = ["reverse", "double-backward", "third-order", "reference-gradient"]
        reference = torch.linalg.slogdet
        factor = (torch.randn(3, 3),)
        report = verify(torch.linalg.cholesky, factor, domain=spd, checks=checks)
        assert report.ok, report
        report = verify(lambda a: 2 * torch.linalg.cholesky(a).diagonal().log().sum(), factor, lambda a: reference(a)[1], domain=spd, checks=checks)  # fmt: skip
        assert report.ok, report
        assert verify(lambda a, b: a * b, factor, domain=lambda x: (x, x.sin()), checks=checks).ok

    def test_gradient_is_what_backward_is_held_to(self) -> None:
        x = (torch.randn(4),)
        assert not verify(StraightThrough, x, checks=["reverse"]).ok
        assert verify(StraightThrough, x, gradient=lambda x: x, checks=["reverse", "reference-gradient"]).ok
        report = verify(StraightThrough, x, gradient=lambda x: 2 * x, checks=["reverse"])
        assert "analytical 1, numerical 2" in report

    def test_atol_and_eps(self) -> None:
        def nearly(x: Tensor) -> Tensor:
            return x.sin() + 1e-4 * (x - x.detach())

        x = (torch.zeros(3),)
        assert verify(nearly, x, checks=["reverse"]).rows[0].error == pytest.approx(5e-5, rel=0.01)
        assert not verify(nearly, x, checks=["reverse"]).ok
        assert verify(nearly, x, checks=["reverse"], atol=1e-3).ok
        coarse = verify(lambda x: x**3, (torch.zeros(3),), checks=["reverse"], eps=1e-2, atol=1e-2)
        assert coarse.rows[0].error == pytest.approx(1e-4, rel=0.01)

    def test_budget_ends_with_skipped_rows_and_nothing_proven(self) -> None:
        report = verify(nn.Linear(3, 2), (torch.ones(4, 3),), budget=1e-9)
        assert {row.verdict for row in report.rows} == {"skipped"}
        assert "the budget was spent" in row(report, "reverse").message
        assert not report.ok

    def test_budget_bounds_the_search_for_kinks(self) -> None:
        runs = []

        def slow(x: Tensor) -> Tensor:
            runs.append(time.sleep(0.05))
            return torch.relu(x).sin()

        start = time.perf_counter()
        verify(slow, (torch.zeros(3),), budget=1.0)
        assert time.perf_counter() - start < 4  # without a bound, the search alone takes ten seconds
        assert len(runs) > 3

    @pytest.mark.parametrize("option", ["eps", "atol", "budget"])
    def test_numbers_must_be_positive(self, option: str) -> None:
        with pytest.raises(ValueError, match=f"{option}: expected a number above 0, or None, got -1"):
            verify(torch.sin, (torch.ones(3),), **{option: -1})

    def test_a_reference_may_use_torch_func(self) -> None:
        def reference(x: Tensor) -> Tensor:
            return torch.func.jvp(lambda y: torch.func.jvp(torch.sin, (y,), (x,))[1], (x,), (torch.ones_like(x),))[1]

        def fn(x: Tensor) -> Tensor:
            return -x.sin() * x

        assert verify(fn, (torch.randn(3),), reference, checks=["saved-bytes", "reference-gradient"]).ok

    def test_a_bound_forward_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"got Linear.forward; pass the module itself"):
            verify(nn.Linear(3, 2).forward, (torch.ones(4, 3),))

    def test_a_lazy_module_is_refused(self) -> None:
        with pytest.raises(ValueError, match="its parameter weight is not initialised: call the lazy module once"):
            verify(nn.LazyLinear(3), (torch.ones(4, 3),))


class TestManyEntries:
    """Too many to compare one by one: random directions."""

    @pytest.mark.parametrize("seed", range(10))
    @pytest.mark.parametrize("planted", ["doubled", "left out", "one percent more"])
    def test_a_wrong_entry_is_found_and_named(self, seed: int, planted: str) -> None:
        entry = seed, 2 * seed

        class Planted(Linear):
            @staticmethod
            def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
                to_x, to_weight, to_bias = Linear.backward(ctx, grad_output)
                to_weight = to_weight.clone()
                to_weight[entry] *= {"doubled": 2, "left out": 0, "one percent more": 1.01}[planted]
                return to_x, to_weight, to_bias

        torch.manual_seed(seed)
        inputs = torch.randn(8, 64), torch.randn(64, 64), torch.randn(64)
        report = verify(Planted, inputs, checks=["reverse"])
        assert f"input 1 (weight), entry {list(entry)}, for a random incoming gradient" in report.rows[0].message

    def test_the_row_says_so(self) -> None:
        report = verify(nn.Linear(64, 64), (torch.randn(8, 64),), checks=["reverse", "forward", "third-order"])
        assert report.ok, report
        assert all("random directions" in row.message for row in report.rows)
