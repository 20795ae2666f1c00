"""Every nesting of PyTorch's transforms, to depth three: ours against the plain composition under the same nesting.

A nesting that fails for both is skipped, with PyTorch's reason.
"""

import functools
import itertools
import math

import pytest
import torch
from cases import SINE, STRAIGHT_THROUGH, parameters, plain
from torch.func import grad, jacfwd, jacrev, jvp, linearize, vmap

from torchann.functional import dense, mlp

# PyTorch itself: on folding the constants of what linearize has traced.
pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node with no underlying:UserWarning")

# --- Transforms, each of a function of a vector into another, so that they nest ---------------------------------------

TRANSFORMS = {
    "grad": lambda f: grad(lambda x: torch.sin(f(x) + 0.3).sum()),  # which weighs each entry differently
    "jvp": lambda f: lambda x: jvp(f, (x,), (torch.cos(x),))[1],
    "vmap": lambda f: lambda x: vmap(f)(torch.stack([x, 2 * x])),
    "jacrev": lambda f: lambda x: jacrev(f)(x) @ torch.cos(x),
    "jacfwd": lambda f: lambda x: jacfwd(f)(x) @ torch.cos(x),
    "linearize": lambda f: lambda x: linearize(f, x)[1](torch.cos(x)),
    "compile": lambda f: torch.compile(f, backend="aot_eager", fullgraph=True),
}
NESTINGS = [names for depth in (1, 2, 3) for names in itertools.product(TRANSFORMS, repeat=depth)]

# Each of these gives J cos(x), and compile changes no values. So the expected result comes from a simpler nesting.
SAME_AS = {"jacrev": "jvp", "jacfwd": "jvp", "linearize": "jvp"}


def nest(f, names):
    """The transforms around f; the first is the outermost."""
    return functools.reduce(lambda f, name: TRANSFORMS[name](f), reversed(names), f)


# --- Operations: ours, the plain composition, and the shapes of their arguments ---------------------------------------


def of_vector(f, shapes):
    """f, a function of tensors, as a function of one vector that holds all their entries."""
    sizes = [math.prod(shape) for shape in shapes]
    return lambda vector: f(*(part.view(s) for part, s in zip(vector.split(sizes), shapes, strict=True)))


def vector_for(shapes):
    return torch.randn(sum(map(math.prod, shapes)), dtype=torch.float64)


def dense_of_x():
    (weight,), (bias,) = parameters([3, 2], requires_grad=False)
    ours = lambda x: dense(x, weight, bias, "sigmoid")  # noqa: E731
    reference = lambda x: plain(x, [weight], [bias], ["sigmoid"])  # noqa: E731
    return ours, reference, [(2, 3)]


def mlp_of_all():
    specs = ["sigmoid", "relu", SINE]
    ours = lambda x, *tensors: mlp(x, tensors[:3], tensors[3:], specs)  # noqa: E731
    reference = lambda x, *tensors: plain(x, tensors[:3], tensors[3:], specs)  # noqa: E731
    return ours, reference, [(2, 2)] * 4 + [(2,)] * 3


def ste_of_parameters():
    x = 3 * torch.randn(2, 2, dtype=torch.float64)
    ours = lambda *tensors: mlp(x, tensors[:3], tensors[3:], ["sigmoid", STRAIGHT_THROUGH, "identity"])  # noqa: E731
    reference = lambda *tensors: plain(x, tensors[:3], tensors[3:], ["sigmoid", STRAIGHT_THROUGH, "identity"])  # noqa: E731
    return ours, reference, [(2, 2)] * 3 + [(2,)] * 3


OPERATIONS = {f.__name__.replace("_", " "): f for f in (dense_of_x, mlp_of_all, ste_of_parameters)}


# --- The test ---------------------------------------------------------------------------------------------------------


def run(names, f, x):
    if "compile" in names:
        torch.compiler.reset()
    return nest(f, names)(x)


def reason_to_skip(names, reference, x, expected):
    try:
        found = run(names, reference, x)
    except Warning:
        raise
    except Exception as error:
        return f"PyTorch: {type(error).__name__}: {str(error).splitlines()[0]}"
    is_right = torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    return "" if is_right else "PyTorch's own values are wrong"


def is_slow(names):
    return "compile" in names or ("linearize" in names and len(names) > 2)


# compile and linearize take long. A nesting with one of them runs on one operation only, the straight-through one: its
# derivatives are right only if the hand-derived formula ran.
CASES = [
    pytest.param(names, operation, marks=[pytest.mark.slow] * is_slow(names), id=f"{'-'.join(names)}, {operation}")
    for names in NESTINGS
    for operation in (["ste of parameters"] if {"compile", "linearize"} & set(names) else OPERATIONS)
]


@pytest.mark.parametrize(("names", "operation"), CASES)
def test_nesting(names, operation):
    ours, reference, shapes = OPERATIONS[operation]()
    ours, reference, x = of_vector(ours, shapes), of_vector(reference, shapes), vector_for(shapes)
    expected = nest(reference, [SAME_AS.get(name, name) for name in names if name != "compile"])(x)
    assert expected.abs().max() > 1e-3
    try:
        torch.testing.assert_close(run(names, ours, x), expected, rtol=1e-9, atol=1e-9)
    except Exception:
        if reason := reason_to_skip(names, reference, x, expected):
            pytest.skip(reason)
        raise
