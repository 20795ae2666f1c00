"""The table of activations: f, f′, f″ and what the derivatives read.

To add an activation to torchann, add a row to `TABLE`: nothing else needs to change, and the tests pick it up.
"""

# No `from __future__ import annotations`: torch.package can't load a dataclass whose annotations are strings.

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Elementwise: TypeAlias = Callable[[Tensor], Tensor]


class Keyed:
    """What belongs to an activation in one process only: in slots, so that pickle and `vars` leave it out.

    `key` is what `by_key` finds it by, `is_checked` whether its f was seen to keep shape and dtype.
    """

    __slots__ = ("is_checked", "key")
    key: str
    is_checked: bool


@dataclass(frozen=True, eq=False)  # rows are compared by identity
class Activation(Keyed):
    """An elementwise function f with the derivatives that the layers' formulas ask for.

    Args:
        name: its name in messages and in `repr`.
        f: o = f(z), elementwise; same shape and dtype.
        df: f′. Without it the derivative of f is left to autograd.
        d2f: f″, for the hand-derived double backward. Without it f′ is differentiated by autograd.
        reads: what df and d2f take: the pre-activation z, or the output o = f(z). With the output, a layer need not
            keep z.
        init: initialises a weight, in place, in the way that suits f.
        equivalents: functions and `torch.nn` classes that compute the same f; `get` recognises them.
        aten: for rows of `TABLE` whose df reads the output: PyTorch's own kernels, from which `torchann.fast.fused`
            and `torchann.native` build theirs. The name of f in place, the name of its backward (ē, o) → ē ⊙ f′(z) in
            `torch.ops.aten`, and a number if that one takes a third argument.
        slope: for rows of `TABLE` whose f′ is a polynomial in o: its coefficients, from the constant up. All higher
            derivatives follow from it (see `torchann.jets`).

    df and d2f are not checked here; `torchann.verify` on a `Dense` with this activation tells whether they are right.
    If df is given, parameters that f closes over get no gradient: pass such an f as a plain callable.

    Raises:
        TypeError: the name is not a str, or f, df or d2f can't be called.
        ValueError: d2f is given without df, or reads is neither of the two.

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
    aten: tuple[Any, ...] = field(default=(), kw_only=True)
    slope: tuple[float, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected a str, got {type(self.name).__name__}")
        for role, function, optional in (("f", self.f, False), ("df", self.df, True), ("d2f", self.d2f, True)):
            if not (callable(function) or (optional and function is None)):
                raise TypeError(f"{role}: expected a callable, got {type(function).__name__}")
        if self.d2f is not None and self.df is None:
            raise ValueError("d2f: given without df")
        if self.reads not in ("pre-activation", "output"):
            raise ValueError(f"reads: expected 'pre-activation' or 'output', got {self.reads!r}")
        if self.df is not None and not torch.compiler.is_compiling():
            object.__setattr__(self, "key", f"activation {next(COUNT)}")
            BY_KEY[self.key] = self

    @property
    def reads_output(self) -> bool:
        return self.reads == "output"

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
        # A row of the table is pickled and copied by name, so that it comes back as the same object.
        if TABLE.get(self.name) is self:
            return get, (self.name,)
        rebuild = partial(Activation, init=self.init, equivalents=self.equivalents, aten=self.aten, slope=self.slope)
        return rebuild, (self.name, self.f, self.df, self.d2f, self.reads)


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


TABLE: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation(
            "sigmoid",
            f=torch.sigmoid,  # 1 / (1 + e^{−z})
            df=lambda o: o * (1 - o),
            d2f=lambda o: o * (1 - o) * (1 - 2 * o),
            reads="output",
            equivalents=(torch.sigmoid, F.sigmoid, nn.Sigmoid),
            aten=("sigmoid_", "sigmoid_backward"),
            slope=(0, 1, -1),
        ),
        Activation(
            "tanh",
            f=torch.tanh,
            df=lambda o: 1 - o * o,
            d2f=lambda o: -2 * o * (1 - o * o),
            reads="output",
            equivalents=(torch.tanh, F.tanh, nn.Tanh),
            aten=("tanh_", "tanh_backward"),
            slope=(1, 0, -1),
        ),
        Activation(
            "relu",
            f=torch.relu,
            df=lambda o: (~(o <= 0)).to(o.dtype),  # as in PyTorch: 0 at the kink, 1 for NaN, which passes ē on
            d2f=torch.zeros_like,
            reads="output",
            # Not a partial: with one, Dynamo of PyTorch 2.9 would not find the row as a key of a dict.
            init=lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
            equivalents=(torch.relu, F.relu, nn.ReLU),
            aten=("relu_", "threshold_backward", 0),
        ),
        Activation(
            "identity",
            f=lambda z: z,
            df=torch.ones_like,
            d2f=torch.zeros_like,
            reads="output",
            equivalents=(nn.Identity,),
            slope=(1,),
        ),
    )
}

ActivationLike: TypeAlias = str | Activation | Elementwise


def get(activation: ActivationLike) -> Activation:
    """The `Activation` that a name, an `Activation` or an elementwise callable stands for.

    A callable that the table knows (`torch.tanh`, `nn.ReLU()`) gives the table's row. Any other callable becomes an
    `Activation` without derivatives: autograd differentiates it. A module with `inplace=True` (`nn.SiLU(inplace=True)`)
    gets a copy of z.

    Raises:
        ValueError: the name is not in the table; the message lists those that are.
        TypeError: neither a name, an `Activation` nor a callable.

    Example:
        >>> get("sigmoid").df(torch.tensor(0.5))  # o(1 − o)
        tensor(0.2500)
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        try:
            return TABLE[activation]
        except KeyError:
            raise ValueError(f"activation: unknown name {activation!r}; known: {', '.join(sorted(TABLE))}") from None
    if not callable(activation):
        raise TypeError(f"activation: expected a name, an Activation or a callable, got {activation!r}")
    for row in TABLE.values():
        if any(each is activation or each is type(activation) for each in row.equivalents):
            return row
    f = partial(on_copy, activation) if getattr(activation, "inplace", False) else activation
    return Activation(getattr(activation, "__name__", type(activation).__name__), f=f)


def on_copy(f: Elementwise, z: Tensor) -> Tensor:
    """f of a copy of z, for an f that writes over its argument: the layer may have saved z."""
    return f(z.clone())
