"""`convert` keeps a model's modules and runs them as sweeps, or by PyTorch's operations; `revert` is the way back."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from cases import EXACT, STRAIGHT_THROUGH
from torch import nn

import torchann
from torchann import MLP, activations, conversion, convert
from torchann.conversion import pairs


@pytest.fixture(params=["one by one", "as a sweep"])
def way(request):
    """The two ways in which a converted model runs; in the sizes of these tests, the first is the one it chooses."""
    if request.param == "as a sweep":
        request.getfixturevalue("always_sweep")
    return request.param


both_ways = pytest.mark.usefixtures("way")


def stack(dtype=torch.float64):
    """A model with layers at several depths, linear layers without activation, and an activation not in the table."""
    return nn.Sequential(
        nn.Linear(5, 4), nn.Sigmoid(), nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
        nn.ModuleDict({"inner": nn.Sequential(nn.Linear(3, 16, bias=False), nn.ReLU())})["inner"],
        nn.Linear(16, 4), nn.GELU(), nn.Linear(4, 2),
    ).to(dtype)  # fmt: skip


def graph(output):
    """All nodes of the graph of an output, or of a list of outputs."""
    outputs = output if isinstance(output, list) else [output]
    nodes, found = [output.grad_fn for output in outputs], []
    while nodes:
        node = nodes.pop()
        if node is not None and node not in found:
            found.append(node)
            nodes += [parent for parent, _ in node.next_functions]
    return found


class Named(nn.Sequential):
    """A subclass that leaves `forward` alone."""


class AllOutputs(nn.Sequential):
    def forward(self, x):
        outputs = []
        for child in self:
            outputs.append(x := child(x))
        return outputs


@both_ways
def test_same_outputs_and_gradients():
    model = stack()
    converted, x = convert(model), torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(converted(x), model(x), **EXACT)
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(net(x).square().sum(), parameters) for net in (converted, model))
    torch.testing.assert_close(ours, theirs, **EXACT)


def nodes(output):
    return {type(node).__name__ for node in graph(output)}


OURS = {"NetworkBackward", "FirstOrderBackward"}


def test_the_modules_are_the_same_and_run_as_sweeps(way):
    model = stack()
    converted, x = convert(model), torch.randn(7, 5, dtype=torch.float64)
    assert repr(converted) == repr(model)
    assert len(list(pairs(converted))) == 4
    found = nodes(converted(x))
    if way == "as a sweep":
        assert found & OURS
        assert not found & {"SigmoidBackward0", "TanhBackward0", "ReluBackward0"}
    else:
        assert found == nodes(model(x))


def test_large_networks_run_as_sweeps_and_small_ones_as_pytorch_does():
    converted = convert(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()))
    enough = conversion.TRAINING // 64
    assert nodes(converted(torch.randn(enough, 8))) & OURS
    assert not nodes(converted(torch.randn(enough - 1, 8))) & OURS
    assert nodes(converted(torch.randn(enough // 4, 4, 8))) & OURS  # samples in two dimensions
    with torchann.implementation("readable"):
        assert nodes(converted(torch.randn(3, 8))) & OURS


def test_inference_follows_the_size_too(monkeypatch):
    """The sweeps are seen by what calls them: without gradients there is no graph."""
    called, network = [], conversion.network
    monkeypatch.setattr(conversion, "network", lambda *args: called.append(len(args[0])) or network(*args))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
    converted, enough = convert(model), conversion.INFERENCE // 64
    with torch.no_grad():
        for samples in (1, enough - 1, enough):
            x = torch.randn(samples, 8)
            torch.testing.assert_close(converted(x), model(x))
    assert called == [enough]


def test_without_a_sweep_the_bits_are_those_of_pytorch(way):
    model = stack(torch.float32)
    converted, x = convert(model), torch.randn(7, 5)
    if way == "one by one":
        torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0)


@both_ways
def test_a_wrong_input_raises_one_line():
    with pytest.raises(ValueError, match=r"^weights\[0\]: expected shape \[out_features, 4\]"):
        convert(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))(torch.randn(2, 4))


@both_ways
def test_under_autocast_it_computes_what_the_model_does():
    model = nn.Sequential(nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 2), nn.Tanh())
    converted, x = convert(model), torch.randn(7, 5)
    with torch.autocast("cpu"):
        torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0)


@both_ways
def test_training_it_steps_the_original_parameters():
    model = stack()
    converted, before = convert(model), copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted(torch.randn(7, 5, dtype=torch.float64)).sum().backward()
    optimizer.step()
    for (name, now), mine in zip(model.named_parameters(), converted.parameters(), strict=True):
        assert now is mine
        assert not torch.equal(now, before[name]), name


def test_original_is_left_as_it_was():
    model = stack()
    before = repr(model)
    convert(model)
    assert repr(model) == before


def test_state_dict_keys_stay():
    model = stack()
    assert list(convert(model).state_dict()) == list(model.state_dict())


@both_ways
def test_inside_any_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.BatchNorm1d(4))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return torch.sigmoid(self.head(self.body(x)))

    model = Model().double().eval()
    converted, x = convert(model), torch.randn(3, 1, 5, dtype=torch.float64)
    assert [linear for linear, _ in pairs(converted)] == [converted.body[2]]
    assert not converted.body[2].training
    assert converted.body[4].running_mean is model.body[4].running_mean
    torch.testing.assert_close(converted(x), model(x), **EXACT)


@pytest.mark.parametrize(
    "case",
    ["hook on linear", "hook on activation", "another forward", "complex", "empty", "parametrised",
     "with parameters", "called by the subclass", "global hook"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@both_ways
def test_modules_that_a_sweep_cannot_replace_run_by_themselves(case):
    """Also where the reason, such as a hook, arises after the conversion."""
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU() if case == "with parameters" else nn.Tanh())
    x, handle = torch.randn(5, 3), None
    if case == "empty":
        model = nn.Sequential(nn.Linear(3, 0), nn.Tanh())
    elif case == "called by the subclass":
        model = AllOutputs(nn.Linear(3, 4), nn.Tanh())
    elif case == "complex":
        model, x = (
            nn.Sequential(nn.Linear(3, 4, dtype=torch.cfloat), nn.Tanh()),
            torch.randn(5, 3, dtype=torch.cfloat),
        )
    elif case == "parametrised":
        nn.utils.parametrizations.weight_norm(model[0])
    converted = convert(model)
    if case == "hook on linear":
        handle = converted[0].register_forward_hook(lambda *_: None)
    elif case == "hook on activation":
        handle = converted[1].register_forward_pre_hook(lambda *_: None)
    elif case == "another forward":
        converted[0].forward = lambda x: torch.zeros(len(x), 4, requires_grad=True)
    elif case == "global hook":
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    found = nodes(converted(x))
    if handle:
        handle.remove()
    assert not found & OURS


@both_ways
def test_slices_hooks_and_replaced_children():
    model = stack()
    converted, x = convert(model), torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(converted[:-1](x), model[:-1](x), **EXACT)  # without the last layer
    torch.testing.assert_close(converted[:1](x), model[0](x), **EXACT)
    seen = []
    for net in (model, converted):
        net[1].register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output)))
        net(x)
    torch.testing.assert_close(*seen, **EXACT)
    for net in (model, converted):
        net[1] = nn.Tanh()
        net.append(nn.Softmax(-1))
    torch.testing.assert_close(converted(x), model(x), **EXACT)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("subclass", [nn.Sequential, Named])
@both_ways
def test_a_copy_is_still_a_sweep(subclass, copied):
    converted = convert(subclass(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)))
    x = torch.randn(5, 3)
    converted(x)
    again = copied(converted)
    assert type(again) is type(converted)
    assert isinstance(again, subclass)
    assert len(list(pairs(again))) == 1
    torch.testing.assert_close(again(x), converted(x), rtol=0, atol=0)


# --- Modules between layers -------------------------------------------------------------------------------------------


def with_something_between():
    return nn.Sequential(
        nn.Linear(5, 6), nn.Dropout(0.5), nn.Tanh(), nn.Identity(), nn.Linear(6, 4), nn.AlphaDropout(0.3),
        nn.Linear(4, 4), nn.Sigmoid(), nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.Identity(),
    ).double()  # fmt: skip


def runs_in(converted):
    return [len(step.linears) for step in converted.steps() if isinstance(step, conversion.Run)]


@both_ways
def test_dropout_that_drops_nothing_and_identity_do_not_end_a_sweep():
    model = with_something_between()
    converted, x = convert(model), torch.randn(7, 5, dtype=torch.float64)
    assert runs_in(converted.eval()) == [3, 2]
    assert runs_in(converted.train()) == [1, 2]  # the first layer's dropout comes before its activation
    torch.manual_seed(1)
    trained = converted(x)
    torch.manual_seed(1)
    torch.testing.assert_close(trained, model(x), **EXACT)
    for net in (model, converted):
        net[1].p = net[5].p = 0.0
    assert runs_in(converted) == [3, 2]
    torch.testing.assert_close(converted(x), model(x), **EXACT)


@pytest.mark.parametrize("place", [1, 3], ids=["dropout", "identity"])
def test_a_hook_on_a_module_that_does_nothing_is_called(place):
    converted, seen = convert(with_something_between()).eval(), []
    converted[place].register_forward_hook(lambda *_: seen.append(place))
    converted(torch.randn(7, 5, dtype=torch.float64))
    assert seen == [place]


@both_ways
def test_an_activation_whose_settings_change_is_looked_up_anew():
    model = nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(0.2), nn.Linear(6, 4), nn.ELU()).double()
    converted, x = convert(model), torch.randn(7, 5, dtype=torch.float64)
    for slope, alpha in ((0.2, 1.0), (0.7, 0.3)):
        for net in (model, converted):
            net[1].negative_slope, net[3].alpha = slope, alpha
        torch.testing.assert_close(converted(x), model(x), **EXACT)


@both_ways
def test_a_layer_whose_parameter_was_removed_is_called_by_itself():
    """As some libraries do that compute a weight in another way."""
    model = stack()
    converted, x = convert(model), torch.randn(7, 5, dtype=torch.float64)
    expected = converted(x)
    weight = converted[0].weight.detach().clone()
    del converted[0].weight
    converted[0].weight = weight
    torch.testing.assert_close(converted(x), expected, **EXACT)


# --- The report -------------------------------------------------------------------------------------------------------


def test_the_report_says_what_became_of_each_layer_and_why(capsys):

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(64, 64),
                nn.Tanh(),
                nn.Identity(),
                nn.Linear(64, 64),
                nn.Dropout(0.1),
                nn.PReLU(),
                nn.Softmax(-1),
            )
            self.body[3].register_forward_hook(lambda *_: None)
            self.head = nn.Linear(64, 2)

        def forward(self, x):
            return self.head(self.body(x))

    convert(Model(), report=True)
    training, inference = conversion.TRAINING // 64, conversion.INFERENCE // 64
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["body.0", "Linear", f"layer 1 of 1: a sweep from {training} samples on; without gradients, from {inference} on"],
        ["body.1", "Tanh", "activation of layer 1"],
        ["body.2", "Identity", "does nothing, and is left out"],
        ["body.3", "Linear", "called by itself: has hooks or another forward"],
        ["body.4", "Dropout", "called by itself: drops at random"],
        ["body.5", "PReLU", "called by itself: has parameters, so autograd differentiates it"],
        ["body.6", "Softmax", "called by itself: is no layer"],
        ["head", "Linear", 'called by itself: in no nn.Sequential; for torch.compile(model, backend="torchann")'],
    ]  # fmt: skip


def test_the_report_of_a_model_without_layers_is_empty(capsys):
    convert(nn.Softmax(-1), report=True)
    assert capsys.readouterr().out.strip() == ""


# --- The way back -----------------------------------------------------------------------------------------------------

WAYS_TO_TORCHANN = {
    "convert": convert,
    "MLP": MLP.from_sequential,
    "Dense": lambda plain: nn.Sequential(*MLP.from_sequential(plain)),
    "inside": lambda plain: nn.ModuleDict({"a": convert(plain), "b": MLP.from_sequential(plain)}),
}


def plain_stack():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False), nn.Linear(3, 6), nn.ReLU())


@pytest.mark.parametrize("name", WAYS_TO_TORCHANN)
def test_revert_gives_plain_modules_on_the_same_parameters(name):
    plain = plain_stack()
    ours = WAYS_TO_TORCHANN[name](plain).eval()
    back, x = torchann.revert(ours), torch.randn(7, 5)
    assert not any(type(module).__module__.startswith("torchann") for module in back.modules())
    assert [*map(id, back.parameters())] == [*map(id, ours.parameters())]
    assert not any(module.training for module in back.modules())
    for net in back.values() if name == "inside" else [back]:
        torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0)
    assert any(type(module).__module__.startswith("torchann") for module in ours.modules())  # left as it was
    if name == "convert":
        assert list(back.state_dict()) == list(plain.state_dict())


def test_revert_keeps_a_module_that_is_used_twice_one_module():
    shared = torchann.Dense(4, 4, "tanh")
    back = torchann.revert(nn.Sequential(shared, nn.Softmax(-1), shared))
    assert back[0] is back[2]
    assert isinstance(back[0], nn.Sequential)


def test_an_activation_that_torch_nn_lacks_becomes_a_small_module():
    sine = torchann.Activation("sine", torch.sin, torch.cos, lambda z: -torch.sin(z))
    net, x = MLP([3, 4, 2], sine, nn.PReLU()), torch.randn(5, 3)
    back = net.to_sequential()
    assert repr(back[1]) == "Elementwise('sine')"
    assert back[3] is net[1].activation
    torch.testing.assert_close(back(x), net(x))


@pytest.mark.parametrize("name", activations.TABLE)
def test_each_row_of_the_table_reverts_and_converts_back(name):
    net = MLP([3, 4, 2], name, "identity", dtype=torch.float64)
    back, x = net.to_sequential(), torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(back(x), net(x), **EXACT)
    ours, theirs = (torch.autograd.grad(each(x).sin().sum(), [x, *net.parameters()]) for each in (net, back))
    torch.testing.assert_close(theirs, ours, rtol=1e-7, atol=1e-12)  # PyTorch's hardsigmoid has 1/6 in float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP([3, 4], STRAIGHT_THROUGH), r"^model\.layers\.0: autograd would differentiate 'straight through', but"),
        (lambda: hooked(MLP([3, 4])), "^model: expected a plain MLP, got a MLP with hooks; remove hooks before$"),
        (lambda: nn.Sequential(hooked(torchann.Dense(3, 4))), r"^model\.0: expected a plain Dense, got a Dense with hooks"),
        (lambda: nn.utils.parametrizations.weight_norm(torchann.Dense(3, 4)), "^model: expected a plain Dense, got a Para"),
        (lambda: type("Mine", (MLP,), {})([3, 4]), "^model: expected a plain MLP, got a Mine"),
    ],
)  # fmt: skip
def test_revert_refuses_what_plain_modules_would_compute_otherwise(make, message):
    with pytest.raises(ValueError, match=message):
        torchann.revert(make())


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize("name", WAYS_TO_TORCHANN)
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_a_reverted_model_can_be_quantised(name):
    back = torchann.revert(WAYS_TO_TORCHANN[name](plain_stack()))
    quantised = torch.ao.quantization.quantize_dynamic(back, {nn.Linear}, dtype=torch.qint8)
    kinds = [type(module).__module__ for module in quantised.modules() if "Linear" in type(module).__name__]
    assert kinds
    assert all("quantized" in kind for kind in kinds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of the exporter
@pytest.mark.parametrize("name", ["convert", "MLP", "Dense"])
def test_a_reverted_model_can_be_exported_to_onnx(name, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    back = torchann.revert(WAYS_TO_TORCHANN[name](plain_stack())).eval()
    program = torch.onnx.export(back, (torch.randn(7, 5),), dynamo=True, verbose=False)
    operators = [node.op_type for node in program.model.graph]
    assert operators.count("Gemm") + operators.count("MatMul") == 3
    assert {"Tanh", "Relu"} <= {*operators}


def test_a_reverted_model_is_loaded_where_torchann_is_not_installed(tmp_path):
    """Models and their states, each saved from another kind of model."""
    x = torch.randn(7, 5)
    for name in ("convert", "MLP", "Dense"):
        back = torchann.revert(WAYS_TO_TORCHANN[name](plain_stack()))
        torch.save((back, back.state_dict(), x, back(x).detach()), tmp_path / f"{name}.pt")
    (tmp_path / "load.py").write_text(
        "import sys, torch\n"
        "sys.modules['torchann'] = None\n"  # so that importing it fails
        "for path in sys.argv[1:]:\n"
        "    model, state, x, expected = torch.load(path, weights_only=False)\n"
        "    model.load_state_dict(state)\n"
        "    assert torch.equal(model(x), expected)\n"
    )
    command = [sys.executable, tmp_path / "load.py", *tmp_path.glob("*.pt")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
