"""Activations and networks that the tests loop over, the oracle they compare with, and the checks they share.

The activations come from torchann's own table, so that a new row is tested without further work.
"""

from itertools import pairwise

import torch
from torch.func import hessian, jacrev, jvp, vmap
from torch.nn import functional as F

from torchann import Activation, activations
from torchann.fast.fused import DIFFERENTIABLE
from torchann.fast.series import is_quadratic
from torchann.formulas import slope_is_constant
from torchann.jets import Collapsed, Taylor

SINE = Activation("sine", torch.sin, torch.cos, lambda z: -torch.sin(z))


def silu(z):
    """`F.silu`, whose own backward has no forward mode."""
    return z * torch.sigmoid(z)


SILU = Activation("own silu", silu, lambda z: torch.sigmoid(z) * (1 + z * (1 - torch.sigmoid(z))))  # no d2f
OWN_SIGMOID = Activation(  # sigmoid as a user would write it, so it has no kernel
    "own sigmoid", torch.sigmoid, lambda o: o * (1 - o), lambda o: o * (1 - o) * (1 - 2 * o), reads="output"
)
STRAIGHT_THROUGH = Activation("straight through", torch.round, torch.ones_like, torch.zeros_like)


def straight_through(z):
    """The oracle of `STRAIGHT_THROUGH`: round(z) with derivative 1; autograd would take 0, as rounding is flat."""
    return torch.round(z) + (z - torch.round(z, decimals=12))


def hardsigmoid(z):
    """`F.hardsigmoid`, whose own backward has ⅙ in float32 only, also for float64, and can't be differentiated again."""
    return (z + 3).clamp(0, 6) / 6


def mish(z):
    """`F.mish`, whose own backward has no forward mode."""
    return z * torch.tanh(F.softplus(z))


def logsigmoid(z):
    """`F.logsigmoid`, whose own backward warns of a resized tensor under vmap."""
    return -F.softplus(-z)


ORACLES = {
    STRAIGHT_THROUGH: straight_through,
    activations.get("hardsigmoid"): hardsigmoid,
    activations.get("logsigmoid"): logsigmoid,
    activations.get("silu"): silu,
    activations.get("mish"): mish,
}


def oracle(spec):
    """f in operations that autograd differentiates to any order."""
    row = activations.get(spec)
    return ORACLES.get(row, row.f)


def own_callable(z):
    return F.softplus(z) + torch.cos(z)


def varied(family):
    """A row of the family whose parameters are not its defaults."""
    return family(*("tanh" if isinstance(each, str) else 1.5 * each + 0.25 for each in family.defaults.values()))


# Every row of the table, one of each family with other parameters, and those whose parameters make them read z instead
# of o. Cheap tests go over these.
ROWS = {
    row.name: row
    for row in (
        *activations.TABLE.values(),
        *map(varied, activations.FAMILIES.values()),
        *map(
            activations.get,
            (
                "leaky_relu:-0.3",
                "elu:-0.5",
                "elu:3",
                "softplus:1,1",
                "threshold:0,1",
                "threshold:0.1,0.1",
                "hardtanh:0.1,0.7",
            ),
        ),
    )
}


def kind_of(row):
    """What the sweeps, the series and the kernels tell rows apart by."""
    has_zero_second = row.d2f is torch.zeros_like
    return row.reads, row in DIFFERENTIABLE, is_quadratic(row) and row.slope, slope_is_constant(row), has_zero_second


# The first row of each kind. Tests that take long for a single row go over these.
REPRESENTATIVES = {row.name: row for row in reversed({kind_of(row): row for row in reversed(ROWS.values())}.values())}
OWN = {
    "own Activation": SINE,
    "own Activation without d2f": SILU,
    "own Activation reading the output": OWN_SIGMOID,
    "own callable": own_callable,
}
ACTIVATIONS = {**REPRESENTATIVES, **OWN}
EVERY_ACTIVATION = {**ROWS, **OWN}
NETWORKS = {
    "sigmoids": ["sigmoid"] * 3,
    "every kind": ["tanh", SINE, "relu", own_callable, SILU, "identity"],
    "callable last": ["sigmoid", own_callable],
    "identities": ["identity", "identity"],
}

# Kinds of series. The weights have zeros and both signs; from nine nonzero ones on, `fast.series` adds them up otherwise.
KINDS = {
    **{f"order {order}": Taylor(order) for order in range(1, 5)},
    "ones": Collapsed(torch.ones(3, dtype=torch.float64), is_laplacian=True),
    "many ones": Collapsed(torch.ones(10, dtype=torch.float64), is_laplacian=True),
    "c": Collapsed(torch.tensor([0.5, 0, -2.5], dtype=torch.float64)),
    "zeros": Collapsed(torch.zeros(2, dtype=torch.float64)),
    "many c": Collapsed(torch.tensor([1, -2, 0, 3, 0.5, 1, -1, 2, 1, 4, -0.3], dtype=torch.float64)),
    "C": Collapsed(torch.tensor([[1, 0.5, 0], [0.5, -2, 3], [0, 3, 0.7]], dtype=torch.float64)),
}

# Central differences in float64 with eps = 1e-6 err by eps² f‴/6 + u |f| / eps ≈ 1e-12 + 2e-10 |f|; 1e-7 leaves room
# for sums of a few dozen terms.
GRADCHECK = {"eps": 1e-6, "atol": 1e-7, "rtol": 1e-6}
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # the same float64 operations, up to the order of a sum


def plain(x, weights, biases, activation_specs):
    """The oracle: f(F.linear(x, W, b)), layer after layer, differentiated by autograd."""
    for weight, bias, spec in zip(weights, biases, activation_specs, strict=True):
        x = oracle(spec)(F.linear(x, weight, bias))
    return x


def parameters(sizes, bias=True, **options):
    options = {"dtype": torch.float64, "requires_grad": True, **options}
    weights = [torch.randn(fan_out, fan_in, **options) for fan_in, fan_out in pairwise(sizes)]
    biases = [torch.randn(fan_out, **options) if bias else None for fan_out in sizes[1:]]
    return weights, biases


def along(network, x, directions, order):
    """The oracle of a jet: dᵏ/dtᵏ network(x + t v_r) at t = 0 for k = 1 … order, by nested forward mode. [R, *, O]"""
    return of_curve(lambda t: network(x + t * directions), x, order)


def of_curve(curve, x, order):
    """The derivatives of a function of a number at 0."""
    found = []
    for _ in range(order):
        curve = slope(curve)
        found.append(curve(torch.zeros((), dtype=x.dtype)))
    return found


def slope(curve):
    return lambda t: jvp(curve, (t,), (torch.ones_like(t),))[1]


def value_gradient_hessian(network, x):
    """[N, O], [N, O, I] and [N, O, I, I] by torch.func."""
    return network(x), vmap(jacrev(network))(x), vmap(hessian(network))(x)


def check_derivatives(row, f):
    """f′, f″ and f‴ of a row, as far as it has them, against autograd's derivatives of f."""
    z = torch.linspace(-8, 8, 641, dtype=torch.float64)[1::2].requires_grad_()  # off the kinks
    s = row.f(z) if row.reads_output else z
    expected = f(z)
    for by_hand in (row.df, row.d2f, row.d3f):
        if by_hand is None:
            break
        (expected,) = torch.autograd.grad((expected + 0 * z).sum(), z, create_graph=True)
        torch.testing.assert_close(by_hand(s), expected, **EXACT)


def check_all_modes(fn, inputs, twice=True):
    """Every gradient check of PyTorch; `twice=False` leaves out those of the second derivative."""
    torch.autograd.gradcheck(
        fn, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True, **GRADCHECK
    )
    if twice:
        torch.autograd.gradgradcheck(fn, inputs, check_fwd_over_rev=True, check_batched_grad=True, **GRADCHECK)


def derivatives(output, inputs, order):
    """The derivatives of order 1 … `order`: each is the gradient of Σ sin(· + 0.3) of the one before.

    The sine weighs each entry differently, so that no error cancels.
    """
    found = []
    for _ in range(order):
        scalar = sum((torch.sin(tensor + 0.3)).sum() for tensor in (output if isinstance(output, tuple) else (output,)))
        output = torch.autograd.grad(scalar, inputs, create_graph=True, materialize_grads=True)
        found.append(output)
    return found
