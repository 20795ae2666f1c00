import copy
import pickle
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from cases import EVERY_ACTIVATION, EXACT, ORACLES, ROWS, check_derivatives, oracle
from torch import nn
from torch.nn import functional as F

from torchann import Activation, activations
from torchann.functional import dense

WITH_DERIVATIVES = {
    name: row for name, row in ((name, activations.get(spec)) for name, spec in EVERY_ACTIVATION.items()) if row.df
}


@pytest.mark.parametrize("row", WITH_DERIVATIVES.values(), ids=WITH_DERIVATIVES)
def test_derivatives_are_those_of_f(row):
    check_derivatives(row, oracle(row))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_row_has_what_the_backward_of_a_laplacian_reads(row):
    """f′, f″ and f‴, unless f″ is zero or f‴ follows from the slope."""
    assert row.d2f is torch.zeros_like or row.d3f is not None or row.slope is not None


INFINITY, NAN = float("inf"), float("nan")
KINKS = [-6, -3, -1.75, -1.25, -1, -0.75, -0.5, -0.25, 0, 0.1, 0.25, 0.5, 0.7, 0.75, 1, 1.25, 1.75, 3, 6, 20]
EDGES = [*KINKS, -0.0, 1e-40, -1e-40, -88, 88, -1e4, 1e4]
OF_PYTORCH = [row for row in ROWS.values() if row.equivalents]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("row", OF_PYTORCH, ids=str)
def test_kinks_and_infinities_are_as_in_pytorch(row, dtype):
    """f′ and f″, element by element; f is PyTorch's own."""
    z = torch.tensor(EDGES, dtype=dtype)
    beside = [torch.nextafter(z, torch.full_like(z, end)) for end in (-INFINITY, INFINITY)]
    z = torch.cat([z, *beside, torch.tensor([-INFINITY, INFINITY])]).to(dtype).requires_grad_()
    o = row.f(z)
    s = (o if row.reads_output else z).detach()
    (slope,) = torch.autograd.grad(o.sum(), z, create_graph=row not in ORACLES)
    # PyTorch's own f′ errs by up to 9 ulp (docs/activations.md). In float64, that of softplus at the threshold, and of
    # hardsigmoid everywhere, is only as exact as float32.
    close = {"rtol": 3e-8, "atol": 10 * torch.finfo(dtype).eps, "equal_nan": True}
    torch.testing.assert_close(row.df(s), slope.detach(), **close)
    if dtype is torch.float64 and slope.requires_grad:
        (bend,) = torch.autograd.grad(slope.sum(), z)
        finite = z.detach().abs() < INFINITY  # beyond, PyTorch's formulas make NaN of 0 · ∞
        torch.testing.assert_close(row.d2f(s)[finite], bend[finite], **{**close, "atol": 1e-7})


@pytest.mark.parametrize("row", OF_PYTORCH, ids=str)
def test_nan_is_as_in_pytorch(row):
    """f′ is one of the two answers that PyTorch's kernels give, by vectors and for the rest of a tensor."""
    z = torch.full((37,), NAN, requires_grad=True)
    o = row.f(z)
    (slope,) = torch.autograd.grad(o.sum(), z)
    assert o.isnan().all()
    found = row.df((o if row.reads_output else z).detach())
    assert {*map(str, found.tolist())} <= {*map(str, slope.tolist())}


def test_squareplus_keeps_its_digits():
    """Below 0, where ½ (z + √(z² + 4)) is a difference of numbers that are nearly equal; and where z² overflows."""
    row = activations.get("squareplus")
    z = torch.tensor([-1e4, -300.0, -INFINITY, INFINITY, NAN, 1e30])
    torch.testing.assert_close(row.f(z), torch.tensor([1e-4, 1 / 300, 0, INFINITY, NAN, 1e30]), equal_nan=True)
    torch.testing.assert_close(
        row.df(row.f(z)), torch.tensor([1e-8, 1 / 9e4, 0, 1, NAN, 1]), equal_nan=True, atol=0, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_derivatives_keep_a_short_dtype(row, dtype):
    z = torch.randn(7).to(dtype)
    s = row.f(z) if row.reads_output else z
    assert {each(s).dtype for each in (row.f, row.df, row.d2f, row.d3f) if each} == {dtype}


@pytest.mark.parametrize("name", [name for name, row in activations.TABLE.items() if row.slope is not None])
def test_slope_is_df_as_a_polynomial(name):
    """In o, as df reads it; so its derivative by o, times df, is d2f."""
    row, o = activations.TABLE[name], torch.linspace(-1, 1, 9, dtype=torch.float64)
    assert row.reads_output
    df = sum(coefficient * o**n for n, coefficient in enumerate(row.slope))
    torch.testing.assert_close(df.expand_as(o), row.df(o), **EXACT)
    by_o = sum((n * coefficient * o ** (n - 1) for n, coefficient in enumerate(row.slope) if n), torch.zeros_like(o))
    torch.testing.assert_close(by_o * df, row.d2f(o), **EXACT)


def test_sigmoid_and_tanh_have_a_slope():
    assert {name for name, row in activations.TABLE.items() if row.slope} >= {"sigmoid", "tanh"}


def test_table_has_the_promised_rows():
    assert {"sigmoid", "tanh", "relu", "identity"} <= set(activations.TABLE)
    assert all(row.df and row.d2f for row in activations.TABLE.values())


@pytest.mark.parametrize("spec", [torch.sigmoid, F.sigmoid, nn.Sigmoid(), "sigmoid", activations.TABLE["sigmoid"]])
def test_get_recognises_the_equivalents_of_a_row(spec):
    assert activations.get(spec) is activations.TABLE["sigmoid"]


class Subclass(nn.ReLU):
    pass


RECOGNISED = {
    "silu": [F.silu, nn.SiLU(), nn.SiLU(inplace=True), partial(F.silu, inplace=True)],
    "leaky_relu": [F.leaky_relu, nn.LeakyReLU(), "leaky_relu:0.01"],
    "leaky_relu:0.2": [nn.LeakyReLU(0.2), partial(F.leaky_relu, negative_slope=0.2), activations.leaky_relu(0.2)],
    "gelu": [F.gelu, nn.GELU(), "gelu:none"],
    "gelu:tanh": [nn.GELU(approximate="tanh"), partial(F.gelu, approximate="tanh")],
    "softplus:2": [nn.Softplus(2), partial(F.softplus, beta=2), "softplus:2,20", "softplus:2.0"],
    "softplus:2,10": [nn.Softplus(2, 10), activations.softplus(threshold=10, beta=2)],
    "hardtanh:-2,3": [nn.Hardtanh(-2, 3), partial(F.hardtanh, min_val=-2, max_val=3)],
    "threshold:0.5,-1": [nn.Threshold(0.5, -1)],
    "elu:2": [nn.ELU(2, inplace=True), partial(F.elu, alpha=2, inplace=True)],
    "sine": [torch.sin],
    "exp": [torch.exp],
}


@pytest.mark.parametrize(("name", "spec"), [(name, spec) for name, specs in RECOGNISED.items() for spec in specs])
def test_get_recognises(name, spec):
    found = activations.get(spec)
    assert (found.name, found) == (name, activations.get(name))


@pytest.mark.parametrize("row", activations.TABLE.values(), ids=str)
def test_the_equivalents_compute_the_same(row):
    z = torch.randn(50, dtype=torch.float64)
    for each in row.equivalents:
        f = each(**({"threshold": 0, "value": 0} if each is nn.Threshold else {})) if isinstance(each, type) else each
        torch.testing.assert_close(f(z), row.f(z), rtol=0, atol=0)
        assert activations.get(f) is row


@pytest.mark.parametrize(
    "spec",
    [
        Subclass(),  # its forward may be another
        nn.PReLU(),
        nn.RReLU(),
        nn.Softplus(-1),  # a parameter that the family has not
        partial(F.leaky_relu, negative_slope=torch.tensor(0.1)),
        partial(F.softplus, out=torch.empty(3)),
        partial(F.softplus, torch.empty(3)),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_get_leaves_the_rest_to_autograd(spec):
    assert activations.get(spec).df is None


@pytest.mark.parametrize(
    "spec",
    [nn.Softmax(-1), nn.LogSoftmax(-1), nn.GLU(), F.softmax, partial(F.softmax, dim=-1), torch.log_softmax],
    ids=["Softmax", "LogSoftmax", "GLU", "softmax", "partial", "log_softmax"],  # str has an address in it
)
def test_get_refuses_what_is_not_elementwise(spec):
    with pytest.raises(TypeError, match=r"expected an elementwise function, got .*; put it behind the network"):
        activations.get(spec)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leaky_relu:steep", "leaky_relu: negative_slope: expected a number, got 'steep'"),
        ("leaky_relu:", "leaky_relu: negative_slope: expected a number, got ''"),
        ("leaky_relu:1,2", "leaky_relu: expected at most 1: negative_slope; got 2 parameters"),
        ("elu:nan", "elu: alpha: expected a finite number, got nan"),
        ("celu:0", "celu: alpha: expected a positive number, got 0.0"),
        ("softplus:-1", "softplus: beta: expected a positive number, got -1.0"),
        ("hardtanh:2,1", "hardtanh: min_val: expected a number less than max_val = 1.0, got 2.0"),
        ("softshrink:-1", "softshrink: lambd: expected a number of at least 0, got -1.0"),
        ("hardshrink:-1", "hardshrink: lambd: expected a number of at least 0, got -1.0"),
        ("sine:0", "sine: w0: expected a positive number, got 0.0"),
        ("squareplus:0", "squareplus: b: expected a positive number, got 0.0"),
        ("gelu:erf", "gelu: approximate: expected 'none' or 'tanh', got 'erf'"),
        ("silu:1", "activation: 'silu' has no parameters, got 'silu:1'"),
        ("swish:1", "activation: unknown name 'swish:1'; known: "),
    ],
)
def test_bad_parameters_in_a_name(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        activations.get(name)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: activations.leaky_relu("0.2"), TypeError, "leaky_relu: negative_slope: expected a number, got '0.2'"),
        (lambda: activations.leaky_relu(True), TypeError, "leaky_relu: negative_slope: expected a number, got True"),
        (lambda: activations.leaky_relu(1, 2), TypeError, "leaky_relu: too many positional arguments"),
        (lambda: activations.elu(slope=1), TypeError, "elu: got an unexpected keyword argument 'slope'"),
        (lambda: activations.gelu(1), TypeError, "gelu: approximate: expected a str, got 1"),
        (lambda: activations.elu(INFINITY), ValueError, "elu: alpha: expected a finite number, got inf"),
    ],
)
def test_bad_parameters_in_a_call(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_the_same_parameters_give_the_same_row():
    assert activations.leaky_relu() is activations.leaky_relu(0.01) is activations.TABLE["leaky_relu"]
    assert activations.leaky_relu(1) is activations.leaky_relu(negative_slope=1.0) is activations.get("leaky_relu:1e0")
    assert activations.leaky_relu(-0.0) is activations.leaky_relu(0)
    assert activations.leaky_relu(0.2) is not activations.leaky_relu(0.3)
    assert repr(activations.softplus) == "torchann.activations.softplus(beta: float = 1.0, threshold: float = 20.0)"


@pytest.mark.parametrize("spec", ["leaky_relu:0.2", nn.LeakyReLU(0.35), "softplus:3"])
@pytest.mark.parametrize("is_new", [False, True])
def test_a_row_with_parameters_in_a_compiled_function(spec, is_new):
    """Made before, or by the compiled function itself."""
    x, weight = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True)
    rows = activations.get(spec).family.rows
    if is_new:
        rows.pop(next(values for values, row in rows.items() if row is activations.get(spec)))
    torch._dynamo.reset()
    layer = torch.compile(lambda x, weight: dense(x, weight, None, spec), fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(layer(x, weight).sum(), weight)
    torch.testing.assert_close(found, torch.autograd.grad(dense(x, weight, None, spec).sum(), weight))


def test_get_takes_any_callable():
    activation = activations.get(torch.sinh)
    assert (activation.name, activation.f, activation.df) == ("sinh", torch.sinh, None)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown name 'sigmod'; known: .*, sigmoid, silu, .*tanh"):
        activations.get("sigmod")


@pytest.mark.parametrize("wrong", [None, 3, 0.5])
def test_get_refuses_what_cannot_be_called(wrong):
    with pytest.raises(TypeError, match="expected a name, an Activation or a callable"):
        activations.get(wrong)


def test_d3f_needs_d2f():
    with pytest.raises(ValueError, match="d3f: given without d2f"):
        Activation("own", torch.sin, torch.cos, d3f=torch.cos)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("own", torch.sin, None, torch.cos), ValueError, "d2f: given without df"),
        (("own", torch.sin, torch.cos, None, "z"), ValueError, "reads: expected 'pre-activation' or 'output', got 'z'"),
        (("own", 3), TypeError, "f: expected a callable, got int"),
        (("own", torch.sin, 3), TypeError, "df: expected a callable, got int"),
        ((torch.sin, torch.cos), TypeError, "name: expected a str"),
        (("own", torch.sin, torch.cos, 3), TypeError, "d2f: expected a callable, got int"),
    ],
)
def test_bad_rows_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Activation(*arguments)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_rows_are_copied_and_unpickled_to_the_same_object(row):
    assert pickle.loads(pickle.dumps(row)) is row
    assert copy.copy(row) is row
    assert copy.deepcopy(row) is row
    assert activations.get(row.name) is row


def test_a_row_that_another_process_made_is_unpickled_by_name():
    program = "import pickle, sys, torchann; net = torchann.MLP([3, 4], 'elu:0.625'); sys.stdout.buffer.write(pickle.dumps(net))"
    net = pickle.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert net.activations == [activations.elu(0.625)]


def test_own_activation_pickles_by_its_functions():
    own = Activation("sine", torch.sin, torch.cos)
    assert vars(pickle.loads(pickle.dumps(own))) == vars(own)
