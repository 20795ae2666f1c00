"""`torchann.backpropagate` against `loss(net(x), target).backward()`: losses × networks, hooks, frozen parameters."""

import copy
import itertools
import re

import pytest
import torch
from cases import SINE, own_callable
from torch import nn
from torch.nn.utils import parametrizations

import torchann
from torchann import MLP, Dense, HalfSquaredErrorLoss, backpropagate, backpropagation

EXACT = {"rtol": 1e-12, "atol": 1e-12}
REDUCTIONS = ("mean", "sum")


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def class_numbers(shape):
    target = torch.randint(0, shape[-1], shape[:-1])
    target[0] = -100  # which is ignored
    return target


LOSSES = {
    **{f"half squared error, {r}": (HalfSquaredErrorLoss(r), lambda shape: numbers(*shape)) for r in REDUCTIONS},
    **{f"squared error, {r}": (nn.MSELoss(reduction=r), lambda shape: numbers(*shape)) for r in REDUCTIONS},
    **{f"cross entropy, {r}": (nn.CrossEntropyLoss(reduction=r), class_numbers) for r in REDUCTIONS},
    **{
        f"cross entropy of shares, {r}": (nn.CrossEntropyLoss(reduction=r), lambda shape: numbers(*shape).abs())
        for r in REDUCTIONS
    },
    **{
        f"binary cross entropy, {r}": (nn.BCEWithLogitsLoss(reduction=r), lambda shape: numbers(*shape).sigmoid())
        for r in REDUCTIONS
    },
}
BY_AUTOGRAD = {
    "weighted cross entropy": (nn.CrossEntropyLoss(torch.rand(3, dtype=torch.float64)), class_numbers),
    "smoothed cross entropy": (nn.CrossEntropyLoss(label_smoothing=0.1), class_numbers),
    "weighted binary cross entropy": (
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), lambda shape: numbers(*shape).sigmoid()
    ),
    "another module": (nn.HuberLoss(), lambda shape: numbers(*shape)),
    "a function": (lambda output, target: (output * target).sin().sum(), lambda shape: numbers(*shape)),
    "a constant": (lambda output, target: output.detach().sum() + 0 * output.sum(), lambda shape: numbers(*shape)),
}  # fmt: skip


def ordinary(net, x, target, loss, gradient=1.0):
    output = net(x)
    error = loss(output, target)
    (error * gradient).backward()
    return error.detach(), output.detach()


def check(net, x, target, loss, steps=2, **options):
    """Compares after two calls, since gradients are added to those that are there."""
    twin = copy.deepcopy(net)
    twin_loss = copy.deepcopy(loss)
    for _ in range(steps):
        found, expected = (
            backpropagate(net, x, target, loss, **options),
            ordinary(twin, x, target, twin_loss, **options),
        )
        torch.testing.assert_close(found, expected, **EXACT)
        assert not any(tensor.requires_grad for tensor in found)
    for mine, reference in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, **EXACT)


@pytest.fixture
def autograd_runs(monkeypatch):
    """A list with one entry for each call that `backpropagate` left to autograd."""
    found = []
    by_autograd = backpropagation.by_autograd
    monkeypatch.setattr(backpropagation, "by_autograd", lambda *args: (found.append(1), by_autograd(*args))[1])
    return found


NETWORKS = {
    "sigmoids": lambda: MLP([4, 5, 3], dtype=torch.float64),
    "own activation": lambda: MLP([4, 5, 5, 3], SINE, dtype=torch.float64),
    "linear last": lambda: MLP([4, 5, 3], "relu", output_activation="identity", dtype=torch.float64),
    "without biases": lambda: MLP([4, 5, 3], "tanh", bias=False, dtype=torch.float64),
    "checkpointed": lambda: MLP([4, 5, 5, 5, 3], "tanh", checkpoint=2, dtype=torch.float64),
    "one layer": lambda: Dense(4, 3, "tanh", dtype=torch.float64),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", {**LOSSES, **BY_AUTOGRAD})
def test_losses_and_networks(kind, name, autograd_runs):
    loss, make_target = {**LOSSES, **BY_AUTOGRAD}[name]
    check(NETWORKS[kind](), numbers(6, 4), make_target((6, 3)), loss)
    assert autograd_runs == []


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_known_loss_needs_no_autograd(name, monkeypatch):
    loss, make_target = LOSSES[name]
    monkeypatch.setattr(torch.autograd, "backward", lambda *_, **__: pytest.fail("autograd ran"))
    backpropagate(MLP([4, 5, 3], dtype=torch.float64), numbers(6, 4), make_target((6, 3)), loss)


def test_the_loss_is_half_the_squared_error_by_default():
    net, x, target = MLP([4, 5, 3], dtype=torch.float64), numbers(6, 4), numbers(6, 3)
    error, output = backpropagate(net, x, target)
    torch.testing.assert_close(error, HalfSquaredErrorLoss()(output, target), **EXACT)


@pytest.mark.parametrize("gradient", [0.25, torch.tensor(3.0, dtype=torch.float64)], ids=["number", "tensor"])
@pytest.mark.parametrize("loss", [HalfSquaredErrorLoss(), nn.HuberLoss()], ids=["by hand", "by autograd"])
def test_gradient_of_the_error(gradient, loss):
    check(MLP([4, 5, 3], dtype=torch.float64), numbers(6, 4), numbers(6, 3), loss, gradient=gradient)


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 4), (1, 4), (2, 0, 4), (4,)], ids=str)
def test_shapes_of_x(shape):
    loss = HalfSquaredErrorLoss("sum")
    check(MLP([4, 5, 3], dtype=torch.float64), numbers(*shape), numbers(*shape[:-1], 3), loss)


def test_parameters_of_the_loss_get_their_gradient():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, output, target):
            return (self.weight * (output - target).square()).sum()

    loss = Weighted()
    backpropagate(MLP([4, 5, 3], dtype=torch.float64), numbers(6, 4), numbers(6, 3), loss)
    assert loss.weight.grad.all()


@pytest.mark.parametrize("frozen", [*itertools.product([True, False], repeat=4)])
def test_frozen_parameters(frozen, autograd_runs):
    net = MLP([4, 5, 3], dtype=torch.float64)
    for parameter, is_frozen in zip(net.parameters(), frozen, strict=True):
        parameter.requires_grad_(not is_frozen)
    x, target = numbers(6, 4), numbers(6, 3)
    if all(frozen):
        with pytest.raises(RuntimeError, match="does not require grad"):
            backpropagate(net, x, target)
    else:
        check(net, x, target, nn.MSELoss())
        assert autograd_runs == []


def test_a_target_of_another_dtype():
    net, twin = (MLP([4, 5, 3]) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    x, target = torch.randn(6, 4), numbers(6, 3)
    try:
        ordinary(twin, x, target, nn.MSELoss())
    except RuntimeError as error:  # PyTorch 2.9 refuses it
        with pytest.raises(RuntimeError, match=re.escape(str(error).splitlines()[0])):
            backpropagate(net, x, target, nn.MSELoss())
        return
    backpropagate(net, x, target, nn.MSELoss())
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in twin.parameters()])


def test_tied_parameters():
    net = MLP([4, 4, 4], dtype=torch.float64)
    net.layers[1].weight = net.layers[0].weight
    check(net, numbers(6, 4), numbers(6, 4), nn.MSELoss())


def hooked_layer(net):
    net.layers[0].register_forward_hook(lambda module, args, output: 2 * output)


def hooked_network(net):
    net.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def hooked_gradient(net):
    net.layers[0].weight.register_hook(lambda grad: 2 * grad)


def after_accumulation(net):
    net.layers[0].weight.register_post_accumulate_grad_hook(lambda parameter: (parameter.grad.mul_(2), None)[1])


def parametrised(net):
    parametrizations.weight_norm(net.layers[0])


def replaced_layer(net):
    net.layers[0] = nn.Linear(4, 5, dtype=torch.float64)


def own_forward(net):
    net.layers[0].forward = lambda x: Dense.forward(net.layers[0], x) + 1


NEED_AUTOGRAD = (
    hooked_layer, hooked_network, hooked_gradient, after_accumulation, parametrised, replaced_layer, own_forward
)  # fmt: skip


@pytest.mark.parametrize("change", NEED_AUTOGRAD, ids=lambda change: change.__name__)
def test_hooks_and_changed_layers_go_by_autograd(change, autograd_runs):
    torch.manual_seed(0)
    x, target = numbers(6, 4), numbers(6, 3)
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        nets.append(MLP([4, 5, 3], dtype=torch.float64))
        change(nets[-1])
    found, expected = backpropagate(nets[0], x, target, nn.MSELoss()), ordinary(nets[1], x, target, nn.MSELoss())
    torch.testing.assert_close(found, expected, **EXACT)
    for mine, reference in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, **EXACT)
    assert autograd_runs == [1]


OTHERS = {
    "a callable": lambda: MLP([4, 5, 3], own_callable, dtype=torch.float64),
    "nn.Sequential": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
    "converted": lambda: torchann.convert(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()),
    "a subclass": lambda: type("Own", (MLP,), {"forward": lambda self, x: 2 * MLP.forward(self, x)})(
        [4, 5, 3]
    ).double(),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_modules(make, autograd_runs):
    net, x, target = make(), numbers(6, 4), numbers(6, 3)
    expected = torch.autograd.grad(nn.MSELoss()(net(x), target), [*net.parameters()])
    backpropagate(net, x, target, nn.MSELoss())
    torch.testing.assert_close([p.grad for p in net.parameters()], [*expected], **EXACT)
    assert autograd_runs == [1]


def test_x_that_needs_a_gradient_gets_one(autograd_runs):
    x = numbers(6, 4).requires_grad_()
    check(MLP([4, 5, 3], dtype=torch.float64), x, numbers(6, 3), nn.MSELoss(), steps=1)
    assert x.grad is not None
    assert autograd_runs == [1]


def test_under_autocast(autograd_runs):
    net, x, target = MLP([4, 5, 3]), torch.randn(6, 4), torch.randn(6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        _, output = backpropagate(net, x, target)
    assert output.dtype == torch.bfloat16
    assert autograd_runs == [1]


def test_without_grad_mode():
    net, x, target = MLP([4, 5, 3]), torch.randn(6, 4), torch.randn(6, 3)
    with torch.no_grad():
        backpropagate(net, x, target)
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("loss", [HalfSquaredErrorLoss("none"), nn.MSELoss(reduction="none")])
def test_a_loss_that_is_no_scalar(loss):
    with pytest.raises(RuntimeError, match="scalar"):
        backpropagate(MLP([4, 5, 3]), torch.randn(6, 4), torch.randn(6, 3), loss)


def test_bad_input():
    with pytest.raises(ValueError, match=r"weights\[0\]: expected shape \[out_features, 7\]"):
        backpropagate(MLP([4, 5, 3]), torch.randn(6, 7), torch.randn(6, 3))
    with pytest.raises(ValueError, match="target: expected the shape of output"):
        backpropagate(MLP([4, 5, 3]), torch.randn(6, 4), torch.randn(6, 2))


@pytest.mark.parametrize("name", ["readable", "inplace"])
def test_by_a_chosen_implementation(name):
    with torchann.implementation(name):
        check(MLP([4, 5, 3], dtype=torch.float64), numbers(6, 4), numbers(6, 3), nn.MSELoss())


def test_learns():
    torch.manual_seed(0)
    net, x = MLP([2, 8, 1], "tanh", output_activation="sigmoid"), torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    target = torch.tensor([[0.0], [1], [1], [0]])
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        error, output = backpropagate(net, x, target)
        optimizer.step()
    assert error < 0.01
    assert torch.equal(output.round(), target)
