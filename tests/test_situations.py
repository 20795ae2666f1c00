"""The modules where users put them, against `nn.Sequential(nn.Linear, activation)` on the same parameters.

A matrix of models and situations; each situation came from a public report about somebody's own layers. A new model or
situation joins by a row.
"""

import copy
import io
import re
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from cases import EXACT, REPRESENTATIVES
from torch import nn
from torch.func import linearize
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import torchann
from torchann import MLP, Activation, Dense, convert


class OwnSiLU(nn.SiLU):
    """A subclass, which the table does not know."""


PLAIN = {
    "own silu": OwnSiLU,
    **{
        name: next(each for each in row.equivalents if isinstance(each, type))
        for name, row in REPRESENTATIVES.items()
        if name != "hardsigmoid" and any(isinstance(each, type) for each in row.equivalents)  # see `cases.hardsigmoid`
    },
}


def stack(names, widths):
    """nn.Linear and activation, layer after layer."""
    linears = [nn.Linear(*pair, dtype=torch.float64) for pair in pairwise(widths)]
    return nn.Sequential(
        *(module for linear, name in zip(linears, names, strict=True) for module in (linear, PLAIN[name]()))
    )


def pair(names, make, widths=(5, 7, 6, 3)):
    twin = stack(names, widths[: len(names) + 1])
    return make(twin), twin


def checkpointed(twin):
    net = MLP.from_sequential(twin)
    net.checkpoint = 2
    return net


MODELS = {
    "Dense": partial(pair, ["sigmoid"], lambda twin: Dense.from_linear(twin[0], twin[1])),
    "Dense, identity": partial(pair, ["identity"], lambda twin: Dense.from_linear(twin[0], "identity")),
    "Dense, a module": partial(pair, ["own silu"], lambda twin: Dense.from_linear(twin[0], OwnSiLU())),
    "MLP": partial(pair, ["sigmoid", "tanh", "sigmoid"], MLP.from_sequential),
    "MLP, relu and a linear output": partial(pair, ["relu", "relu", "identity"], MLP.from_sequential),
    "MLP, a module in the middle": partial(pair, ["tanh", "own silu", "identity"], MLP.from_sequential),
    "MLP, checkpointed": partial(pair, ["tanh", "relu", "sigmoid"], checkpointed),
    "converted": partial(pair, ["relu", "tanh", "identity"], convert),
}
pytestmark = pytest.mark.usefixtures("always_sweep")
ours_and_plain = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def sample(*leading, **options):
    return torch.randn(*(leading or (4,)), 5, dtype=torch.float64, **options)


def gradients(model, x, call=None):
    """Of a scalar that weighs each output differently, by x (if it needs one) and each parameter."""
    wanted = [x] * x.requires_grad + list(model.parameters())
    return torch.autograd.grad((call or model)(x).sin().sum(), wanted)


# --- Who looks at single operations -----------------------------------------------------------------------------------


@ours_and_plain
@pytest.mark.parametrize("mutation", [False, True])
def test_selective_checkpointing(model, mutation):
    net, twin = model()
    saved = [torch.ops.aten.addmm.default, torch.ops.aten.sigmoid.default, torch.ops.aten.relu.default]
    policy = lambda ctx, op, *_, **__: CheckpointPolicy.MUST_SAVE if op in saved else CheckpointPolicy.PREFER_RECOMPUTE  # noqa: E731
    contexts = partial(create_selective_checkpoint_contexts, policy, allow_cache_entry_mutation=mutation)
    x = sample(requires_grad=True)
    found = gradients(net, x, lambda x: checkpoint(net, x, use_reentrant=False, context_fn=contexts))
    torch.testing.assert_close(found, gradients(twin, x), **EXACT)


@ours_and_plain
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
def test_linearize(model):
    net, twin = model()
    x, direction = sample(), sample()
    found, expected = (linearize(f, x) for f in (net, twin))
    torch.testing.assert_close(found[1](direction), expected[1](direction), **EXACT)


@ours_and_plain
def test_flops_by_module(model):
    """The totals are those of the twin, and an MLP's layers are counted one by one."""
    net, twin = model()
    counts = []
    for each in (net, twin):
        with FlopCounterMode(display=False) as counter:
            each(sample(requires_grad=True)).sum().backward()
        counts.append(counter)
    assert counts[0].get_total_flops() == counts[1].get_total_flops() or isinstance(net, MLP)  # checkpoints cost more
    if isinstance(net, MLP):
        assert {f"MLP.layers.{index}" for index in range(len(net.layers))} <= set(counts[0].get_flop_counts())


@pytest.mark.slow
@ours_and_plain
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")  # from PyTorch's compiler
def test_compiled_autograd_over_an_eager_forward(model, needs):
    net, twin = model()
    x = sample(requires_grad=needs)
    torch.compiler.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        net(x).sin().sum().backward()
    found = [tensor.grad for tensor in ([x] * needs + list(net.parameters()))]
    torch.testing.assert_close(found, list(gradients(twin, x)), **EXACT)


# --- Programs that are recorded ---------------------------------------------------------------------------------------


@ours_and_plain
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_traced_saved_and_trained(model):
    net, twin = model()
    x, file = sample(), io.BytesIO()
    torch.jit.save(torch.jit.trace(net, x), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    torch.testing.assert_close(loaded(x), twin(x), **EXACT)
    torch.testing.assert_close(gradients(loaded, x), gradients(twin, x), **EXACT)


@ours_and_plain
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_graph_in_tensorboard(model, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_graph(model()[0], sample())


@ours_and_plain
def test_symbolic_trace(model):
    net, twin = model()
    x = sample()
    graph = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(graph(x), twin(x), **EXACT)
    torch.testing.assert_close(gradients(graph, x), gradients(twin, x), **EXACT)


@ours_and_plain
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script(model):
    """TorchScript reads the modules of a converted model; for an MLP or Dense the error names an alternative."""
    net, twin = model()
    if isinstance(net, nn.Sequential):
        x = sample()
        torch.testing.assert_close(torch.jit.script(net)(x), twin(x), **EXACT)
    else:
        with pytest.raises(TypeError, match=r"torch\.jit\.script: .* use torch\.jit\.trace or torch\.export"):
            torch.jit.script(net)


@ours_and_plain
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_an_exported_module_trains(model, strict):
    net, twin = model()
    x = sample()
    program = torch.export.export(net, (x,), strict=strict).module()
    assert program(x).requires_grad
    torch.testing.assert_close(gradients(program, x), gradients(twin, x), **EXACT)


def test_a_df_that_is_not_the_derivative_is_refused_by_what_records_f_alone():
    flat = Activation("flat", torch.sin, torch.cos, torch.zeros_like)  # its d2f is wrong, its df is right
    for record in (lambda net: torch.export.export(net, (sample(),)), torch.fx.symbolic_trace):
        with pytest.raises(
            RuntimeError, match=r"'flat': .* its d2f is not the derivative of its df, e\.g\. at z = -8;"
        ):
            record(Dense(5, 3, flat, dtype=torch.float64))
    sine = Activation("sine", torch.sin, torch.cos, lambda z: -torch.sin(z))
    torch.fx.symbolic_trace(Dense(5, 3, sine, dtype=torch.float64))


@ours_and_plain
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")  # of torch.package itself
def test_packaged(model, tmp_path):
    check_packaged(model()[0], tmp_path)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_packaged_with_parameters_of_an_activation(tmp_path):
    check_packaged(MLP([5, 7, 3], "leaky_relu:0.2", "softplus:2,10", dtype=torch.float64), tmp_path)


def check_packaged(net, folder):
    with torch.package.PackageExporter(folder / "package") as exporter:
        exporter.intern("torchann.**")
        exporter.extern("**")
        exporter.save_pickle("net", "net.pkl", net)
    loaded = torch.package.PackageImporter(folder / "package").load_pickle("net", "net.pkl")
    x = sample()
    torch.testing.assert_close(gradients(loaded, x), gradients(net, x), rtol=0, atol=0)


# --- Which gradients there are, and what is kept for them -------------------------------------------------------------


def found_or_none(model, x, order):
    found = model(x).square().sum()
    for _ in range(order):
        slopes = torch.autograd.grad(found, x, create_graph=True)
        found = slopes[0].square().sum()
    return torch.autograd.grad(found, [x, *model.parameters()], allow_unused=True)


@ours_and_plain
@pytest.mark.parametrize("order", [1, 2])
def test_none_and_zeros_as_pytorch_gives_them(model, order):
    """The difference matters: with weight decay or Adam a parameter moves if its gradient is zero, not if it is None."""
    net, twin = model()
    x = sample(requires_grad=True)
    found, expected = found_or_none(net, x, order), found_or_none(twin, x, order)
    assert [gradient is None for gradient in found] == [gradient is None for gradient in expected]
    for mine, reference in zip(found, expected, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("samples", [4, 2000])  # one for the sweeps of small networks, one for the others
def test_second_derivative_of_relu_is_zeros(samples):
    net = MLP([50, 70, 30], "relu", output_activation="identity", dtype=torch.float64)
    x = torch.randn(samples, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    second = torch.autograd.grad(slope.sum(), [x, net.layers[0].bias])
    assert not any(gradient.any() for gradient in second)


@ours_and_plain
@pytest.mark.parametrize("needs", [False, True])
def test_output_may_be_changed_in_place_where_pytorch_lets_it(model, needs):
    net, twin = model()
    raised = []
    for each in (net, twin):
        h = each(sample(requires_grad=needs))
        h += 1
        try:
            h.sum().backward()
            raised.append(False)
        except RuntimeError:
            raised.append(True)
    assert raised[0] <= raised[1]


def saved(model, x):
    """The bytes that the graph keeps beside the parameters, each storage counted once; and the output."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    return sum(size for place, size in kept.items() if place not in own), output


SUBSETS = [needs for needs in product([False, True], repeat=9) if any(needs)]  # of x, W₁ … W₄, b₁ … b₄


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("make", [MLP.from_sequential, convert])
@pytest.mark.parametrize("samples", [8, 1500])  # one for the sweeps of small networks, one for the others
def test_never_keeps_more_than_pytorch(name, make, samples):
    """For every choice of which tensors need a gradient."""
    widths = (40, 60, 50, 60, 50)
    net, twin = pair([name] * 3 + ["identity"], make, widths)
    x = torch.randn(samples, 40, dtype=torch.float64)
    for needs in SUBSETS if samples == 8 else SUBSETS[::17]:
        linears = [module for module in twin if isinstance(module, nn.Linear)]
        tensors = [x, *(linear.weight for linear in linears), *(linear.bias for linear in linears)]
        for tensor, need in zip(tensors, needs, strict=True):
            tensor.requires_grad_(need)
        (ours, output), (theirs, expected) = saved(net, x), saved(twin, x)
        assert ours <= theirs, needs
        wanted = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
        torch.testing.assert_close(
            torch.autograd.grad(output.sin().sum(), wanted), torch.autograd.grad(expected.sin().sum(), wanted), **EXACT
        )


@ours_and_plain
def test_parameters_that_pytorch_does_not_keep_may_change_before_backward(model):
    net, twin = model()
    x = sample()
    first = next(net.parameters())
    found, before = net(x).sin().sum(), gradients(twin, x)
    if getattr(net, "checkpoint", None) is None:  # with checkpoints, backward runs the forward pass once more
        with torch.no_grad():
            first.mul_(2)
            twin[0].bias.mul_(2)
    torch.testing.assert_close(torch.autograd.grad(found, list(net.parameters())), before, **EXACT)


def test_inference_tensors_where_pytorch_takes_them():
    with torch.inference_mode():
        x = sample()
    for frozen in ("0.weight", "0."):
        net, twin = MODELS["MLP"]()
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
        found, expected = (torch.autograd.grad(each(x).sum(), wanted) for each in (net, twin))
        torch.testing.assert_close(found, expected, **EXACT)


def test_a_computed_bias_that_was_changed_in_place_is_noticed():
    base = torch.randn(3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    bias = base * 2
    output = torchann.functional.dense(sample(), weight, bias)
    bias.mul_(2)
    with pytest.raises(RuntimeError, match="was changed in place after the forward pass"):
        torch.autograd.grad(output.sum(), weight, create_graph=True)


def test_a_callable_runs_once_a_layer():
    calls = []
    net = MLP([3, 4, 2], lambda z: calls.append(z.shape) or torch.sin(z)).requires_grad_(False)
    net(torch.randn(5, 3))
    assert len(calls) == 2


# --- Other tensors and other modules ----------------------------------------------------------------------------------


@ours_and_plain
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors(model, layout):
    net, twin = model()
    x = torch.nested.nested_tensor([sample(2), sample(3)], layout=layout)
    try:
        expected = twin(x)
    except NotImplementedError:
        pytest.skip("nn.Sequential does not take it either")
    found = net(x)
    for mine, reference in zip(found.unbind(), expected.unbind(), strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)
    if layout is torch.jagged:
        assert found.shape == expected.shape
        by_both = [
            torch.autograd.grad(output.values().sin().sum(), list(each.parameters()))
            for each, output in ((net, found), (twin, expected))
        ]
        torch.testing.assert_close(*by_both, **EXACT)


@ours_and_plain
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_weight_or_bias_that_is_no_parameter(model, name):
    """Some libraries remove the parameter and set a computed tensor as an attribute of the same name."""
    net, twin = model()
    x = sample()
    expected = twin(x)
    for module in net.modules():
        if isinstance(module, Dense | nn.Linear):
            taken = module._parameters.pop(name)
            setattr(module, name, taken.detach() * 1)
    torch.testing.assert_close(net(x), expected, **EXACT)


def test_lazy_layers():
    lazy = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    with pytest.raises(ValueError, match="got a LazyLinear that has seen no input yet; call the model once before"):
        MLP.from_sequential(lazy)
    converted = convert(lazy)
    assert converted(torch.randn(2, 5)).shape == (2, 3)
    lazy(torch.randn(2, 5))
    assert MLP.from_sequential(lazy).layers[0].in_features == 5


@ours_and_plain
def test_global_hooks_see_each_layer(model):
    net, _ = model()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    net(sample())
    handle.remove()
    assert {module for module in net.modules() if isinstance(module, Dense | nn.Linear)} <= set(seen)


@ours_and_plain
def test_subclasses_of_tensor(model):
    from torch.testing._internal.two_tensor import TwoTensor

    net, twin = model()
    x = TwoTensor(sample(), sample())
    torch.testing.assert_close(net(x).a, twin(x.a), **EXACT)
    torch.testing.assert_close(gradients(net, x), gradients(twin, x.a), **EXACT)


def test_tools_that_look_for_modules_by_type():
    """They find in a converted model what they find in the original."""
    net, twin = MODELS["converted"]()
    assert [type(module) for module in net.modules()][1:] == [type(module) for module in twin.modules()][1:]
    seen = []
    net.apply(lambda module: seen.append(module) if isinstance(module, nn.Linear) else None)
    assert len(seen) == 3
    x = sample()
    logits = copy.deepcopy(net)[:-1]
    torch.testing.assert_close(logits(x), twin[:-1](x), **EXACT)
    relu = net[1]
    inside = []
    relu.register_forward_hook(lambda module, inputs, output: inside.extend([*inputs, output]))
    net(x)
    torch.testing.assert_close(inside, [twin[0](x), torch.relu(twin[0](x))], **EXACT)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_quantised_layers_run_by_themselves():
    _, twin = MODELS["converted"]()
    twin = twin.float()
    net, reference = (
        torch.ao.quantization.quantize_dynamic(each, {nn.Linear}, dtype=torch.qint8) for each in (convert(twin), twin)
    )
    x = sample().float()
    assert not any(type(module) is nn.Linear for module in net.modules())
    torch.testing.assert_close(net(x), reference(x), rtol=0, atol=0)


# --- torchann's own source --------------------------------------------------------------------------------------------

ROOT = Path(torchann.__file__).parent
PRIVATE = re.compile(
    r"torch\.(?:\w+\.)*_(?!_version__)\w+"  # torch._C, torch.nn.modules.module._global…
    r"|from torch[\w.]* import .*\b_\w+|from torch\.[\w.]*\b_\w+|import torch\._"
    r"|forward_ad\._\w+|\._(?:modules|parameters|buffers|forward_hooks|forward_pre_hooks|backward_hooks|compiled_call_impl)\b"
)


def test_private_names_of_pytorch_are_in_one_module():
    """Names below `torch.ops` don't count: it is public, though its operators may begin with an underscore."""
    found = {}
    for path in ROOT.rglob("*.py"):
        text = re.sub(r"torch\.ops\.[\w.]+", "", path.read_text(encoding="utf-8"))
        if names := PRIVATE.findall(text):
            found[path.relative_to(ROOT).as_posix()] = names
    assert set(found) == {"transforms.py"}, found
