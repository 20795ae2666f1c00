"""`trace` gives the same numbers as plain autograd, and leaves the model as it was."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from test_article import HIDDEN_WEIGHTS, OUTPUT_WEIGHTS, X, Y, by_hand, network
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import torchann
from torchann.conversion import pairs
from torchann.tracing import disagreement, worked

EXACT = {"rtol": 0, "atol": 1e-12}
loss = torchann.HalfSquaredErrorLoss()


class Plain(nn.Module):
    """A `Dense` that autograd differentiates, and that keeps the tensors which a trace has to show."""

    def __init__(self, dense, calls):
        super().__init__()
        self.dense, self.calls = [dense], calls
        self.weight, self.bias = dense.weight, dense.bias

    def forward(self, x):
        dense, bias = self.dense[0], None if self.bias is None else self.bias.clone()
        weight = self.weight.clone()  # so that its gradient is of this call alone
        z = F.linear(x, weight, bias)
        o = torchann.activations.get(dense.activation).f(z)
        kept = [tensor for tensor in (weight, bias, z, o) if tensor is not None]
        for tensor in kept:
            tensor.requires_grad_() if tensor.is_leaf else tensor.retain_grad()
        self.calls.append((x, weight, bias, z, o))
        return o.clone()


def by_autograd(model, x, target, loss):
    """Runs a copy of the model forward and backward; returns the calls of its `Plain` layers."""
    model, calls = copy.deepcopy(model), []
    for parent in list(model.modules()):
        for linear, activation in pairs(parent) if isinstance(parent, torchann.conversion.Sequential) else ():
            names = {module: name for name, module in parent._modules.items()}
            parent._modules[names[linear]] = torchann.Dense.from_linear(linear, activation)
            parent._modules[names[activation]] = nn.Identity()
        for name, child in list(parent._modules.items()):
            if isinstance(child, torchann.Dense):
                parent._modules[name] = Plain(child, calls)
    output = x
    if isinstance(model, torchann.MLP):
        for layer in model.layers:
            output = layer(output)
    else:
        output = model(x)
    loss(output, target).backward()
    return calls


def as_rows(tensor):
    return tensor.reshape(-1, tensor.shape[-1])


def mlp(*sizes, **kwargs):
    return torchann.MLP(sizes, dtype=torch.float64, **kwargs)


def dense(*args, **kwargs):
    return torchann.Dense(*args, dtype=torch.float64, **kwargs)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = dense(3, 3, "tanh"), dense(3, 2)

    def forward(self, x):
        return self.head(x=x + self.body(x) + self.body(x * 2))


def sequential():
    norm = nn.LayerNorm(5, dtype=torch.float64)
    return nn.Sequential(dense(3, 5, "identity"), nn.ReLU(), norm, mlp(5, 4, 2, activation="tanh"))


def frozen():
    net = mlp(3, 4, 4, 2)
    net.layers[0].requires_grad_(False)
    return net


sine = torchann.Activation("sine", torch.sin, torch.cos)

MODELS = {
    "sigmoid": lambda: mlp(3, 4, 2),
    "relu": lambda: mlp(3, 7, 5, 2, activation="relu", output_activation="identity"),
    "own activation": lambda: mlp(3, 4, 2, activation=sine),
    "callable": lambda: mlp(3, 4, 2, activation=F.softplus),
    "module": lambda: mlp(3, 4, 2, activation=nn.GELU()),
    "no bias": lambda: mlp(3, 4, 2, bias=False),
    "checkpointed": lambda: mlp(3, 4, 4, 2, checkpoint=1),
    "other layers": sequential,
    "used twice": Residual,
    "frozen": frozen,
    "all frozen": lambda: mlp(3, 4, 2).requires_grad_(False),
    "converted": lambda: torchann.convert(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    ).eval(),
}


@pytest.mark.parametrize("leading", [(5,), (), (2, 3)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_autograd(name, leading):
    model = MODELS[name]()
    x, y = torch.randn(*leading, 3, dtype=torch.float64), torch.rand(*leading, 2, dtype=torch.float64)
    traced = torchann.trace(model, x, y, loss)
    if name in ("frozen", "all frozen"):
        model.requires_grad_()  # the oracle's retain_grad needs it; the trace doesn't
    expected = by_autograd(model, x, y, loss)
    assert len(traced.layers) == len(expected)
    for layer, (x, weight, bias, z, o) in zip(traced.layers, expected, strict=True):
        torch.testing.assert_close(layer.x, as_rows(x).detach(), **EXACT)
        torch.testing.assert_close(layer.z, as_rows(z).detach(), **EXACT)
        torch.testing.assert_close(layer.o, as_rows(o).detach(), **EXACT)
        torch.testing.assert_close(layer.grad_output, as_rows(o.grad), **EXACT)
        torch.testing.assert_close(layer.delta, as_rows(z.grad), **EXACT)
        torch.testing.assert_close(layer.weight_gradient, weight.grad, **EXACT)
        if bias is not None:
            torch.testing.assert_close(layer.bias_gradient, bias.grad, **EXACT)
        torch.testing.assert_close(layer.mean_delta, as_rows(z.grad).abs().mean(0), **EXACT)
        torch.testing.assert_close(layer.share.sum().item(), 1.0, **EXACT)


def article():
    x, y = torch.tensor([X], dtype=torch.float64), torch.tensor([[Y]], dtype=torch.float64)
    return torchann.trace(network(), x, y, loss)


def test_the_articles_network():
    expected, (hidden, output) = by_hand(), article().layers
    delta_hidden, delta_output = expected["hidden_biases"], expected["output_bias"]  # ∂E/∂b = δ, of one sample
    assert article().error == pytest.approx(expected["error"], abs=1e-12)
    assert hidden.o[0].tolist() == pytest.approx(expected["n"], abs=1e-12)
    assert hidden.delta[0].tolist() == pytest.approx(delta_hidden, abs=1e-12)
    assert hidden.grad_output[0].tolist() == pytest.approx([delta_output * w for w in OUTPUT_WEIGHTS], abs=1e-12)
    assert output.delta.item() == pytest.approx(delta_output, abs=1e-12)
    assert output.weight_gradient[0].tolist() == pytest.approx(expected["output_weights"], abs=1e-12)
    total = sum(map(abs, delta_hidden))
    assert hidden.share.tolist() == pytest.approx([abs(delta) / total for delta in delta_hidden], abs=1e-12)


def test_layers_are_named_in_the_order_of_execution():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    assert [layer.name for layer in torchann.trace(Residual(), x, y, loss).layers] == ["body", "body-2", "head"]
    assert [layer.name for layer in torchann.trace(sequential(), x, y, loss).layers] == [
        "0",
        "3.layers.0",
        "3.layers.1",
    ]
    assert torchann.trace(dense(3, 2), x, y, loss).layers[0].name == "Dense"


def test_follows_says_whether_a_layer_reads_the_one_before():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    assert [layer.follows for layer in torchann.trace(sequential(), x, y, loss).layers] == [False, False, True]


def test_layers_that_the_forward_pass_does_not_call_are_left_out():
    model = Residual()
    model.unused = dense(3, 3)
    traced = torchann.trace(model, torch.randn(5, 3).double(), torch.rand(5, 2).double(), loss)
    assert "unused" not in [layer.name for layer in traced.layers]


def test_no_error_reaches_a_layer_whose_output_is_detached():
    class Cut(Residual):
        def forward(self, x):
            return self.head(self.body(x).detach())

    body, head = torchann.trace(Cut(), torch.randn(5, 3).double(), torch.rand(5, 2).double(), loss).layers
    assert not body.delta.any()
    assert not body.share.any()
    assert head.delta.any()


def test_an_output_that_the_next_module_writes_over():
    over = nn.Sequential(dense(3, 4, "identity"), nn.ReLU(inplace=True), dense(4, 2))
    beside = nn.Sequential(over[0], nn.ReLU(), over[2])
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    assert torchann.trace(over, x, y, loss).to_dict() == torchann.trace(beside, x, y, loss).to_dict()


def test_an_activation_in_place():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    stacks = [nn.Sequential(nn.Linear(3, 2), nn.SiLU(inplace)).double() for inplace in (True, False)]
    stacks[0].load_state_dict(stacks[1].state_dict())
    over, beside = (torchann.trace(torchann.convert(stack), x, y, loss) for stack in stacks)
    assert over.to_dict() == beside.to_dict()


def test_a_part_that_is_checkpointed():
    class Checkpointed(Residual):
        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    class Kept(Residual):
        def forward(self, x):
            return self.head(self.body(x))

    model, beside = Checkpointed(), Kept()
    beside.load_state_dict(model.state_dict())
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    assert torchann.trace(model, x, y, loss).to_dict() == torchann.trace(beside, x, y, loss).to_dict()


def test_users_hooks_see_what_they_saw_before():
    model, seen = mlp(3, 4, 2), []
    model.layers[0].register_forward_hook(lambda module, args, output: seen.append(output) or output * 2)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    hidden, output = torchann.trace(model, x, y, loss).layers
    torch.testing.assert_close(hidden.o, seen[0].detach(), **EXACT)
    torch.testing.assert_close(output.x, 2 * hidden.o, **EXACT)


# --- The model stays as it was ----------------------------------------------------------------------------------------


def disturbable():
    """A model with everything that a forward and a backward pass could change."""
    model = nn.Sequential(
        torchann.MLP([3, 6, 6]), nn.BatchNorm1d(6), nn.Dropout(0.5), torchann.Dense(6, 2), nn.Dropout(0.1)
    )
    model[4].eval()
    loss(model(torch.randn(5, 3)), torch.rand(5, 2)).backward()
    return model


def state_of(model):
    return {
        "parameters": [parameter.detach().clone() for parameter in model.parameters()],
        "gradients": [parameter.grad.clone() for parameter in model.parameters()],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("what", [torchann.trace, disagreement])
def test_model_is_undisturbed(what):
    model = disturbable()
    before = state_of(model)
    what(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.ones(5, 2), loss)
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("what", [torchann.trace, disagreement])
def test_model_is_undisturbed_by_an_error(what):
    model = disturbable()
    before = state_of(model)
    with pytest.raises(ValueError, match="target"):
        what(model, torch.ones(5, 3), torch.ones(5, 7), loss)
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)


def test_a_trace_between_forward_and_backward():
    model, x, y = disturbable().double(), torch.randn(5, 3).double(), torch.rand(5, 2).double()
    error = loss(model(x), y)
    torchann.trace(model, x, y, loss)
    error.backward()  # raises if the trace wrote over a saved tensor


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_inference_mode(mode):
    model = mlp(3, 4, 2)
    with mode():
        x, y = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
        inside = torchann.trace(model, x, y, loss)
    outside = torchann.trace(model, x.clone(), y.clone(), loss)
    assert inside.to_dict() == outside.to_dict()


def test_under_autocast_in_the_parameters_dtype():
    model, x, y = torchann.MLP([3, 4, 2]), torch.randn(5, 3), torch.rand(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = torchann.trace(model, x, y, loss)
    for ours, full in zip(narrow.layers, torchann.trace(model, x, y, loss).layers, strict=True):
        assert ours.delta.dtype == torch.float32
        eps = torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(ours.delta, full.delta, rtol=0, atol=4 * eps * full.delta.abs().max().item())


@pytest.mark.parametrize("wrap", [torch.compile, lambda net, **kwargs: nn.Sequential(torch.compile(net, **kwargs))])
def test_compiled(wrap):
    net, x, y = mlp(3, 4, 2), torch.randn(5, 3).double(), torch.rand(5, 2).double()
    compiled = wrap(net, backend="eager")
    compiled(x)
    traced = torchann.trace(compiled, x, y, loss)
    for ours, theirs in zip(traced.layers, torchann.trace(net, x, y, loss).layers, strict=True):
        torch.testing.assert_close(ours.delta, theirs.delta, **EXACT)


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (nn.Linear(3, 2), loss, "model: expected at least one torchann.Dense that its forward pass reaches, got none"),
        (torchann.Dense(3, 2), torchann.HalfSquaredErrorLoss("none"), "loss: expected a scalar, got shape [5]"),
        (torchann.Dense(3, 2), lambda output, y: 3.0, "loss: expected a scalar, got float"),
        (
            torchann.Dense(3, 2),
            lambda output, y: y.sum(),
            "loss: expected one that depends on a Dense of the model, got one without a gradient",
        ),
    ],
)
def test_bad_arguments(model, loss, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        torchann.trace(model, torch.randn(5, 3), torch.rand(5, 2), loss)


# --- A trace as text and as JSON --------------------------------------------------------------------------------------


def test_to_dict_is_json():
    traced = article()
    as_dict = json.loads(json.dumps(traced.to_dict()))
    assert as_dict["layers"][1]["name"] == "layers.1"
    assert as_dict["layers"][0]["weight"] == HIDDEN_WEIGHTS
    assert as_dict["layers"][0]["delta"] == traced.layers[0].delta.tolist()


def test_print_reads_like_the_article():
    text, expected = str(article()), by_hand()

    def written(value):
        return f"{value:.4g}".replace("-", "−")

    assert "z_1 = Σ_i w_1,i·x_i + b_1 = 0.1·0.5 + (−0.4)·(−1.2) + 0.7·0.8 + 0.1 = 1.19" in text
    assert f"∂E/∂o_1 = o_1 − y_1 = {written(expected['o'])} − 0.9 = " in text
    assert f"∂E/∂o_2 = Σ_l δ_l·w_l,2 = ({written(expected['output_bias'])})·(−0.5) = " in text
    steps = ["Forward, layers.0", "Forward, layers.1", "Error", "Case 1, layers.1", "Case 2, layers.0", "Update of"]
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)


def arithmetic(text):
    """The values of the last two sides of each line's equation, where both are numbers."""
    for line in text.splitlines():
        parts = [re.sub(r"\(\d+ smaller terms\)", "", part) for part in line.strip("- `").split(" = ")]
        written = [part.replace("−", "-").replace("·", "*") for part in parts[-2:]]
        if len(written) == 2 and all(re.fullmatch(r"[-+*/(). e\d]+", part) for part in written):
            yield [eval(part) for part in written]


@pytest.mark.parametrize("scope", [worked.Scope(), worked.Scope(sample=2, neurons=2, terms=3, rate=0.5)])
def test_the_worked_example_adds_up(scope):
    traced = torchann.trace(mlp(5, 7, 6, 2), torch.randn(4, 5).double(), torch.rand(4, 2).double(), loss)
    lines = list(arithmetic(worked.as_text(worked.example(traced.layers, traced.error, traced.target, scope))))
    assert len(lines) > 20
    for left, right in lines:
        assert left == pytest.approx(right, abs=5e-3)  # the text has four digits


def test_the_worked_example_shows_the_neurons_that_contribute_most():
    traced = torchann.trace(mlp(5, 20, 2), torch.randn(1, 5).double(), torch.rand(1, 2).double(), loss)
    busiest = int(traced.layers[0].delta.abs().argmax()) + 1
    text = worked.as_markdown(worked.example(traced.layers, traced.error, traced.target, worked.Scope(neurons=1)))
    assert "**Case 2, layers.0: 1 of 20 neurons, with the largest |δ|**" in text
    assert f"- `δ_{busiest} = " in text


def test_other_losses_and_layers_are_not_called_cases_of_the_article():
    x, y = torch.randn(1, 3, dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert "o_1 − y_1" not in str(torchann.trace(mlp(3, 4, 2), x, y, F.cross_entropy))
    body, *_ = str(torchann.trace(Residual(), x, y, loss)).split("Case 2, body:")[1:]
    assert "Σ_l" not in body.split("Case 2")[0]  # its output is used twice


def test_a_layer_without_bias_is_worked_through_without_one():
    traced = torchann.trace(mlp(3, 4, 2, bias=False), torch.randn(1, 3).double(), torch.rand(1, 2).double(), loss)
    assert "b_1" not in str(traced)


def test_a_target_of_booleans_can_be_worked_through():
    model, x, y = mlp(3, 4, 2), torch.randn(1, 3).double(), torch.tensor([[True, False]])
    as_numbers, as_booleans = (
        torchann.trace(model, x, target, lambda o, y: loss(o, y.double())) for target in (y.double(), y)
    )
    assert str(as_booleans) == str(as_numbers)


def test_a_trace_of_no_samples_prints_the_summary():
    traced = torchann.trace(mlp(3, 4, 2), torch.zeros(0, 3).double(), None, lambda output, _: output.square().sum())
    assert str(traced).startswith("E = 0, 0 samples")


@pytest.mark.parametrize(("sizes", "fits"), [([8, 8, 8], True), ([2, 7, 9], False), ([9, 7, 2], False)], ids=str)
def test_a_network_is_worked_through_whole_or_summarised(sizes, fits):
    traced = torchann.trace(torchann.MLP(sizes), torch.rand(1, sizes[0]), torch.rand(1, sizes[-1]), loss)
    assert ("Forward, layers.0" in str(traced)) == fits
    assert "with the largest |δ|" not in str(traced)


def test_large_networks_get_a_line_for_each_layer():
    traced = torchann.trace(torchann.MLP([64, 128, 10]), torch.rand(32, 64), torch.rand(32, 10), loss)
    title, head, *lines = str(traced).splitlines()
    assert title == f"E = {traced.error:.4g}, 32 samples"
    assert "mean |δ|" in head
    assert [line.split()[0] for line in lines] == ["layers.0", "layers.1"]
    assert f"{traced.layers[1].delta.abs().mean():.4g}" in lines[1]


# --- Disagreement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_no_disagreement(name):
    model = MODELS[name]()
    found = disagreement(model, torch.randn(5, 3).double(), torch.rand(5, 2).double(), loss)
    layers = [module for module in model.modules() if isinstance(module, torchann.Dense)]
    layers += [linear for linear, _ in pairs(model)]
    trained = {id(p) for layer in layers for p in layer.parameters() if p.requires_grad}
    assert list(found.gradients) == [name for name, p in model.named_parameters() if id(p) in trained]
    assert all(value < 1e-12 for value in found.gradients.values())
    assert found.is_repeatable


def test_a_wrong_derivative_disagrees():
    wrong = torchann.Activation("wrong", torch.tanh, lambda o: 1 - o, reads="output")
    model = mlp(3, 4, 4, 2)
    model.layers[1].activation = wrong
    found = disagreement(model, torch.randn(5, 3).double(), torch.rand(5, 2).double(), loss)
    assert {name for name, value in found.gradients.items() if value > 0.01} == {
        "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias",
    }  # fmt: skip
    assert found.is_repeatable


class Stateful(nn.Module):
    """A network whose forward pass multiplies its inputs by `change(self)`, which may depend on state of its own."""

    def __init__(self, change):
        super().__init__()
        self.net = mlp(3, 4, 2)
        self.calls, self.average = 0, torch.ones(3, dtype=torch.float64)
        self.random = np.random.default_rng(0)
        self.register_buffer("buffer", torch.ones(3, dtype=torch.float64))
        self.change = change

    def forward(self, x):
        return self.net(x * self.change(self, x))


def count(model, x):
    model.calls += 1
    return model.calls


def running_average(model, x):
    model.average = 0.9 * model.average + 0.1 * x.detach().abs().mean(0)
    return model.average


def average_in_a_buffer(model, x):
    model.buffer.mul_(0.9).add_(0.1 * x.detach().abs().mean(0))
    return model.buffer.clone()


@pytest.mark.parametrize(
    ("change", "is_repeatable"),
    [
        (count, False),
        (running_average, False),
        (lambda model, x: model.random.random(), False),
        (average_in_a_buffer, True),
        (lambda model, x: nn.functional.dropout(torch.ones_like(x)), True),
    ],
)
def test_a_forward_pass_with_state_of_its_own_is_told_from_a_wrong_derivative(change, is_repeatable):
    found = disagreement(Stateful(change), torch.randn(5, 3).double(), torch.rand(5, 2).double(), loss)
    assert found.is_repeatable is is_repeatable
    assert (max(found.gradients.values()) < 1e-12) is is_repeatable
