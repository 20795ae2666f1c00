import pickle

import pytest
import torch
from cases import ACTIVATIONS, EXACT, oracle
from torch import nn
from torch.nn import functional as F

from torchann import Activation, activations

with_derivatives = [name for name, spec in ACTIVATIONS.items() if activations.get(spec).df is not None]


@pytest.mark.parametrize("name", with_derivatives)
def test_derivatives_are_those_of_f(name):
    activation = activations.get(ACTIVATIONS[name])
    z = torch.linspace(-4, 4, 33, dtype=torch.float64)[1::2].requires_grad_()  # off the kinks
    s = activation.f(z) if activation.reads_output else z
    o = oracle(activation)(z)
    (df,) = torch.autograd.grad(o.sum(), z, create_graph=True)
    torch.testing.assert_close(activation.df(s), df, **EXACT)
    if activation.d2f is not None:
        (d2f,) = torch.autograd.grad((df * (1 + 0 * z)).sum(), z)
        torch.testing.assert_close(activation.d2f(s), d2f, **EXACT)


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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("own", torch.sin, None, torch.cos), ValueError, "d2f: given without df"),
        (("own", torch.sin, torch.cos, None, "z"), ValueError, "reads: expected 'pre-activation' or 'output', got 'z'"),
        (("own", 3), TypeError, "f: expected a callable, got int"),
        (("own", torch.sin, 3), TypeError, "df: expected a callable, got int"),
        ((torch.sin, torch.cos), TypeError, "name: expected a str"),
    ],
)
def test_bad_rows_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Activation(*arguments)


@pytest.mark.parametrize("name", activations.TABLE)
def test_rows_unpickle_to_the_same_object(name):
    assert pickle.loads(pickle.dumps(activations.TABLE[name])) is activations.TABLE[name]


def test_own_activation_pickles_by_its_functions():
    own = Activation("sine", torch.sin, torch.cos)
    assert vars(pickle.loads(pickle.dumps(own))) == vars(own)
