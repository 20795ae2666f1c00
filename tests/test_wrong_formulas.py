"""Each formula is made wrong on purpose; the checks that pass with the right one have to fail."""

import inspect
import textwrap

import pytest
import torch
from cases import (
    KINDS,
    SINE,
    along,
    check_all_modes,
    check_derivatives,
    oracle,
    parameters,
    plain,
    value_gradient_hessian,
)
from torch.autograd.gradcheck import GradcheckError

from torchann import activations, formulas, functional, jets
from torchann.fast import implementation, products, series

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


# --- Activations ------------------------------------------------------------------------------------------------------

ACTIVATION_MISTAKES = {  # a row, and what of the module's source is replaced by what
    "1 − o lost": ("sigmoid", "df=lambda o: o * (1 - o),", "df=lambda o: o,"),
    "+ for −": ("tanh", "df=lambda o: 1 - o * o,", "df=lambda o: 1 + o * o,"),
    "the wrong side": ("relu", "(~(o <= 0))", "(o <= 0)"),
    "n lost in n g⁽ⁿ⁻¹⁾": ("silu", "n * g[n - 1](z)", "g[n - 1](z)"),
    "σ″ of another sign": ("silu", "(1 - 2 * torch.sigmoid(z))", "(2 * torch.sigmoid(z) - 1)"),
    "4 for 6 in σ‴": ("silu", "(1 - 6 * slope)", "(1 - 4 * slope)"),
    "½ lost in φ": ("gelu", "torch.exp(-z * z / 2)", "torch.exp(-z * z)"),
    "v″ lost": ("gelu:tanh", "(6 * a * c * z)", "0"),
    "3 lost in σ(v)‴": ("gelu:tanh", "3 * logistic_second", "logistic_second"),
    "2 lost in T″": ("mish", "(r - 2 * t * sigmoid)", "(r - t * sigmoid)"),
    "4 for 6 in T‴": ("mish", "6 * t * r * sigmoid", "4 * t * r * sigmoid"),
    "slopes exchanged": ("leaky_relu", "torch.where(s > 0, torch.ones", "torch.where(s < 0, torch.ones"),
    "rate lost": ("celu:2", "rate**n * (s + height)", "(s + height)"),
    "rate lost, of z": ("celu:1.75", "rate**n * height *", "height *"),
    "scale lost": ("selu", "height = scale * alpha", "height = alpha"),
    "z as o": ("elu:-0.5", "reads_output = 0 <= rate * height <= 2", "reads_output = True"),
    "f″ without beta": ("softplus:1.75,30", "-beta * torch.exp(u)", "-torch.exp(u)"),
    "f″ without beta, of z": ("softplus:1.5,1", "beta**order * ", ""),
    "a square lost": ("softsign", "df=lambda o: (1 - o.abs()) ** 2", "df=lambda o: 1 - o.abs()"),
    "a sign lost": ("softsign", "-2 * o.sign()", "-2"),
    "an end lost": ("relu6", "(s <= low) | (s >= high)", "s <= low"),
    "an end lost, of z": ("hardsigmoid", "(z > low) & (z < high)", "z > low"),
    "a half lost": ("hardswish", "z / 3 + 0.5", "z / 3"),
    "2 lost in f‴": ("logsigmoid", "(1 - 2 * torch.exp(o))", "(1 - torch.exp(o))"),
    "4 for 8": ("tanhshrink", "d2f=lambda z: 8 * torch.tanh(z)", "d2f=lambda z: 4 * torch.tanh(z)"),
    "inside for outside": ("softshrink", "(o != 0)", "(o == 0)"),
    "the other side": ("threshold:0.25,-1", "~(s <= threshold)", "(s <= threshold)"),
    "a square of w0 lost": ("sine:1.75", "-(w0**2)", "-w0"),
    "1 for f′": ("exp", "df=lambda o: o,", "df=torch.ones_like,"),
    "b for b / 4": ("squareplus", "c / (o * o)", "b / (o * o)"),
    "4 for 5": ("squareplus", "h(o) ** 5", "h(o) ** 4"),
}


@pytest.mark.parametrize(("name", "right", "wrong"), ACTIVATION_MISTAKES.values(), ids=ACTIVATION_MISTAKES)
def test_a_wrong_derivative_of_an_activation_is_caught(name, right, wrong):
    f = oracle(name)
    check_derivatives(activations.get(name), f)
    source = inspect.getsource(activations)
    assert source.count(right) == 1, f"the module has no single {right!r}; write this mistake anew"
    module = {"__name__": activations.__name__}
    exec(source.replace(right, wrong), module)
    with pytest.raises(AssertionError):
        check_derivatives(module["get"](name), f)


def test_every_activation_has_a_mistake():
    with_mistakes = {name.partition(":")[0] for name, *_ in ACTIVATION_MISTAKES.values()}
    shared = {"elu", "hardtanh", "hardshrink"}  # made by the functions of selu, relu6 and softshrink
    assert {*activations.TABLE} - with_mistakes - shared == {"identity"}


# --- Series -----------------------------------------------------------------------------------------------------------

SERIES_MISTAKES = {  # owner, function, and what of its source is replaced by what
    # readable: products of series
    "a term twice": (jets, "times", "a * b", "a * b * 2"),
    "a term missing": (jets, "total", "plus(found, term)", "term"),
    "n! forgotten": (jets.Taylor, "compose", "factorial *= n", "factorial = 1"),
    "a power missing": (jets.Taylor, "compose", "if n < self.order", "if n < 1"),
    "powers by another term": (jets.Taylor, "shifted_product", "b[k - i - 1]", "b[i - 1]"),
    "the value's share of w": (jets.Taylor, "transposed_product", "None if of_terms is None else of_terms.sum(0)", "None"),
    "w not transposed": (jets.Taylor, "transposed_product", "times(slopes[k - j], grads[k])", "times(slopes[j - 1], grads[k])"),
    "c forgotten in Σ c ż²": (jets.Collapsed, "weighted_square", "self.scaled(a) * b", "a * b"),
    "c squared": (jets.Collapsed, "scaled", "self.coefficients.view(-1, 1, 1) * a", "self.coefficients.view(-1, 1, 1) ** 2 * a"),
    "C as c": (jets.Collapsed, "scaled", "torch.tensordot(self.coefficients, a, 1)", "self.coefficients.diagonal().view(-1, 1, 1) * a"),
    "f″ Σ c ż² lost": (jets.Collapsed, "compose", "plus(times(g1, last), square)", "times(g1, last)"),
    "f′ s lost": (jets.Collapsed, "compose", "plus(times(g1, last), square)", "square"),
    "2 lost in 2 c ẇ ē_s": (jets.Collapsed, "transposed_product", "2 * self.scaled(w1)", "self.scaled(w1)"),
    "c lost in 2 c ẇ ē_s": (jets.Collapsed, "transposed_product", "2 * self.scaled(w1)", "2 * w1"),
    "s_w ē_s lost": (jets.Collapsed, "transposed_product", "times(w_s, grad_last)", "None"),
    "ẇ ē_r lost": (jets.Collapsed, "transposed_product", "None if of_first is None else of_first.sum(0)", "None"),
    "f‴ lost": (jets, "delta", "kind.compose(further, z)", "kind.compose([*further[:-1], None], z)"),
    "ē passed on": (jets, "delta", "return kind.transposed_product", "return list(grads) or kind.transposed_product"),
    # readable: an activation
    "f′ forgotten": (jets, "derivatives", "times(first, evaluate(quotient, o))", "evaluate(quotient, o)"),
    "a polynomial's derivative": (jets, "derived", "n * c", "c"),
    "a sum of polynomials": (jets, "added", "x + y", "x - y"),
    "d2f for df": (jets, "derivatives", "activation.df, activation.d2f,", "activation.d2f, activation.d2f,"),
    "autograd's derivative doubled": (jets, "by_autograd", "function(at)", "2 * function(at)"),
    "Horner's rule": (jets, "evaluate", "found * o + coefficient", "found * o - coefficient"),
    "a product of polynomials": (jets, "multiplied", "+= x * y", "= x * y"),
    "f(z) is z": (jets, "activate", "Series(o, ", "Series(z.value, "),
    # readable: a network
    "a bias in the terms": (jets, "forward", "linear_terms(x, weight)", "[t if t is None else t + bias for t in linear_terms(x, weight)]"),
    "∂E/∂W of the value alone": (jets, "backward", "[x.value, *x.terms]", "[x.value, *[None] * len(x.terms)]"),
    "∂E/∂b doubled": (jets, "backward", "formulas.bias_gradient(deltas[0])", "formulas.bias_gradient(2 * deltas[0])"),
    "directions averaged": (jets, "weight_gradient", "return formulas", "return 1 / len(delta) * formulas"),
    # in blocks
    "p′ off by a factor": (series, "polynomial", "alpha=2 * square", "alpha=square"),
    "p without its square": (series, "polynomial", "value=square", "value=0"),
    "c forgotten": (series, "weighted_sum", "torch.mul(left, right).mul_(weight)", "torch.mul(left, right)"),
    "c forgotten in a further term": (series, "weighted_sum", "addcmul_(left, right, value=weight)", "addcmul_(left, right)"),
    "many c forgotten": (series, "weighted_sum", "torch.tensordot(product.new_tensor(weights), product, 1)", "product.sum(0)"),
    "Σ c ż² lost": (series, "activate_collapsed", "value=slope.factor", "value=0"),
    "C forgotten": (series, "weighted_sum", "kind.weighted_square(a, b)", "(a * b).sum(0)"),
    "Σ c ż² lost in the first layer": (series, "activate_collapsed", "square * slope.factor", "square * 0"),
    "c forgotten beside p′": (series, "activate_collapsed", "weighted_sum(kind, first, first)", "weighted_sum(None, first, first)"),
    "p″ lost": (series, "delta_collapsed", "alpha=slope.second", "alpha=0"),
    "p″ lost, few c": (series, "delta_collapsed", "value=slope.second * weight", "value=0"),
    "c forgotten beside p″": (series, "delta_collapsed", "value=slope.second * weight", "value=slope.second"),
    "p² once": (series, "delta_collapsed", "(slope.value * square)", "(slope.value**0 * square)"),
    "s ē_s lost": (series, "delta_collapsed", "o[1:], grads[1:]", "o[1:-1], grads[1:-1]"),
    "2 lost, ones": (series, "delta_collapsed", "grad_first.addcmul_(first, scaled, value=2 * slope.factor)", "grad_first.addcmul_(first, scaled, value=slope.factor)"),
    "2 lost, c": (series, "delta_collapsed", "value=2 * slope.factor * weight", "value=slope.factor * weight"),
    "c lost": (series, "delta_collapsed", "value=2 * slope.factor * weight", "value=2 * slope.factor"),
    "2 lost, C": (series, "delta_collapsed", "kind.scaled(first), scaled, value=2 * slope.factor", "kind.scaled(first), scaled, value=slope.factor"),
    "j / k": (series, "activate_taylor", "value=j / k", "value=1"),
    "½ p″": (series, "slope_term", "slope.second / 2", "slope.second"),
    "p′'s factor": (series, "slope_term", "found.mul_(slope.factor)", "pass"),
    "w_k ē_k lost": (series, "delta_taylor", "grad.add_((w[k] * each).sum(0))", "pass"),
    "w of another term": (series, "delta_taylor", "w[k - j]", "w[k - 1]"),
    "the first ∂E/∂W": (series.InBlocks, "add_first_weight_gradient", "delta.sum(-2, keepdim=True)", "delta.mean(-2, keepdim=True)"),
    "the first ∂E/∂W, the value": (series.InBlocks, "add_first_weight_gradient", "deltas[0].t(), x.value", "deltas[0].t() * 0, x.value"),
    "terms of a linear layer": (jets, "linear_terms", "else formulas", "else 2 * formulas"),
}  # fmt: skip


def mutated(owner, name, right, wrong):
    """The function with one place of its source changed."""
    function = inspect.unwrap(vars(owner)[name])
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{name} has no single {right!r}; write this mistake anew"
    found = {}
    exec(source.replace(right, wrong), {**function.__globals__, "__name__": function.__module__}, found)
    return found[name]


def check_series():
    """Values, first and second derivatives, in blocks and readable, against nested torch.func.

    All widths are equal; tanh and sigmoid have polynomials, SINE has d2f, and the derivatives of the callable are
    those of autograd.
    """
    generator = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x = random(3, 3).requires_grad_()
    weights, biases = ([random(*shape).requires_grad_() for _ in range(3)] for shape in ((3, 3), (3,)))
    inputs = [x, *weights, *biases]
    for specs in (["tanh", "sigmoid", "tanh"], [SINE, torch.atan, "tanh"]):
        value, gradient, hessian = value_gradient_hessian(lambda x, specs=specs: plain(x, weights, biases, specs), x)
        for kind in KINDS.values():
            if isinstance(kind, jets.Taylor):
                v = random(2, 1, 3)
                expected = [value, *along(lambda x, specs=specs: plain(x, weights, biases, specs), x, v, kind.order)]
                call = lambda v=v, order=kind.order, specs=specs: flat(  # noqa: E731
                    functional.jet(x, [v, *[None] * (order - 1)], weights, biases, specs)
                )
            else:
                c = kind.coefficients
                v = random(len(c), 1, 3)
                square = c if c.dim() == 2 else torch.diag(c)
                given = None if kind.is_laplacian else c
                curvature = torch.einsum("qr,qi,noij,rj->no", square, v[:, 0], hessian, v[:, 0])
                expected = [value, torch.einsum("noi,ri->rno", gradient, v[:, 0]), curvature]
                call = lambda v=v, given=given, specs=specs: flat(  # noqa: E731
                    functional.laplacian(x, weights, biases, specs, given, v)
                )
            check_against(call, expected, inputs)


def flat(found):
    return [each for one in found for each in (one if isinstance(one, list) else [one])]


def check_against(call, expected, inputs):
    error = lambda outputs: sum((output + 0.3).sin().sum() for output in outputs)  # noqa: E731
    wanted = torch.autograd.grad(error(expected), inputs, retain_graph=True)
    for name in ("auto", "readable"):
        with implementation(name):
            found = call()
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(torch.autograd.grad(error(found), inputs), wanted, rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(error(call()), inputs, create_graph=True)  # by `jets.backward`
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_right_series_pass():
    check_series()


@pytest.mark.parametrize(("owner", "name", "right", "wrong"), SERIES_MISTAKES.values(), ids=SERIES_MISTAKES)
def test_a_wrong_formula_of_series_is_caught(owner, name, right, wrong, monkeypatch):
    monkeypatch.setattr(owner, name, mutated(owner, name, right, wrong))
    with pytest.raises(AssertionError):
        check_series()


def test_every_formula_of_series_has_a_mistake():
    names = {(owner, name) for owner, name, *_ in SERIES_MISTAKES.values()}
    for owner in (jets, series, jets.Taylor, jets.Collapsed):
        module = getattr(owner, "__module__", owner.__name__)
        every = {name for name, each in vars(owner).items() if inspect.isfunction(each) and each.__module__ == module}
        missing = {name for name in every if (owner, name) not in names and not name.startswith("__")}
        assert missing == NO_FORMULAS.get(owner, set())


NO_FORMULAS = {
    jets: {"differentiated", "by_transform"},  # torch.func has the derivative; tests/test_jets.py compares the two
    series: {"blocks", "has_few_squares", "is_quadratic"},
}
