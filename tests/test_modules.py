import copy
import math
import pickle

import pytest
import torch
from cases import ACTIVATIONS, EXACT, ROWS, check_all_modes, own_callable, plain
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import torchann
from torchann import MLP, Dense, HalfSquaredErrorLoss, activations, convert


def as_function(module):
    """The module as a function of the input and the parameters, so that checks can perturb all of them."""
    names = [name for name, _ in module.named_parameters()]
    return lambda x, *tensors: torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), x)


class TestDense:
    @pytest.mark.parametrize("bias", [True, False])
    def test_state_dict_is_that_of_linear(self, bias):
        linear, dense = nn.Linear(3, 4, bias=bias), Dense(3, 4, bias=bias)
        assert list(dense.state_dict()) == list(linear.state_dict())
        dense.load_state_dict(linear.state_dict())
        torch.testing.assert_close(dense.state_dict(), linear.state_dict(), rtol=0, atol=0)

    def test_factory_arguments(self):
        dense = Dense(3, 4, device="meta", dtype=torch.float64)
        assert {(p.device.type, p.dtype) for p in dense.parameters()} == {("meta", torch.float64)}

    @pytest.mark.parametrize("name", ROWS)
    def test_initialisation_suits_the_activation(self, name):
        torch.manual_seed(0)
        dense = Dense(3, 4, name)
        torch.manual_seed(0)
        torch.testing.assert_close(dense.weight.detach(), activations.get(name).init(torch.empty(4, 3)), rtol=0, atol=0)
        assert not dense.bias.any()

    @pytest.mark.parametrize(("name", "per_variance"), [("relu", 300), ("sigmoid", 300 + 200)])  # Kaiming, Xavier
    def test_initialisation_is_uniform(self, name, per_variance):
        dense = Dense(300, 200, name)
        bound = math.sqrt(6 / per_variance)
        assert 0.98 * bound < dense.weight.abs().max() <= bound
        assert dense.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)

    def test_reset_parameters_draws_anew(self):
        dense = Dense(3, 4)
        before = dense.weight.clone()
        nn.init.ones_(dense.bias)
        dense.reset_parameters()
        assert not torch.equal(dense.weight, before)
        assert not dense.bias.any()

    def test_repr(self):
        assert repr(Dense(3, 4, bias=False)) == "Dense(in_features=3, out_features=4, activation='sigmoid', bias=False)"
        assert "activation='own_callable'" in repr(Dense(3, 4, own_callable))

    @pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
    def test_gradients(self, activation):
        dense = Dense(3, 2, activation, dtype=torch.float64)
        x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(dense(x), plain(x, [dense.weight], [dense.bias], [activation]), **EXACT)
        check_all_modes(as_function(dense), (x, *dense.parameters()))

    @pytest.mark.parametrize("module", [nn.PReLU(), nn.PReLU(4), nn.RReLU()], ids=str)
    @pytest.mark.parametrize("training", [True, False])
    def test_a_module_with_parameters_or_random_numbers_runs_by_autograd(self, module, training):
        """With the same random numbers as in plain PyTorch."""
        dense, x = Dense(3, 4, module).train(training), torch.randn(5, 3)
        tensors, found = [dense.weight, dense.bias, *module.parameters()], []
        for layer in (dense, lambda x: module(F.linear(x, dense.weight, dense.bias))):
            torch.manual_seed(1)
            found.append(torch.autograd.grad(layer(x).square().sum(), tensors))
        torch.testing.assert_close(*found)

    @pytest.mark.parametrize("module", [nn.Softmax(-1), nn.GLU()], ids=str)
    def test_a_module_that_is_not_elementwise_is_refused(self, module):
        with pytest.raises(TypeError, match="activation: expected an elementwise function, got"):
            Dense(3, 4, module)
        model, x = nn.Sequential(nn.Linear(3, 4), module), torch.randn(5, 3)
        torch.testing.assert_close(convert(model)(x), model(x))

    def test_module_as_activation_is_a_child(self):
        dense = Dense(3, 4, nn.PReLU())
        dense(torch.randn(5, 3)).sum().backward()
        assert dense.activation.weight.grad is not None
        assert set(dense.state_dict()) == {"weight", "bias", "activation.weight"}

    @pytest.mark.parametrize("module", [nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardtanh, nn.ReLU])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_an_activation_in_place(self, module, compiled):
        """Also in a frozen network, which computes no gradient."""
        seq = nn.Sequential(nn.Linear(3, 4), module(inplace=True), nn.Linear(4, 2)).double()
        x, parameters = torch.randn(5, 3, dtype=torch.float64), list(seq.parameters())
        expected = torch.autograd.grad(seq(x).square().sum(), parameters)
        for net in (convert(seq), MLP.from_sequential(seq)):
            called = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net
            found = torch.autograd.grad(called(x).square().sum(), parameters)
            torch.testing.assert_close(found, expected, **EXACT)
            torch.testing.assert_close(copy.deepcopy(net).requires_grad_(False)(x), seq(x).detach(), **EXACT)
            pickle.loads(pickle.dumps(net))

    def test_from_linear_shares_the_parameters(self):
        linear = nn.Linear(3, 4).eval()
        dense = Dense.from_linear(linear, "tanh")
        assert dense.weight is linear.weight
        assert dense.bias is linear.bias
        assert not dense.training
        torch.testing.assert_close(dense(torch.ones(3)), torch.tanh(linear(torch.ones(3))))

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: Dense(0, 4), ValueError, "in_features: expected a positive integer, got 0"),
            (lambda: Dense(3, 4.0), ValueError, "out_features: expected a positive integer, got 4.0"),
            (lambda: Dense(3, 4, "sigmod"), ValueError, "unknown name 'sigmod'"),
            (lambda: Dense(3, 4, dtype=torch.cfloat), TypeError, "dtype: expected a real floating-point dtype"),
            (lambda: Dense.from_linear(nn.Sigmoid()), TypeError, "linear: expected an nn.Linear, got Sigmoid"),
            (lambda: Dense.from_linear(nn.Linear(2, 2, dtype=torch.cfloat)), TypeError, "dtype: expected a real"),
            (lambda: Dense(3, 4)(torch.ones(2, 5)), ValueError, r"weight: expected shape \[out_features, 5\]"),
            (lambda: MLP([3]), ValueError, r"sizes: expected at least an input and an output width, got \[3\]"),
            (lambda: MLP([3, -1]), ValueError, r"sizes\[1\]: expected a positive integer, got -1"),
            (lambda: HalfSquaredErrorLoss("avg"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'avg'"),
        ],
    )
    def test_bad_arguments_are_named(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


class TestMLP:
    def test_activations(self):
        names = [activation.name for activation in MLP([2, 3, 4, 5], "tanh").activations]
        assert names == ["tanh", "tanh", "tanh"]
        names = [activation.name for activation in MLP([2, 3, 4, 5], "tanh", "identity").activations]
        assert names == ["tanh", "tanh", "identity"]

    def test_parameters(self):
        mlp = MLP([2, 3, 4])
        assert [tuple(weight.shape) for weight in mlp.weights] == [(3, 2), (4, 3)]
        assert [tuple(bias.shape) for bias in mlp.biases] == [(3,), (4,)]
        assert {*map(id, mlp.parameters())} == {*map(id, (*mlp.weights, *mlp.biases))}
        assert MLP([2, 3, 4], bias=False).biases == [None, None]

    @pytest.mark.parametrize("bias", [True, False])
    def test_gradients(self, bias):
        mlp = MLP([3, 4, 2], "tanh", "identity", bias=bias, dtype=torch.float64)
        x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(mlp(x), plain(x, mlp.weights, mlp.biases, mlp.activations), **EXACT)
        check_all_modes(as_function(mlp), (x, *mlp.parameters()))

    def test_from_sequential(self):
        seq = nn.Sequential(
            nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 5, bias=False), nn.PReLU(), nn.Linear(5, 2)
        ).double()
        mlp, x = MLP.from_sequential(seq), torch.randn(6, 3, dtype=torch.float64)
        torch.testing.assert_close(mlp(x), seq(x), **EXACT)
        assert {*map(id, mlp.parameters())} == {*map(id, seq.parameters())}

    @pytest.mark.parametrize(
        ("seq", "message"),
        [
            (
                nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Dropout()),
                r"seq\[2\]: expected an nn.Linear, got Dropout",
            ),
            (nn.Sequential(nn.Tanh()), r"seq\[0\]: expected an nn.Linear, got Tanh"),
            (nn.Sequential(), "seq: expected at least one nn.Linear, got none"),
        ],
    )
    def test_from_sequential_refuses_other_modules(self, seq, message):
        with pytest.raises(ValueError, match=message):
            MLP.from_sequential(seq)

    def test_hooks_of_a_layer_run(self):
        mlp, seen = MLP([3, 4, 2]), []
        x = torch.randn(5, 3)
        expected = mlp(x)
        mlp.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        torch.testing.assert_close(mlp(x), expected)
        assert seen == [(5, 4)]

    def test_pruned_layer_trains(self):
        mlp = MLP([3, 4, 2])
        prune.l1_unstructured(mlp.layers[0], "weight", amount=0.5)
        for _ in range(2):  # the mask is applied anew in each forward pass
            mlp(torch.randn(5, 3)).sum().backward()
        assert (mlp.layers[0].weight == 0).sum() == 6

    def test_replaced_forward_is_called(self):
        mlp, x = MLP([3, 4, 2]), torch.randn(5, 3)
        mlp.layers[0].forward = lambda x: x.new_ones(len(x), 4)
        torch.testing.assert_close(mlp(x), mlp.layers[1](torch.ones(5, 4)))

    def test_replaced_layer_is_called(self):
        mlp = MLP([3, 4, 2])
        mlp.layers[1] = nn.Linear(4, 7)
        assert mlp(torch.randn(5, 3)).shape == (5, 7)


class TestMLPAsAContainer:
    def test_length_iteration_and_indices(self):
        mlp = MLP([3, 4, 5, 2], checkpoint=2)
        assert len(mlp) == 3
        assert list(mlp) == list(mlp.layers) == [mlp[0], mlp[1], mlp[-1]]
        with pytest.raises(IndexError):
            mlp[3]

    def test_slices_are_networks_on_the_same_layers(self):
        mlp, x = MLP([3, 4, 5, 2], "tanh", "identity", checkpoint=2).eval(), torch.randn(7, 3)
        head, tail = mlp[:2], mlp[2:]
        assert list(head) == [mlp[0], mlp[1]]
        assert head.checkpoint == 2
        assert not head.training
        torch.testing.assert_close(tail(head(x)), mlp(x))
        with pytest.raises(ValueError, match=r"^index: expected a slice with at least one of the 3 layers, got slice"):
            mlp[3:]


class TestStateOfASequential:
    @pytest.mark.parametrize("place", ["alone", "inside"])
    def test_is_loaded(self, place):
        seq = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 4, bias=False), nn.Linear(4, 2), nn.Tanh())
        mlp = MLP.from_sequential(copy.deepcopy(seq))
        for parameter in mlp.parameters():
            nn.init.zeros_(parameter)
        theirs, ours = (nn.ModuleDict({"net": each}) if place == "inside" else each for each in (seq, mlp))
        state = theirs.state_dict()
        before = list(state)
        ours.load_state_dict(state)
        assert list(state) == before
        x = torch.randn(5, 3)
        torch.testing.assert_close(mlp(x), seq(x))

    @pytest.mark.parametrize(
        ("seq", "message"),
        [
            (nn.Sequential(nn.Linear(3, 4), nn.Tanh()), "expected the state of 2 linear layers, got that of 1: 0.weight"),
            (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)), "size mismatch for layers.1.weight"),
            (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), 'Unexpected key.* "1.weight", "1.bias"'),
        ],
    )  # fmt: skip
    def test_that_does_not_fit_is_refused(self, seq, message):
        with pytest.raises(RuntimeError, match=message):
            MLP([3, 4, 2]).load_state_dict(seq.state_dict())

    def test_a_state_of_its_own_is_loaded_as_before(self):
        mlp, other = MLP([3, 4, 2]), copy.deepcopy(MLP([3, 4, 2]))
        other.load_state_dict(mlp.state_dict())
        torch.testing.assert_close(other.state_dict(), mlp.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_module(reduction):
    output, target = torch.randn(2, 4, 3)
    loss = HalfSquaredErrorLoss(reduction)
    assert repr(loss) == f"HalfSquaredErrorLoss(reduction={reduction!r})"
    torch.testing.assert_close(
        loss(output, target), torchann.functional.half_squared_error(output, target, reduction), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "module", [Dense(3, 4), MLP([3, 4, 2], "tanh", nn.Softplus()), HalfSquaredErrorLoss("sum")], ids=repr
)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_compute_the_same(module, duplicate):
    twin = duplicate(module)
    inputs = (torch.randn(2, 3), torch.randn(2, 3))[: 2 if isinstance(module, HalfSquaredErrorLoss) else 1]
    torch.testing.assert_close(twin(*inputs), module(*inputs), rtol=0, atol=0)
    assert not {*map(id, twin.parameters())} & {*map(id, module.parameters())}
