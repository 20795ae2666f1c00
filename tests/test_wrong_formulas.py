"""Each formula is made wrong on purpose; the checks that pass with the right one have to fail."""

import pytest
import torch
from cases import SINE, check_all_modes, parameters, plain
from torch.autograd.gradcheck import GradcheckError

from torchann import formulas, functional
from torchann.fast import products

original = {module: dict(vars(module)) for module in (formulas, products)}


def right(module, name):
    return original[module][name]


MISTAKES = {
    "f′ dropped": (formulas, "delta", lambda error, s, f: error),
    "f′ read from the wrong place": (formulas, "delta", lambda error, s, f: error * f.df(f.f(s))),
    "f′ dropped in the kernel": (products, "delta", lambda error, s, f: error),
    "o of the layer below is z": (formulas, "activate", lambda z, f: z),
    "f″ of another sign": (formulas, "zeta", lambda t, h, error, s, f: -right(formulas, "zeta")(t, h, error, s, f)),
    "weight transposed": (formulas, "input_gradient", lambda delta, weight: delta @ weight.t()),
    "weight's gradient transposed": (formulas, "weight_gradient", lambda delta, x: x.t() @ delta),
    "weight's gradient averaged": (formulas, "weight_gradient", lambda delta, x: delta.t() @ x / len(x)),
    "bias's sum missing": (formulas, "bias_gradient", lambda delta: delta[0]),
    "bias's gradient doubled": (formulas, "bias_gradient", lambda delta: 2 * delta.sum(0)),
    "f″ dropped": (products, "zeta", lambda t, h, error, s, f: t * error),
    "ζ dropped": (products, "zeta", lambda t, h, error, s, f: 0 * t),
    "sign of ζ": (products, "zeta", lambda t, h, error, s, f: -right(formulas, "zeta")(t, h, error, s, f)),
    "ẋ dropped": (formulas, "tangent", lambda x, w, x_dot, w_dot, b_dot, *linear: right(formulas, "tangent")(x, w, None, w_dot, b_dot)),
    "Ẇ dropped": (formulas, "tangent", lambda x, w, x_dot, w_dot, b_dot, *linear: right(formulas, "tangent")(x, w, x_dot, None, b_dot)),
    "ḃ dropped": (formulas, "tangent", lambda x, w, x_dot, w_dot, b_dot, *linear: right(formulas, "tangent")(x, w, x_dot, w_dot, None)),
    "bias dropped in forward": (formulas, "pre_activation", lambda x, weight, bias: x @ weight.t() + 0 * x.sum()),
}  # fmt: skip


def check_square_network():
    """All widths are equal, so that no mistake is caught only because shapes don't fit."""
    weights, biases = parameters([3, 3, 3])
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    specs = [SINE, "sigmoid"]
    check_all_modes(lambda x, *p: functional.mlp(x, p[:2], p[2:], specs), (x, *weights, *biases))


def test_the_right_formulas_pass():
    check_square_network()


@pytest.mark.parametrize(("module", "name", "wrong"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_formula_is_caught(module, name, wrong, monkeypatch):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(GradcheckError):
        check_square_network()


LOSS_MISTAKES = {
    "½ forgotten": ("half_squared_error", lambda output, target: (output - target).square().sum(-1)),
    "case 1 doubled": ("half_squared_error_gradient", lambda output, target: 2 * (output - target)),
    "case 1 of another sign": ("half_squared_error_gradient", lambda output, target: target - output),
    "target's tangent added": (
        "half_squared_error_tangent",
        lambda output, target, output_dot, target_dot: ((output - target) * (output_dot + target_dot)).sum(-1),
    ),
}


@pytest.mark.parametrize(("name", "wrong"), LOSS_MISTAKES.values(), ids=LOSS_MISTAKES)
def test_a_wrong_loss_is_caught(name, wrong, monkeypatch):
    output, target = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    check_all_modes(functional.half_squared_error, (output, target))
    monkeypatch.setattr(formulas, name, wrong)
    with pytest.raises(GradcheckError):
        check_all_modes(functional.half_squared_error, (output, target))


def test_every_formula_has_a_mistake():
    names = {name for module, name, _ in MISTAKES.values() if module is formulas}
    names |= {name for name, _ in LOSS_MISTAKES.values()}
    every = {name for name, value in vars(formulas).items() if getattr(value, "__module__", None) == formulas.__name__}
    assert every - names == {"plus", "slope_is_constant"}  # these are no formulas of a layer


FIRST_ORDER = {"weight_gradient", "bias_gradient", "input_gradient"}


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [pytest.param(*row, id=title) for title, row in MISTAKES.items() if row[0] is formulas and row[1] in FIRST_ORDER],
)
@pytest.mark.parametrize("samples", [3, 2**14], ids=["small", "in blocks"])
def test_a_wrong_formula_is_caught_in_the_sweeps_in_place_too(module, name, wrong, samples, monkeypatch):
    """For the sweeps in place, which compute first derivatives: small, and in blocks of rows."""
    weights, biases = parameters([3, 3, 3])
    x = torch.randn(samples, 3, dtype=torch.float64)
    ours = lambda: torch.autograd.grad(functional.mlp(x, weights, biases).square().sum(), [*weights, *biases])  # noqa: E731
    expected = torch.autograd.grad(plain(x, weights, biases, ["sigmoid"] * 2).square().sum(), [*weights, *biases])
    torch.testing.assert_close(ours(), expected)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises((AssertionError, RuntimeError)):
        torch.testing.assert_close(ours(), expected)
