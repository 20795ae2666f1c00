"""The modules under parametrisations, hooks, pruning, export and the like, compared with `nn.Sequential`."""

import copy

import pytest
import torch
from cases import EXACT
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune

from torchann import MLP, Dense, HalfSquaredErrorLoss


def twins(dtype=torch.float64):
    """One network made of `nn.Linear`, of `Dense`, and as an `MLP`. Their parameters are equal but not shared."""
    linear = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh()).to(dtype)
    dense = copy.deepcopy(nn.Sequential(Dense.from_linear(linear[0], "tanh"), Dense.from_linear(linear[2], "tanh")))
    return linear, dense, copy.deepcopy(MLP.from_sequential(linear))


def linear_layers(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear | Dense)]


def output_and_gradients(model, x):
    x = x.clone().requires_grad_()
    output = model(x)
    output.sin().sum().backward()
    return output, x.grad, *(parameter.grad for parameter in model.parameters())


def assert_same(*models, x=None, **tolerance):
    x = torch.randn(5, 3, dtype=torch.float64) if x is None else x
    expected, *found = (output_and_gradients(model, x) for model in models)
    for one in found:
        torch.testing.assert_close(one, expected, **(tolerance or EXACT))


@pytest.mark.parametrize(
    "reparametrise",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
    ids=lambda f: f.__name__,
)
def test_parametrisations(reparametrise):
    models = twins()
    for model in models:
        for layer in linear_layers(model):
            torch.manual_seed(1)  # spectral_norm draws random vectors
            reparametrise(layer)
    assert_same(*models)
    assert_same(*models)  # once more, as spectral_norm updates its vectors in each forward pass


def test_prune():
    models = twins()
    for model in models:
        for layer in linear_layers(model):
            prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0)
            prune.l1_unstructured(layer, "bias", amount=1)
    assert_same(*models)
    for model in models:
        for layer in linear_layers(model):
            prune.remove(layer, "weight")
    assert_same(*models)


def test_full_backward_hooks():
    seen = []
    models = twins()
    for model in models:
        found = []
        seen.append(found)
        linear_layers(model)[0].register_full_backward_hook(
            lambda _, inputs, outputs, found=found: found.extend(inputs)
        )
        model.register_full_backward_hook(lambda _, inputs, outputs, found=found: found.extend((*inputs, *outputs)))
    assert_same(*models)
    for found in seen[1:]:
        torch.testing.assert_close(found, seen[0], **EXACT)


def test_tied_weights():
    linear = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh()).double()
    linear[2].weight = linear[0].weight
    dense = copy.deepcopy(nn.Sequential(Dense.from_linear(linear[0], "tanh"), Dense.from_linear(linear[2], "tanh")))
    models = linear, dense, copy.deepcopy(MLP.from_sequential(linear))
    assert all(len(list(model.parameters())) == 3 for model in models)
    assert_same(*models)
    x = torch.randn(5, 3, dtype=torch.float64)
    found = [
        grad(lambda parameters, model=model: functional_call(model, parameters, x).sin().sum())(
            dict(model.named_parameters())
        )
        for model in models
    ]
    for one in found[1:]:
        torch.testing.assert_close([*one.values()], [*found[0].values()], **EXACT)


def test_ensemble():
    x = torch.randn(5, 3, dtype=torch.float64)
    members = list(zip(*(twins() for _ in range(4)), strict=True))
    found = []
    for models in members:
        parameters, buffers = stack_module_state(list(models))
        base = copy.deepcopy(models[0]).to("meta")
        error = lambda p, b, base=base: functional_call(base, (p, b), x).sin().sum()  # noqa: E731
        found.append([*vmap(grad(error))(parameters, buffers).values()])
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], **EXACT)


def test_per_sample_gradients_of_an_error():
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    found = []
    for model, loss in zip(
        twins(), (nn.MSELoss(reduction="sum"), HalfSquaredErrorLoss(), HalfSquaredErrorLoss()), strict=True
    ):
        scale = 0.5 if isinstance(loss, nn.MSELoss) else 1
        error = lambda p, x, y, m=model, e=loss, s=scale: s * e(functional_call(m, p, x), y)  # noqa: E731
        found.append([*vmap(grad(error), (None, 0, 0))(dict(model.named_parameters()), x, y).values()])
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], **EXACT)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_export(strict):
    x = torch.randn(5, 3, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=2)
    linear, *ours = twins()
    for model in ours:
        program = torch.export.export(model, (x,), dynamic_shapes=[{0: batch}], strict=strict).module()
        for size in (5, 7):
            assert_same(linear, program, x=torch.randn(size, 3, dtype=torch.float64))
            linear.zero_grad()
            program.zero_grad()


def test_compiled_modules():
    models = twins()
    assert_same(models[0], *(torch.compile(model, fullgraph=True, backend="aot_eager") for model in models[1:]))


def test_compiled_network_with_hooks_on_a_layer():
    linear, _, mlp = twins()
    mlp.layers[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    linear[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    torch._dynamo.reset()  # else it uses what it compiled for another module, without a look at the hooks
    assert_same(linear, torch.compile(mlp, fullgraph=True, backend="aot_eager"))


def test_to_other_dtypes():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        linear, *ours = (model.to(dtype) for model in twins())
        x = torch.randn(5, 3, dtype=dtype)
        for model in ours:
            assert model(x).dtype == dtype
            torch.testing.assert_close(model(x), linear(x))


def test_default_device_and_dtype():
    with torch.device("meta"):
        assert {p.device.type for p in MLP([3, 4, 2]).parameters()} == {"meta"}
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        assert {(p.device.type, p.dtype) for p in Dense(3, 4).parameters()} == {("meta", torch.float64)}
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_materialising_from_meta():
    mlp = MLP([3, 4, 2], device="meta").to_empty(device="cpu")
    mlp.reset_parameters()
    assert torch.isfinite(mlp(torch.randn(5, 3))).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_trains_float32_parameters(dtype):
    """With GradScaler, as in mixed-precision training; the parameters and their gradients stay float32."""
    x, y = torch.randn(8, 3), torch.randn(8, 3)
    steps = []
    for model in twins(torch.float32):
        scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=64.0), torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                output = model(x)
                error = (output.float() - y).square().sum() / 2
            assert output.dtype == dtype
            scaler.scale(error).backward()
            assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
            scaler.step(optimizer)
            scaler.update()
        steps.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    for found in steps[1:]:
        assert (found - steps[0]).norm() <= 3 * torch.finfo(dtype).eps * steps[0].norm()  # three steps


def test_loss_under_autocast_is_float32():
    output, target = torch.randn(4, 3, dtype=torch.bfloat16), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        error = HalfSquaredErrorLoss()(output, target)
    assert error.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_to_another_device():
    linear, *ours = (model.to("cuda") for model in twins())
    assert_same(linear, *ours, x=torch.randn(5, 3, dtype=torch.float64, device="cuda"))
