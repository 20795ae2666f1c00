"""The table of activations: f, f′, f″, f‴ and what the derivatives read.

To add an activation to torchann, add a row to `TABLE`: nothing else needs to change, and the tests pick it up. An
activation with parameters is a `Family`: `leaky_relu(0.2)` is a row; `TABLE` has the one with the default parameters.
"""

# No `from __future__ import annotations`: torch.package can't load a dataclass whose annotations are strings.

import inspect
import itertools
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, update_wrapper
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Elementwise: TypeAlias = Callable[[Tensor], Tensor]
Call: TypeAlias = tuple[Any, ...]  # the name of an operation, and its arguments


class Keyed:
    """What belongs to an activation in one process only: in slots, so that pickle and `vars` leave it out.

    `key` is what `by_key` finds it by, `is_checked` whether its f was seen to keep shape and dtype, `kernels` what
    `torchann.fast.fused` computes it with.
    """

    __slots__ = ("is_checked", "kernels", "key")
    key: str
    is_checked: bool
    kernels: Any


@dataclass(frozen=True, eq=False)  # rows are compared by identity
class Activation(Keyed):
    """An elementwise function f with the derivatives that the layers' formulas ask for.

    Args:
        name: its name in messages and in `repr`.
        f: o = f(z), elementwise; same shape and dtype. It may be called with some of the rows at a time.
        df: f′. Without it the derivative of f is left to autograd.
        d2f: f″, for the hand-derived double backward. Without it f′ is differentiated by autograd.
        reads: what df, d2f and d3f take: the pre-activation z, or the output o = f(z). With the output, a layer need
            not keep z.
        d3f: f‴, for the backward pass of `torchann.laplacian`. Without it f″ is differentiated by autograd.
        init: initialises a weight, in place, in the way that suits f.
        equivalents: functions and `torch.nn` classes that compute the same f; `get` recognises them.
        aten: for rows of `TABLE`: PyTorch's kernels for f and for ē ⊙ f′(z), from which `torchann.fast.fused` and
            `torchann.native` build theirs. Two calls, each as a name in `torch.ops.aten` and its arguments, among
            which "z", "o" and "error" stand for tensors, a call for what it returns, and a dict for those by name.
        slope: for rows of `TABLE` whose f′ is a polynomial in o: its coefficients, from the constant up. All higher
            derivatives follow from it (see `torchann.jets`), so such a row needs no d3f.
        family: the `Family` that made the row; None for one without parameters.

    The derivatives are not checked here; `torchann.verify` on a `Dense` with this activation tells whether they are
    right.
    If df is given, parameters that f closes over get no gradient: pass such an f as a plain callable.

    Raises:
        TypeError: the name is not a str, or f, df, d2f or d3f can't be called.
        ValueError: d2f is given without df, d3f without d2f, or reads is neither of the two.

    Example:
        >>> sine = Activation("sine", torch.sin, torch.cos, lambda z: -torch.sin(z))
        >>> sine
        Activation('sine')
    """

    name: str
    f: Elementwise
    df: Elementwise | None = None
    d2f: Elementwise | None = None
    reads: Literal["pre-activation", "output"] = "pre-activation"
    init: Callable[[Tensor], Tensor] = field(default=nn.init.xavier_uniform_, kw_only=True)
    equivalents: tuple[object, ...] = field(default=(), kw_only=True)
    aten: tuple[Call, ...] = field(default=(), kw_only=True)
    slope: tuple[float, ...] | None = field(default=None, kw_only=True)
    d3f: Elementwise | None = field(default=None, kw_only=True)
    family: Any = field(default=None, kw_only=True)
    reads_output: bool = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected a str, got {type(self.name).__name__}")
        if not callable(self.f):
            raise TypeError(f"f: expected a callable, got {type(self.f).__name__}")
        below: tuple[str, Any] = "f", self.f
        for role, function in (("df", self.df), ("d2f", self.d2f), ("d3f", self.d3f)):
            if not (callable(function) or function is None):
                raise TypeError(f"{role}: expected a callable, got {type(function).__name__}")
            if function is not None and below[1] is None:
                raise ValueError(f"{role}: given without {below[0]}")
            below = role, function
        if self.reads not in ("pre-activation", "output"):
            raise ValueError(f"reads: expected 'pre-activation' or 'output', got {self.reads!r}")
        object.__setattr__(self, "reads_output", self.reads == "output")
        if self.df is not None and not torch.compiler.is_compiling():
            object.__setattr__(self, "key", f"activation {next(COUNT)}")
            BY_KEY[self.key] = self

    @cached_property
    def disagreement(self) -> str:
        """A few words on where df or d2f differs from autograd's derivative of f or df; "" if neither does.

        They are compared at 1601 points from −8 to 8, in another thread, where the caller's transforms are not active.
        """
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(disagreement_with_autograd(self)))
        thread.start()
        thread.join()
        return found[0]

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        # A row is pickled and copied by name, so that it comes back as the same object, in another process as well.
        if TABLE.get(self.name) is self or self.family is not None:
            return get, (self.name,)
        optional = {name: getattr(self, name) for name in ("init", "equivalents", "aten", "slope", "d3f")}
        return partial(Activation, **optional), (self.name, self.f, self.df, self.d2f, self.reads)


COUNT = itertools.count()
BY_KEY: WeakValueDictionary[str, Activation] = WeakValueDictionary()


def by_key(key: str) -> Activation:
    """The activation with that key. torch.compile can pass a string through its graph, but no object."""
    if key not in BY_KEY:
        raise ValueError("activation: one that is made inside a compiled function can't be used there; make it outside")
    return BY_KEY[key]


def disagreement_with_autograd(activation: Activation) -> str:
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64, requires_grad=True)
    try:
        o = activation.f(z)
        s = o if activation.reads_output else z
        for role, function, by_hand in (("f", activation.f, activation.df), ("df", activation.df, activation.d2f)):
            if function is None or by_hand is None:
                continue
            value = o if role == "f" else function(s)
            if value.requires_grad:
                (by_autograd,) = torch.autograd.grad(value.sum(), z, retain_graph=True, materialize_grads=True)
            else:
                by_autograd = torch.zeros_like(z)
            wrong = ~torch.isclose(by_hand(s).detach(), by_autograd, rtol=1e-6, atol=1e-9, equal_nan=True)
            if wrong.any():
                at = z[wrong.nonzero()[0, 0]].item()
                return f"its {'df' if role == 'f' else 'd2f'} is not the derivative of its {role}, e.g. at z = {at:g}"
    except Exception as error:
        return f"its derivatives could not be compared with autograd's ({type(error).__name__}: {error})"
    return ""


# --- Families: rows with parameters -----------------------------------------------------------------------------------


class Family:
    """Rows that differ in their parameters: `leaky_relu(0.2)`. The same parameters give the same row.

    A row is named after its parameters, without those at the end that have their default: `leaky_relu:0.2`,
    `softplus:2,10`; with all defaults, `leaky_relu`.

    Args:
        make: makes the row for given parameters, under the family's own name.

    Example:
        >>> leaky_relu(0.2)
        Activation('leaky_relu:0.2')
        >>> leaky_relu(0.2) is get("leaky_relu:0.2"), leaky_relu(0.01) is TABLE["leaky_relu"]
        (True, True)
    """

    def __init__(self, make: Callable[..., Activation]) -> None:
        update_wrapper(self, make)
        self.make = make
        self.name = make.__name__
        self.signature = inspect.signature(make).replace(return_annotation=inspect.Signature.empty)
        self.defaults = {name: each.default for name, each in self.signature.parameters.items()}
        self.rows: dict[tuple[Any, ...], Activation] = {}
        FAMILIES[self.name] = self

    def __call__(self, *given: Any, **named: Any) -> Activation:
        try:
            bound = self.signature.bind(*given, **named)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        return self.row(tuple({**self.defaults, **bound.arguments}.values()))

    def row(self, values: tuple[Any, ...]) -> Activation:
        """The row for all parameters.

        Raises:
            TypeError, ValueError: a parameter is not what it has to be; the message names it.
        """
        for (name, default), value in zip(self.defaults.items(), values, strict=True):
            expect_kind_of(default, f"{self.name}: {name}", value)
        if values in self.rows:
            return self.rows[values]
        found = replace(self.make(*values), name=self.name_of(values), family=self)
        # Dynamo can't put a row that it has seen being made into a dict.
        return found if torch.compiler.is_compiling() else self.rows.setdefault(values, found)

    def parameters_of(self, row: Activation) -> tuple[Any, ...]:
        """All parameters of a row, in the order in which PyTorch's function and module take them."""
        return next(values for values, found in self.rows.items() if found is row)

    def name_of(self, values: tuple[Any, ...]) -> str:
        given, defaults = list(values), list(self.defaults.values())
        while given and given[-1] == defaults[len(given) - 1]:
            given.pop()
        texts = [value if isinstance(value, str) else repr(value + 0.0).removesuffix(".0") for value in given]
        return f"{self.name}:{','.join(texts)}" if texts else self.name

    def parse(self, text: str) -> Activation:
        """The row for the parameters in a name, `2,10`."""
        texts = text.split(",")
        if len(texts) > len(self.defaults):
            expected = f"at most {len(self.defaults)}: {', '.join(self.defaults)}"
            raise ValueError(f"{self.name}: expected {expected}; got {len(texts)} parameters")
        values = list(self.defaults.values())
        for index, (name, default) in enumerate([*self.defaults.items()][: len(texts)]):
            values[index] = (
                texts[index] if isinstance(default, str) else as_number(f"{self.name}: {name}", texts[index])
            )
        return self.row(tuple(values))

    def __repr__(self) -> str:
        return f"torchann.activations.{self.name}{self.signature}"


FAMILIES: dict[str, Family] = {}


def expect_kind_of(default: Any, name: str, value: Any) -> None:
    if isinstance(default, str):
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a str, got {value!r}")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    elif not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}: expected a finite number, got {value!r}")


def as_number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None


def expect(condition: bool, name: str, expected: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def row(name: str, f: Elementwise, df: Elementwise, d2f: Elementwise, **options: Any) -> Activation:
    """An `Activation` whose derivatives of float16 and bfloat16 are computed in float32, as PyTorch's kernels do."""
    if "d3f" in options:
        options["d3f"] = in_float32(options["d3f"])
    return Activation(name, f, in_float32(df), in_float32(d2f), **options)


def in_float32(function: Elementwise) -> Elementwise:
    if function in (torch.zeros_like, torch.ones_like):
        return function
    return lambda s: function(s.float()).to(s.dtype) if s.dtype in SHORT else function(s)


SHORT = (torch.float16, torch.bfloat16)


# --- Initialisations --------------------------------------------------------------------------------------------------

# Not partials: with one, Dynamo of PyTorch 2.9 would not find the row as a key of a dict.


def kaiming(slope: float = 0) -> Callable[[Tensor], Tensor]:
    """For relu and what is like it: Var w = 2 / (1 + slope²) / fan_in; He et al., arXiv 1502.01852."""
    return lambda weight: nn.init.kaiming_uniform_(weight, a=slope, nonlinearity="leaky_relu")


def lecun(weight: Tensor) -> Tensor:
    """Normal with Var w = 1 / fan_in, so that selu keeps mean 0 and variance 1; Klambauer et al., arXiv 1706.02515."""
    return nn.init.kaiming_normal_(weight, nonlinearity="linear")


def siren(w0: float) -> Callable[[Tensor], Tensor]:
    """U(±√(6 / fan_in) / w0), for a hidden layer under sin(w0 z); Sitzmann et al., arXiv 2006.09661."""

    def init(weight: Tensor) -> Tensor:
        bound = math.sqrt(6 / weight.shape[1]) / w0
        return nn.init.uniform_(weight, -bound, bound)

    return init


# --- Derivatives that several rows share ------------------------------------------------------------------------------


def z_times(*g: Elementwise) -> dict[str, Elementwise]:
    """f′, f″ and f‴ of f(z) = z g(z) from g, g′, g″ and g‴: f⁽ⁿ⁾ = n g⁽ⁿ⁻¹⁾ + z g⁽ⁿ⁾"""

    def derivative(n: int) -> Elementwise:
        return lambda z: n * g[n - 1](z) + z * g[n](z)

    return {"df": derivative(1), "d2f": derivative(2), "d3f": derivative(3)}


def logistic_slope(z: Tensor) -> Tensor:
    """σ′ = σ(z) σ(−z); written as σ (1 − σ), it would lose its digits where σ is near 1"""
    return torch.sigmoid(z) * torch.sigmoid(-z)


def logistic_second(z: Tensor) -> Tensor:
    """σ″ = σ′ (1 − 2σ)"""
    return logistic_slope(z) * (1 - 2 * torch.sigmoid(z))


def logistic_third(z: Tensor) -> Tensor:
    """σ‴ = σ′ (1 − 6σ′)"""
    slope = logistic_slope(z)
    return slope * (1 - 6 * slope)


def normal_density(z: Tensor) -> Tensor:
    """φ(z) = e^{−z²/2} / √2π, the derivative of Φ(z) = ½ erfc(−z/√2)"""
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def tanh_of_softplus(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T = tanh(softplus(z)), 1 − T², σ(z) and r = σ(−z).

    As r = e^{−softplus(z)}: T = (1 − r²) / (1 + r²) and 1 − T² = 4r² / (1 + r²)². Both keep their digits for large |z|.
    """
    sigmoid, r = torch.sigmoid(z), torch.sigmoid(-z)
    scale = 1 + r * r
    return sigmoid * (1 + r) / scale, (2 * r / scale) ** 2, sigmoid, r


def tanh_of_softplus_slope(z: Tensor) -> Tensor:
    """T′ = (1 − T²) σ"""
    _, slope, sigmoid, _ = tanh_of_softplus(z)
    return slope * sigmoid


def tanh_of_softplus_second(z: Tensor) -> Tensor:
    """T″ = (1 − T²) σ (r − 2Tσ)"""
    t, slope, sigmoid, r = tanh_of_softplus(z)
    return slope * sigmoid * (r - 2 * t * sigmoid)


def tanh_of_softplus_third(z: Tensor) -> Tensor:
    """T‴ = (1 − T²) σ (r (r − σ) − 6T r σ + (6T² − 2) σ²)"""
    t, slope, sigmoid, r = tanh_of_softplus(z)
    return slope * sigmoid * (r * (r - sigmoid) - 6 * t * r * sigmoid + (6 * t * t - 2) * sigmoid**2)


def exponential_below(name: str, alpha: float, scale: float = 1, rate: float = 1, **options: Any) -> Activation:
    """f = scale · z above 0, and o = A (e^{rate · z} − 1) below with A = scale · alpha: there f⁽ⁿ⁾ = rateⁿ (o + A).

    With A < 0, o has the same sign on both sides of 0; if f is steep, or rate is rounded, rate · (o + A) has fewer
    digits than PyTorch's f′. Then the derivatives read z: o + A = A e^{rate · z}.
    """
    height = scale * alpha
    reads_output = 0 <= rate * height <= 2 and is_short(rate)

    def below(s: Tensor, n: int) -> Tensor:
        if reads_output:
            return rate**n * (s + height)
        return rate**n * height * torch.exp(rate * s.clamp(max=0))

    def higher(n: int) -> Elementwise:
        return lambda s: torch.where(s < 0, below(s, n), 0)  # 0 at 0, as in PyTorch

    return row(
        name,
        df=lambda s: torch.where(s <= 0, below(s, 1), scale),
        d2f=higher(2),
        d3f=higher(3),
        reads="output" if reads_output else "pre-activation",
        aten=(
            ("elu", "z", alpha, scale, rate),
            ("elu_backward", "error", alpha, scale, rate, reads_output, "o" if reads_output else "z"),
        ),
        **options,
    )


def clipped(name: str, low: float, high: float, **options: Any) -> Activation:
    """f = z between low and high. As in PyTorch, f′ is 0 at both, and 1 for NaN, which passes ē on.

    An o that is rounded from low or high could be between them, so f′ reads z if that may be.
    """
    reads_output = is_short(low) and is_short(high)
    return row(
        name,
        df=lambda s: (~((s <= low) | (s >= high))).to(s.dtype),
        d2f=torch.zeros_like,
        reads="output" if reads_output else "pre-activation",
        aten=(("hardtanh", "z", low, high), ("hardtanh_backward", "error", "o" if reads_output else "z", low, high)),
        **options,
    )


def shrunk(name: str, lambd: float, **options: Any) -> Activation:
    """f = 0 between −λ and λ, and f′ = 1 outside: where o is not between 0 and 0."""
    return row(
        name,
        df=lambda o: (o != 0).to(o.dtype),
        d2f=torch.zeros_like,
        reads="output",
        aten=((name, "z", lambd), (f"{name}_backward", "error", "o", 0)),
        **options,
    )


def is_short(number: float) -> bool:
    """Whether bfloat16 and float16 hold the number exactly, and so every dtype."""
    mantissa, exponent = math.frexp(number)
    return (mantissa * 2**8).is_integer() and (number == 0 or -14 < exponent <= 16)


def between(z: Tensor, low: float, high: float) -> Tensor:
    """1 where low < z < high, else 0"""
    return ((z > low) & (z < high)).to(z.dtype)


# --- Families ---------------------------------------------------------------------------------------------------------


@Family
def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """z above 0, negative_slope · z below. A negative slope has to read z: o is positive on both sides of 0."""
    reads_output = negative_slope >= 0
    return row(
        "leaky_relu",
        f=lambda z: F.leaky_relu(z, negative_slope),
        df=lambda s: torch.where(s > 0, torch.ones_like(s), negative_slope),
        d2f=torch.zeros_like,
        reads="output" if reads_output else "pre-activation",
        init=kaiming(negative_slope),
        aten=(
            ("leaky_relu", "z", negative_slope),
            ("leaky_relu_backward", "error", "o" if reads_output else "z", negative_slope, reads_output),
        ),
        equivalents=(F.leaky_relu, nn.LeakyReLU),
    )


@Family
def elu(alpha: float = 1.0) -> Activation:
    """z above 0, alpha (e^z − 1) below."""
    return exponential_below("elu", alpha, f=lambda z: F.elu(z, alpha), init=kaiming(), equivalents=(F.elu, nn.ELU))


@Family
def celu(alpha: float = 1.0) -> Activation:
    """z above 0, alpha (e^{z / alpha} − 1) below, so that f′ is continuous; alpha > 0."""
    expect(alpha > 0, "celu: alpha", "a positive number", alpha)
    return exponential_below(
        "celu",
        alpha,
        rate=1 / alpha,
        f=lambda z: F.celu(z, alpha),
        init=kaiming(),
        equivalents=(torch.celu, F.celu, nn.CELU),
    )


@Family
def softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    """log(1 + e^{beta · z}) / beta, and z where beta · z > threshold; beta > 0.

    f′ = 1 − e^{−beta · o} keeps its digits, as o is small where f′ is. At a threshold below 20 the curve is clearly
    above the line that follows, so that one o belongs to two z. Then the derivatives read z: f′ = σ(beta · z).
    """
    expect(beta > 0, "softplus: beta", "a positive number", beta)
    options: dict[str, Any] = {
        "f": lambda z: F.softplus(z, beta, threshold),
        "equivalents": (F.softplus, nn.Softplus),
    }
    if threshold < 20:

        def curve(order: int, derivative: Elementwise) -> Elementwise:
            return lambda z: torch.where(beta * z >= threshold, 0, beta**order * derivative(beta * z))

        return row(
            "softplus",
            df=lambda z: torch.where(beta * z > threshold, 1, torch.sigmoid(beta * z)),
            d2f=curve(1, logistic_slope),
            d3f=curve(2, logistic_second),
            aten=(("softplus", "z", beta, threshold), ("softplus_backward", "error", "z", beta, threshold)),
            **options,
        )

    def exponent(o: Tensor) -> Tensor:
        """−beta · o, and −∞ beyond the threshold"""
        return F.threshold(-beta * o, -threshold, -math.inf)

    def second(o: Tensor) -> Tensor:
        """f″ = beta e^{−beta · o} f′"""
        u = exponent(o)
        return -beta * torch.exp(u) * torch.expm1(u)

    def third(o: Tensor) -> Tensor:
        """f‴ = beta (2e^{−beta · o} − 1) f″"""
        return beta * (2 * torch.exp(exponent(o)) - 1) * second(o)

    slope = ("elu", ("threshold", ("neg", "o"), -threshold / beta, -math.inf), -1, 1, beta)  # elu's e^x − 1
    return row(
        "softplus",
        df=lambda o: -torch.expm1(exponent(o)),
        d2f=second,
        d3f=third,
        reads="output",
        aten=(("softplus", "z", beta, threshold), ("mul.Tensor", "error", slope)),
        **options,
    )


@Family
def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    """z, but at least min_val and at most max_val."""
    expect(min_val < max_val, "hardtanh: min_val", f"a number less than max_val = {max_val}", min_val)
    return clipped(
        "hardtanh",
        min_val,
        max_val,
        f=lambda z: F.hardtanh(z, min_val, max_val),
        equivalents=(F.hardtanh, nn.Hardtanh),
    )


@Family
def softshrink(lambd: float = 0.5) -> Activation:
    """z − lambd above lambd, z + lambd below −lambd, 0 between; lambd ≥ 0."""
    expect(lambd >= 0, "softshrink: lambd", "a number of at least 0", lambd)
    return shrunk("softshrink", lambd, f=lambda z: F.softshrink(z, lambd), equivalents=(F.softshrink, nn.Softshrink))


@Family
def hardshrink(lambd: float = 0.5) -> Activation:
    """z, but 0 from −lambd to lambd; lambd ≥ 0."""
    expect(lambd >= 0, "hardshrink: lambd", "a number of at least 0", lambd)
    return shrunk(
        "hardshrink",
        lambd,
        f=lambda z: F.hardshrink(z, lambd),
        equivalents=(torch.hardshrink, F.hardshrink, nn.Hardshrink),
    )


@Family
def threshold(threshold: float = 0.0, value: float = 0.0) -> Activation:
    """z above the threshold, else the value. f′ has to read z if o = value, as rounded, may be above the threshold."""
    reads_output = value <= threshold and is_short(value)
    return row(
        "threshold",
        f=lambda z: F.threshold(z, threshold, value),
        df=lambda s: (~(s <= threshold)).to(s.dtype),
        d2f=torch.zeros_like,
        reads="output" if reads_output else "pre-activation",
        init=kaiming(),
        aten=(
            ("threshold", "z", threshold, value),
            ("threshold_backward", "error", "o" if reads_output else "z", threshold),
        ),
        equivalents=(nn.Threshold,),
    )


@Family
def gelu(approximate: str = "none") -> Activation:
    """z Φ(z) with Φ(z) = ½ erfc(−z/√2); with approximate="tanh", z ½ (1 + tanh(v/2)) = z σ(v).

    There v = 2 √(2/π) (z + 0.044715 z³), v′ = 2 √(2/π) (1 + 3 · 0.044715 z²), v″ = 12 √(2/π) 0.044715 z.
    """
    expect(approximate in ("none", "tanh"), "gelu: approximate", "'none' or 'tanh'", approximate)
    named = {"approximate": approximate}
    options: dict[str, Any] = {
        "f": lambda z: F.gelu(z, approximate=approximate),
        "init": kaiming(),
        "equivalents": (F.gelu, nn.GELU),
        "aten": (("gelu", "z", named), ("gelu_backward", "error", "z", named)),
    }
    if approximate == "none":
        return row(
            "gelu",
            **z_times(
                lambda z: torch.erfc(-z / math.sqrt(2)) / 2,
                normal_density,
                lambda z: -z * normal_density(z),
                lambda z: z * (z * normal_density(z)) - normal_density(z),
            ),
            **options,
        )
    c, a = math.sqrt(8 / math.pi), 0.044715

    def v(z: Tensor) -> Tensor:
        return c * (z + a * z**3)

    def dv(z: Tensor) -> Tensor:
        return c * (1 + 3 * a * z * z)

    def slope(z: Tensor) -> Tensor:
        """σ(v)′ = σ′ v′"""
        return logistic_slope(v(z)) * dv(z)

    def second(z: Tensor) -> Tensor:
        """σ(v)″ = σ″ v′² + σ′ v″"""
        return logistic_second(v(z)) * dv(z) ** 2 + logistic_slope(v(z)) * (6 * a * c * z)

    def third(z: Tensor) -> Tensor:
        """σ(v)‴ = σ‴ v′³ + 3σ″ v′ v″ + σ′ v‴"""
        bend = 6 * a * c
        first = logistic_third(v(z)) * dv(z) ** 3 + 3 * logistic_second(v(z)) * dv(z) * (bend * z)
        return first + logistic_slope(v(z)) * bend

    return row("gelu", **z_times(lambda z: torch.sigmoid(v(z)), slope, second, third), **options)


@Family
def sine(w0: float = 1.0) -> Activation:
    """sin(w0 · z); w0 > 0. SIREN's is `sine(30)`."""
    expect(w0 > 0, "sine: w0", "a positive number", w0)
    return row(
        "sine",
        f=torch.sin if w0 == 1 else in_float32(lambda z: torch.sin(w0 * z)),
        df=lambda z: w0 * torch.cos(w0 * z),
        d2f=lambda z: -(w0**2) * torch.sin(w0 * z),
        d3f=lambda z: -(w0**3) * torch.cos(w0 * z),
        init=siren(w0),
        equivalents=(torch.sin,),
        # In bfloat16, w0 · z of kernels one by one would be rounded, by more than a period for large z.
        aten=(("sin", "z"), ("mul.Tensor", "error", ("cos", "z"))) if w0 == 1 else (),
    )


@Family
def squareplus(b: float = 4.0) -> Activation:
    """½ (z + √(z² + b)), b > 0: z above 0 and 0 below, with a bend of width √b; Barron, arXiv 2112.11687.

    As z = o − b / 4o: f′ = o h with h = 1 / (o + b / 4o), and h′ = h³ (b / 4o − o) / o · f′.
    """
    expect(b > 0, "squareplus: b", "a positive number", b)
    c = b / 4

    def f(z: Tensor) -> Tensor:
        """½ (z + √(z² + b)) where z ≥ 0; below, where that would lose its digits, b / 4 over the same of −z"""
        distance = torch.where(z < 0, -z, z)
        large = (distance + torch.hypot(z, z.new_full((), math.sqrt(b)))) / 2
        return torch.where(z < 0, c / large, large)

    def h(o: Tensor) -> Tensor:
        return 1 / (o + c / o)

    return row(
        "squareplus",
        f=in_float32(f),
        df=lambda o: 1 / (1 + c / (o * o)),
        d2f=lambda o: 2 * c * h(o) ** 3,
        d3f=lambda o: 6 * c * h(o) ** 5 * (c / o - o),
        reads="output",
    )


# --- The table --------------------------------------------------------------------------------------------------------

TABLE: dict[str, Activation] = {
    each.name: each
    for each in (
        row(
            "sigmoid",
            f=torch.sigmoid,  # 1 / (1 + e^{−z})
            df=lambda o: o * (1 - o),
            d2f=lambda o: o * (1 - o) * (1 - 2 * o),
            reads="output",
            equivalents=(torch.sigmoid, F.sigmoid, nn.Sigmoid),
            aten=(("sigmoid", "z"), ("sigmoid_backward", "error", "o")),
            slope=(0, 1, -1),
        ),
        row(
            "tanh",
            f=torch.tanh,
            df=lambda o: 1 - o * o,
            d2f=lambda o: -2 * o * (1 - o * o),
            reads="output",
            equivalents=(torch.tanh, F.tanh, nn.Tanh),
            aten=(("tanh", "z"), ("tanh_backward", "error", "o")),
            slope=(1, 0, -1),
        ),
        row(
            "relu",
            f=torch.relu,
            df=lambda o: (~(o <= 0)).to(o.dtype),  # as in PyTorch: 0 at the kink, 1 for NaN, which passes ē on
            d2f=torch.zeros_like,
            reads="output",
            init=kaiming(),
            equivalents=(torch.relu, F.relu, nn.ReLU),
            aten=(("relu", "z"), ("threshold_backward", "error", "o", 0)),
        ),
        row(
            "identity",
            f=lambda z: z,
            df=torch.ones_like,
            d2f=torch.zeros_like,
            reads="output",
            equivalents=(nn.Identity,),
            slope=(1,),
        ),
        row(
            "silu",
            f=F.silu,  # z σ(z)
            **z_times(torch.sigmoid, logistic_slope, logistic_second, logistic_third),
            init=kaiming(),
            equivalents=(F.silu, nn.SiLU),
            aten=(("silu", "z"), ("silu_backward", "error", "z")),
        ),
        gelu(),
        leaky_relu(),
        elu(),
        exponential_below(
            "selu",
            1.6732632423543772848170429916717,
            1.0507009873554804934193349852946,
            f=F.selu,
            init=lecun,
            equivalents=(torch.selu, F.selu, nn.SELU),
        ),
        celu(),
        softplus(),
        row(
            "softsign",
            f=F.softsign,  # z / (1 + |z|)
            df=lambda o: (1 - o.abs()) ** 2,
            d2f=lambda o: -2 * o.sign() * (1 - o.abs()) ** 3,
            d3f=lambda o: 6 * (1 - o.abs()) ** 4,
            reads="output",
            equivalents=(F.softsign, nn.Softsign),
            aten=(
                ("div.Tensor", "z", ("add.Scalar", ("abs", "z"), 1)),
                ("mul.Tensor", "error", ("square", ("rsub.Scalar", ("abs", "o"), 1))),
            ),
        ),
        hardtanh(),
        clipped("relu6", 0, 6, f=F.relu6, init=kaiming(), equivalents=(F.relu6, nn.ReLU6)),
        row(
            "hardsigmoid",
            f=F.hardsigmoid,  # (z + 3) / 6 between 0 and 1
            df=lambda z: between(z, -3, 3) / 6,  # not from o, which is rounded to 1 just below z = 3
            d2f=torch.zeros_like,
            equivalents=(F.hardsigmoid, nn.Hardsigmoid),
            # Not hardsigmoid_backward, whose slope in float64 is ⅙ rounded to float32; lt writes 1 or 0 over |z|
            aten=(
                ("hardsigmoid", "z"),
                ("mul.Tensor", "error", ("div.Scalar", ("lt.Scalar", ("abs", "z"), 3), 6)),
            ),
        ),
        row(
            "hardswish",
            f=F.hardswish,  # z · hardsigmoid(z)
            df=lambda z: torch.where(z < 3, torch.where(z > -3, z / 3 + 0.5, 0), 1),
            d2f=lambda z: between(z, -3, 3) / 3,
            d3f=torch.zeros_like,
            init=kaiming(),
            equivalents=(F.hardswish, nn.Hardswish),
            aten=(("hardswish", "z"), ("hardswish_backward", "error", "z")),
        ),
        row(
            "logsigmoid",
            f=F.logsigmoid,  # −log(1 + e^{−z})
            df=lambda o: -torch.expm1(o),  # 1 − e^o, as e^o = σ(z)
            d2f=lambda o: torch.exp(o) * torch.expm1(o),
            d3f=lambda o: torch.exp(o) * torch.expm1(o) * (1 - 2 * torch.exp(o)),
            reads="output",
            equivalents=(F.logsigmoid, nn.LogSigmoid),
            aten=(("log_sigmoid", "z"), ("mul.Tensor", "error", ("neg", ("expm1", "o")))),
        ),
        row(
            "tanhshrink",
            f=F.tanhshrink,  # z − tanh z
            df=lambda z: torch.tanh(z) ** 2,
            d2f=lambda z: 8 * torch.tanh(z) * logistic_slope(2 * z),  # tanh′ = 4 σ′(2z)
            d3f=lambda z: 8 * logistic_slope(2 * z) * (1 - 3 * torch.tanh(z) ** 2),
            equivalents=(F.tanhshrink, nn.Tanhshrink),
            aten=(("sub.Tensor", "z", ("tanh", "z")), ("mul.Tensor", "error", ("square", ("tanh", "z")))),
        ),
        softshrink(),
        hardshrink(),
        threshold(),
        row(
            "mish",
            f=F.mish,  # z tanh(log(1 + e^z))
            **z_times(
                lambda z: tanh_of_softplus(z)[0],
                tanh_of_softplus_slope,
                tanh_of_softplus_second,
                tanh_of_softplus_third,
            ),
            init=kaiming(),
            equivalents=(F.mish, nn.Mish),
            aten=(("mish", "z"), ("mish_backward", "error", "z")),
        ),
        sine(),
        row(
            "exp",
            f=torch.exp,
            df=lambda o: o,
            d2f=lambda o: o,
            reads="output",
            equivalents=(torch.exp,),
            aten=(("exp", "z"), ("mul.Tensor", "error", "o")),
            slope=(0, 1),
        ),
        squareplus(),
    )
}

ActivationLike: TypeAlias = str | Activation | Elementwise


def get(activation: ActivationLike) -> Activation:
    """The `Activation` that a name, an `Activation` or an elementwise callable stands for.

    A name may have parameters, `leaky_relu:0.2`. A callable that the table knows gives its row, with its parameters:
    `torch.tanh`, `nn.LeakyReLU(0.2)`, `functools.partial(F.leaky_relu, negative_slope=0.2)`. Any other callable, such
    as a subclass of `nn.ReLU`, becomes an `Activation` without derivatives: autograd differentiates it. A module with
    `inplace=True` gets a copy of z.

    Raises:
        ValueError: the name is not in the table (the message lists those that are), or a parameter in it is not valid.
        TypeError: neither a name, an `Activation` nor a callable; or one that is not elementwise, as far as PyTorch's
            own are concerned: softmax and GLU.

    Example:
        >>> get("sigmoid").df(torch.tensor(0.5))  # o(1 − o)
        tensor(0.2500)
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        return TABLE[activation] if activation in TABLE else named(activation)
    if not callable(activation):
        raise TypeError(f"activation: expected a name, an Activation or a callable, got {activation!r}")
    function = activation.func if isinstance(activation, partial) else activation
    if isinstance(activation, MIXING_MODULES) or any(function is each for each in MIXING):
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"activation: expected an elementwise function, got {name}, in which each output depends on several z; put "
            "it behind the network, as in nn.Sequential(net, nn.Softmax(-1))"
        )
    known = equivalent(activation)
    if known is not None:
        return known
    f = partial(on_copy, activation) if getattr(activation, "inplace", False) else activation
    return Activation(getattr(activation, "__name__", type(activation).__name__), f=f)


MIXING_MODULES = (nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d, nn.GLU)
MIXING = (
    torch.softmax,
    F.softmax,
    F.softmin,
    torch.log_softmax,
    F.log_softmax,
    F.gumbel_softmax,
    F.glu,
)


def named(name: str) -> Activation:
    """The row of a name with parameters."""
    family, colon, parameters = name.partition(":")
    if family in FAMILIES and colon:
        return FAMILIES[family].parse(parameters)
    if family in TABLE and colon:
        raise ValueError(f"activation: {family!r} has no parameters, got {name!r}")
    raise ValueError(f"activation: unknown name {name!r}; known: {', '.join(sorted(TABLE))}")


def equivalent(activation: Any) -> Activation | None:
    """The row that computes the same as a function, a partial of one or a module of `torch.nn`; None if none does."""
    function, given = activation, {}
    if type(activation) is partial and not activation.args:
        function = activation.func
        given = {name: value for name, value in activation.keywords.items() if name != "inplace"}
    elif isinstance(activation, nn.Module):
        function = type(activation)
    for found in TABLE.values():
        for each in found.equivalents:
            if each is function:
                defaults = found.family.defaults if found.family else {}
                if isinstance(activation, nn.Module):
                    given = {name: vars(activation).get(name) for name in defaults}
                return with_parameters(found, {**defaults, **given}) if given else found
    return None


def with_parameters(found: Activation, parameters: dict[str, Any]) -> Activation | None:
    """The row of the same family with these parameters; None if it has not these, or not with these values."""
    if found.family is None or len(parameters) > len(found.family.defaults):
        return None
    try:
        return found.family.row(tuple(parameters.values()))
    except (TypeError, ValueError):
        return None


def on_copy(f: Elementwise, z: Tensor) -> Tensor:
    """f of a copy of z, for an f that writes over its argument: the layer may have saved z."""
    return f(z.clone())
