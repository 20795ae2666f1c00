"""torch.compile(model, backend="torchann"): the same values and gradients, and sweeps wherever layers follow one another."""

import tomllib
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
from cases import EXACT
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from torchann import convert
from torchann.dynamo import Layers, backend

pytestmark = pytest.mark.usefixtures("always_sweep")


class Net(nn.Module):
    """Three layers that a function in place of `forward` calls as it likes."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.fc1, self.fc2, self.fc3 = (nn.Linear(5, 5) for _ in range(3))
        self.layers = nn.ModuleList([self.fc1, self.fc2, self.fc3])
        self.act, self.in_place, self.idle, self.drop = (
            nn.Tanh(),
            nn.ReLU(inplace=True),
            nn.Dropout(0.0),
            nn.Dropout(0.5),
        )

    def forward(self, x):
        return self.call(self, x)


def compiled(net, **options):
    """The compiled network, and a list that gets the numbers of layers in each sweep, as each graph is compiled."""
    sweeps = []

    def recording(graph_module, inputs, **options):
        run = backend(graph_module, inputs, **options)
        sweeps.extend(len(module.activations) for module in graph_module.modules() if isinstance(module, Layers))
        return run

    torch.compiler.reset()
    return torch.compile(net, backend=recording, **options), sweeps


def loop(net, x):
    for layer in net.layers:
        x = torch.tanh(layer(x))
    return x


def without_gradients_at_first(net, x):
    with torch.no_grad():
        h = torch.tanh(net.fc1(x))
    return torch.tanh(net.fc2(h))


def input_changed_between(net, x):
    y = x * 1
    z = F.linear(y, net.fc1.weight.detach())
    y.mul_(2)
    return torch.tanh(z) + y


def weight_changed_between(net, x):
    weight = net.fc1.weight.detach().clone()
    z = F.linear(x.detach(), weight)
    weight.mul_(2)
    return torch.tanh(z) + x


def residual(net, x):
    h = net.fc2(torch.tanh(net.fc1(x)))
    h += x
    return h


def with_hook(net, x):
    z = net.fc1(x)
    if z.requires_grad:
        z.register_hook(lambda grad: 2 * grad)
    return torch.tanh(z)


def per_sample(net, x):
    def scalar(row):
        return torch.tanh(net.fc2(torch.tanh(net.fc1(row)))).sum()

    return torch.func.vmap(torch.func.grad(scalar))(x)


CASES = {  # what is called, and how many layers there are in each sweep
    "a loop over layers": (loop, [3]),
    "functions, methods and modules": (lambda net, x: net.fc3(net.act(net.fc2(net.fc1(x).relu()))), [3]),
    "activations in place": (lambda net, x: torch.sigmoid_(net.fc3(F.relu(net.fc2(net.fc1(x).tanh_()), True))), [3]),
    "no bias": (lambda net, x: F.linear(F.linear(x, net.fc1.weight).relu(), net.fc2.weight, bias=net.fc2.bias), [2]),
    "a layer used twice": (lambda net, x: net.fc1(torch.tanh(net.fc1(x))), [2]),
    "z used twice": (lambda net, x: torch.tanh(z := net.fc1(x)) + z, []),
    "z returned": (lambda net, x: (torch.tanh(z := net.fc1(x)), z), []),
    "o used twice": (lambda net, x: torch.tanh(net.fc2(h := torch.tanh(net.fc1(x)))) + h, [1, 1]),
    "o as a weight of its own": (lambda net, x: torch.tanh(F.linear(h := torch.tanh(net.fc1(x)), h)), [1, 1]),
    "a weight that is computed": (lambda net, x: torch.tanh(F.linear(x, net.fc1.weight @ net.fc2.weight)), [1]),
    "two activations": (lambda net, x: net.fc2(torch.relu(torch.tanh(net.fc1(x)))), [1]),
    "a view between": (lambda net, x: torch.tanh(net.fc2(torch.tanh(net.fc1(x)).view(-1, 5))), [1, 1]),
    "dropout that drops nothing": (lambda net, x: net.fc2(net.idle(torch.tanh(net.idle(net.fc1(x))))), [2]),
    "dropout": (lambda net, x: torch.tanh(net.fc2(net.drop(torch.tanh(net.fc1(x))))), [1, 1]),
    "without gradients at first": (without_gradients_at_first, [1, 1]),
    "an input changed between": (input_changed_between, []),
    "a weight changed between": (weight_changed_between, []),
    "a residual added in place": (residual, [2]),
    "an output changed in place": (lambda net, x: F.leaky_relu(net.fc1(x), 0.2).mul_(2), []),
    "a hook on z": (with_hook, []),
    "layers without an activation": (lambda net, x: net.fc2(net.fc1(x)), [2]),
    "a layer alone": (lambda net, x: net.fc1(x).exp2(), []),
    "a vector as weight": (lambda net, x: torch.tanh(F.linear(x, net.fc1.bias)), []),
    "complex": (lambda net, x: torch.tanh(F.linear(x * 1j, net.fc1.weight * 1j)).abs(), []),
    "activation checkpointing": (lambda net, x: checkpoint(loop, net, x, use_reentrant=False), []),
    "vmap of grad": (per_sample, None),
}


def gradients(net, output, x):
    outputs = output if isinstance(output, tuple) else (output,)
    scalar = sum(each.sin().sum() for each in outputs)
    return torch.autograd.grad(scalar, [x, *net.parameters()], allow_unused=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo
def test_same_values_and_gradients(name):
    call, expected = CASES[name]
    net = Net(call).double()
    ours, sweeps = compiled(net, fullgraph=name != "a hook on z")
    x = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            results = []
            for each in (net, ours):
                torch.manual_seed(1)
                results.append(each(x))
        torch.testing.assert_close(results[1], results[0], **EXACT)
        if enabled:
            found = [gradients(net, output, x) for output in results]
            torch.testing.assert_close(found[1], found[0], **EXACT)
            assert expected is None or sweeps == expected


FUNCTIONS = {  # of activations with settings, given by position and by name
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "leaky_relu in place": lambda z: F.leaky_relu(z, negative_slope=0.2, inplace=True),
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "softplus": lambda z: F.softplus(z, 2, threshold=5.0),
    "hardtanh": lambda z: F.hardtanh(z, -0.5, 0.75, False),
    "elu": lambda z: F.elu(z, alpha=0.5),
    "elu_": lambda z: F.elu_(z, 0.5),
    "hardshrink": lambda z: z.hardshrink(0.3),
    "exp": lambda z: z.exp(),
    **{name: getattr(nn, name)() for name in (
        "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish",
        "ReLU6", "SELU", "SiLU", "Softplus", "Softshrink", "Softsign", "Tanhshrink",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo
def test_activations_are_recognised_with_their_settings(name):
    f = FUNCTIONS[name]
    net = Net(lambda net, x: net.fc2(f(net.fc1(x)))).double()
    ours, sweeps = compiled(net)
    x = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), net(x), **EXACT)
    # PyTorch's hardsigmoid has 1/6 in float32, also in float64.
    torch.testing.assert_close(gradients(net, ours(x), x), gradients(net, net(x), x), rtol=1e-7, atol=1e-12)
    assert sweeps == [2]


@pytest.mark.parametrize("f", [F.rrelu, F.glu, lambda z: F.celu(z, -1.0), lambda z: F.prelu(z, z[0, 0].detach()[None])])
def test_what_is_no_activation_of_the_table_is_left_as_it_is(f):
    net = Net(lambda net, x: f(net.fc1(x.repeat(1, 2)[:, :5]).repeat(1, 2))).double()
    ours, sweeps = compiled(net)
    x = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), net(x), **EXACT)
    assert sweeps == []


def test_a_residual_may_be_added_in_place_with_leading_dimensions():
    net = Net(residual).double()
    ours, sweeps = compiled(net)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gradients(net, ours(x), x), gradients(net, net(x), x), **EXACT)
    assert sweeps == [2]


@pytest.mark.parametrize("around", ["inside", "outside"])
def test_under_autocast(around):
    """Activations are then computed in the dtype that PyTorch chooses for each."""

    def call(net, x):
        with torch.autocast("cpu") if around == "inside" else nullcontext():
            return torch.tanh(net.fc2(F.softplus(net.fc1(x))))

    net = Net(call)
    ours, _ = compiled(net)
    x = torch.randn(4, 5, requires_grad=True)
    with torch.autocast("cpu", enabled=around == "outside"):
        outputs = net(x), ours(x)
    assert outputs[0].dtype == outputs[1].dtype
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(*(gradients(net, output, x) for output in outputs), rtol=0, atol=0)


def test_second_derivatives():
    net = Net(loop).double()
    ours, sweeps = compiled(net)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    seconds = []
    for each in (net, ours):
        (first,) = torch.autograd.grad(each(x).sin().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), [x, *net.parameters()], allow_unused=True))
    torch.testing.assert_close(seconds[1], seconds[0], **EXACT)
    assert sweeps == [3]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo, at the second graph
def test_any_number_of_samples_and_graph_breaks():
    opaque = torch.compiler.disable(torch.sin)  # which Dynamo can't record, so there are two graphs

    def call(net, x):
        return torch.tanh(net.fc3(opaque(torch.tanh(net.fc2(torch.tanh(net.fc1(x)))))))

    net = Net(call).double()
    ours, sweeps = compiled(net, dynamic=True)
    for samples in (1, 4, 9):
        x = torch.randn(samples, 5, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(gradients(net, ours(x), x), gradients(net, net(x), x), **EXACT)
    assert sweeps[:2] == [2, 1]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo
def test_a_converted_model_shows_its_modules(dynamic):
    twin = nn.Sequential(nn.Linear(5, 4), nn.LeakyReLU(0.2), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 3)).double()
    net = convert(twin)
    net[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    ours, sweeps = compiled(net, fullgraph=True, dynamic=dynamic)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gradients(net, ours(x), x), gradients(net, net(x), x), **EXACT)
    assert sweeps == ([] if dynamic else [2])  # with dynamic=True, Dynamo makes the slope a number that may change


def test_options(capsys):
    net, x = Net(lambda net, x: torch.tanh(z := net.fc3(net.act(net.fc2(net.act(net.fc1(x)))))) + z), torch.randn(4, 5)
    torch.compiler.reset()
    torch.compile(net, backend=backend, options={"report": True})(x)
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["fc1", "linear", "layer 1 of 3, tanh: a sweep from 0 samples on; without gradients, from 0 on"],
        ["fc2", "linear", "layer 2 of 3, tanh"],
        ["fc3", "linear", "layer 3 of 3, identity; its output is used more than once"],
    ]
    for options, message in (
        ({"rest": "cudagraphs"}, r"options\['rest'\]: expected 'eager' or 'inductor', got 'cudagraphs'"),
        ({"max_autotune": True}, "options: expected 'rest' or 'report', got 'max_autotune'"),
    ):
        torch.compiler.reset()
        with pytest.raises(RuntimeError, match=message):  # Dynamo's, around the ValueError
            torch.compile(net, backend=backend, options=options)(x)


def test_the_package_registers_the_backend():
    project = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["torch_dynamo_backends"]["torchann"].partition(":")
    assert getattr(import_module(module), name) is backend


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of inductor
@pytest.mark.parametrize("call", [loop, residual, without_gradients_at_first], ids=lambda call: call.__name__)
def test_inductor_compiles_the_rest(call):
    net = Net(lambda net, x: (call(net, x.sin()) * 2).cos())
    ours, sweeps = compiled(net, options={"rest": "inductor"})
    x = torch.randn(4, 5, requires_grad=True)
    torch.testing.assert_close(ours(x), net(x))
    torch.testing.assert_close(gradients(net, ours(x), x), gradients(net, net(x), x))
    assert sweeps == {loop: [3], residual: [2], without_gradients_at_first: []}[call]
