"""The modules: `Dense`, `MLP` and `HalfSquaredErrorLoss`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from torchann import activations as table
from torchann.activations import Activation, ActivationLike
from torchann.functional.layers import check_checkpoint, check_reduction, half_squared_error, infer, network
from torchann.functions import Reduction
from torchann.transforms import (
    grandchildren,
    has_global_hooks,
    has_hooks,
    own_attribute,
    weight_and_bias,
    weights_and_biases,
)


class Dense(nn.Module):
    """A linear layer with its activation, o = f(x Wᵀ + b): `nn.Sequential(nn.Linear(…), nn.Sigmoid())` in one.

    Its state_dict is that of `nn.Linear`. W is initialised to suit the activation (Xavier; Kaiming for relu), b with 0.

    Args:
        in_features: I, how many inputs.
        out_features: O, how many neurons.
        activation: a name, an `Activation` or a differentiable elementwise callable; an `nn.Module` becomes a child.
        bias: whether there is a b.
        device: of the parameters.
        dtype: of the parameters.

    Shapes:
        input [*, I], output [*, O], weight [O, I], bias [O].

    Raises:
        ValueError: a size is not a positive integer, or the activation's name is unknown.
        TypeError: the activation is no name, `Activation` or callable, or the dtype is not a real floating-point one.

    Example:
        >>> Dense(3, 4, "tanh")
        Dense(in_features=3, out_features=4, activation='tanh')
        >>> Dense(3, 4)(torch.randn(2, 7, 3)).shape
        torch.Size([2, 7, 4])
    """

    weight: Tensor
    bias: Tensor | None
    activation: Activation | nn.Module
    rows: dict[nn.Module, Activation]  # of activations that are modules: making a row takes longer than a small layer

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: ActivationLike = "sigmoid",
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        check_dtype(dtype)
        self.activation = as_attribute(activation)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    @classmethod
    def from_linear(cls, linear: nn.Linear, activation: ActivationLike = "sigmoid") -> Self:
        """A `Dense` on the same `Parameter` objects as the `nn.Linear`.

        Args:
            linear: the layer whose weight [O, I] and bias [O] the `Dense` shares. Its hooks are not copied.
            activation: as in `Dense`.

        Raises:
            TypeError: linear is not an `nn.Linear`, or its dtype is not a real floating-point one.
            ValueError: linear is lazy and has seen no input yet.

        Example:
            >>> linear = nn.Linear(3, 4)
            >>> Dense.from_linear(linear, "relu").weight is linear.weight
            True
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear: expected an nn.Linear, got {type(linear).__name__}")
        if isinstance(linear.weight, nn.UninitializedParameter):
            raise ValueError(
                f"linear: expected a layer of known sizes, got a {type(linear).__name__} that has seen no input yet; "
                "call the model once before"
            )
        check_dtype(linear.weight.dtype)
        has_bias = linear.bias is not None
        dense = cls(linear.in_features, linear.out_features, activation, bias=has_bias, device="meta")
        dense.weight = linear.weight
        dense.bias = linear.bias
        return dense.train(linear.training)

    def reset_parameters(self) -> None:
        table.get(self.activation).init(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = weight_and_bias(self) or (self.weight, self.bias)
        layers = [weight], [bias], [self.row_of(own_attribute(self, "activation"))]
        if not torch.is_grad_enabled():
            output = infer(x, *layers)
            if output is not None:
                return output
        return network(x, *layers, "weight", "bias")

    def row_of(self, activation: Activation | nn.Module) -> Activation:
        if type(activation) is Activation:
            return activation
        if torch.compiler.is_compiling():
            return table.get(activation)
        rows = self.__dict__.setdefault("rows", {})
        row = rows.get(activation)
        if row is None:
            row = rows[activation] = table.get(activation)
        return row

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "rows"}

    def __prepare_scriptable__(self) -> None:
        refuse_script(self)

    def extra_repr(self) -> str:
        activation = "" if isinstance(self.activation, nn.Module) else f", activation={self.activation.name!r}"
        bias = "" if self.bias is not None else ", bias=False"
        return f"in_features={self.in_features}, out_features={self.out_features}{activation}{bias}"


class MLP(nn.Module):
    """A network of `Dense` layers that runs as one sweep forward and one sweep backward.

    Like an `nn.Sequential` it has a length, an iterator over its layers, and indices: `net[0]` is a `Dense`, `net[:-1]`
    an `MLP` on the same layers. `load_state_dict` also takes the state of an `nn.Sequential` of `nn.Linear` and
    activations, with keys such as `0.weight` and `2.weight`.

    Args:
        sizes: the widths, from input to output: `[64, 32, 10]` has two layers.
        activation: of every layer; as in `Dense`.
        output_activation: of the last layer; None for the same as `activation`.
        bias: whether each layer has a b.
        device: of the parameters.
        dtype: of the parameters.
        checkpoint: k, to keep only every k-th layer's output for the backward pass and recompute the rest.

    Attributes:
        layers: the `Dense` layers. If one has hooks or parametrisations, or if it or its `forward` was replaced, they
            are called one by one, as in `nn.Sequential`.
        weights: their W, from input to output.
        biases: their b; None where there is none.
        activations: their f.

    Shapes:
        input [*, sizes[0]], output [*, sizes[-1]].

    Raises:
        ValueError: there are fewer than two sizes, one is not a positive integer, or checkpoint is not one.
        TypeError: as in `Dense`.
        RuntimeError: `load_state_dict` got the state of another number of layers, or of other shapes.

    Example:
        >>> net = MLP([3, 4, 1])
        >>> [tuple(weight.shape) for weight in net.weights]
        [(4, 3), (1, 4)]
        >>> net(torch.randn(5, 3)).shape
        torch.Size([5, 1])
    """

    layers: Sequence[Dense]  # an nn.ModuleList, which has no type for its elements

    def __init__(
        self,
        sizes: Sequence[int],
        activation: ActivationLike = "sigmoid",
        output_activation: ActivationLike | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        checkpoint: int | None = None,
    ) -> None:
        check_checkpoint(checkpoint)
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes: expected at least an input and an output width, got {sizes}")
        for index, size in enumerate(sizes):
            check_size(f"sizes[{index}]", size)
        hidden = len(sizes) - 2
        last = activation if output_activation is None else output_activation
        layers = [
            Dense(fan_in, fan_out, each, bias, device, dtype)
            for (fan_in, fan_out), each in zip(pairwise(sizes), [*[activation] * hidden, last], strict=True)
        ]
        self.set_layers(layers, checkpoint)

    def set_layers(self, layers: Iterable[Dense], checkpoint: int | None) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.layers = as_children(layers)
        self.register_load_state_dict_pre_hook(rename_keys_of_sequential)

    @classmethod
    def of_layers(cls, layers: Iterable[Dense], checkpoint: int | None, training: bool) -> Self:
        mlp = cls.__new__(cls)
        MLP.set_layers(mlp, layers, checkpoint)
        return mlp.train(training)

    @classmethod
    def from_sequential(cls, seq: nn.Sequential) -> Self:
        """An `MLP` on the same `Parameter` objects as a stack of `nn.Linear`, each with or without an activation.

        Args:
            seq: the stack. The hooks of its layers are not copied. A `Dense` in it is used as it is.

        Raises:
            ValueError: the stack is empty, or has something else in it.
            TypeError: as in `Dense.from_linear`.

        Example:
            >>> MLP.from_sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))).activations
            [Activation('relu'), Activation('identity')]
        """
        layers: list[Dense] = []
        children = list(seq)
        while children:
            index = len(seq) - len(children)
            linear = children.pop(0)
            if isinstance(linear, Dense):
                layers.append(linear)
            elif isinstance(linear, nn.Linear):
                follows = bool(children) and isinstance(children[0], ELEMENTWISE)
                layers.append(Dense.from_linear(linear, children.pop(0) if follows else "identity"))
            else:
                raise ValueError(f"seq[{index}]: expected an nn.Linear, got {type(linear).__name__}")
        if not layers:
            raise ValueError("seq: expected at least one nn.Linear, got none")
        return cls.of_layers(layers, None, seq.training)

    def to_sequential(self) -> nn.Sequential:
        """An `nn.Sequential` of `nn.Linear` and activations on the same `Parameter` objects.

        An activation that `torch.nn` has becomes its module, any other an `Elementwise`; the identity becomes none.
        `checkpoint` is dropped.

        Raises:
            ValueError: a layer has hooks, is parametrised or is no `Dense`; or an activation's df is not the
                derivative of its f, which autograd would take instead.

        Example:
            >>> MLP([3, 4, 1], "tanh", "identity").to_sequential()
            Sequential(
              (0): Linear(in_features=3, out_features=4, bias=True)
              (1): Tanh()
              (2): Linear(in_features=4, out_features=1, bias=True)
            )
        """
        return as_sequential(self)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Dense]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Dense: ...

    @overload
    def __getitem__(self, index: slice) -> MLP: ...

    def __getitem__(self, index: int | slice) -> Dense | MLP:
        if not isinstance(index, slice):
            return self.layers[index]
        layers = self.layers[index]
        if not len(layers):
            raise ValueError(f"index: expected a slice with at least one of the {len(self)} layers, got {index}")
        return MLP.of_layers(layers, self.checkpoint, self.training)

    @property
    def weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]

    @property
    def biases(self) -> list[Tensor | None]:
        return [layer.bias for layer in self.layers]

    @property
    def activations(self) -> list[Activation | nn.Module]:
        return [layer.activation for layer in self.layers]

    def reset_parameters(self) -> None:
        for layer in self.layers:
            layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        layers = grandchildren(self, "layers")
        own = None if has_global_hooks() else weights_and_biases(layers)
        if own is None:
            return self.forward_by_layers(x)
        activations = []
        for layer in layers:
            if type(layer) is not Dense:
                return self.forward_by_layers(x)
            activation = vars(layer).get("activation")  # a module is among the children instead
            if type(activation) is not Activation:
                activation = layer.row_of(own_attribute(layer, "activation"))
            activations.append(activation)
        if not torch.is_grad_enabled():
            output = infer(x, *own, activations)
            if output is not None:
                return output
        return network(x, *own, activations, checkpoint=self.checkpoint)

    def __prepare_scriptable__(self) -> None:
        refuse_script(self)

    def extra_repr(self) -> str:
        return "" if self.checkpoint is None else f"checkpoint={self.checkpoint}"

    def forward_by_layers(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class HalfSquaredErrorLoss(nn.Module):
    """E = ½ Σₖ (oₖ − yₖ)² of each sample; see `torchann.functional.half_squared_error`.

    Args:
        reduction: "mean" over the samples, "sum", or "none" for one value a sample.

    Shapes:
        output and target [*, K]; the result is a scalar, or [*] with "none".

    Raises:
        ValueError: the reduction is unknown.

    Example:
        >>> HalfSquaredErrorLoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(2.5000)
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction: Reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return half_squared_error(output, target, self.reduction)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class Elementwise(nn.Module):
    """o = f(z) of an `Activation` that `torch.nn` has no module for, differentiated by autograd. [*] → [*]"""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        return self.activation.f(z)

    def extra_repr(self) -> str:
        return repr(self.activation.name)


# The elementwise modules of torch.nn that draw no random numbers.
ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink,
    nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip


def as_sequential(mlp: MLP, prefix: str = "") -> nn.Sequential:
    """The layers as `plain` gives them; the prefix stands before their names in messages."""
    modules = [module for index, layer in enumerate(mlp) for module in plain(layer, f"{prefix}layers.{index}")]
    sequential = nn.Sequential(*modules)
    sequential.training = mlp.training
    return sequential


def plain(layer: nn.Module, name: str) -> list[nn.Module]:
    """The `nn.Linear` on a layer's own parameters, and the module of its activation, if it is not the identity.

    Raises:
        ValueError: calling the layer does more than that; the message names it.
    """
    own = weight_and_bias(layer)
    if type(layer) is not Dense or own is None or has_hooks(layer):
        what = "with hooks" if type(layer) is Dense else "with other parameters"
        got = f"a {type(layer).__name__}" + (f" {what}" if isinstance(layer, Dense) else "")
        raise ValueError(f"{name}: expected a plain Dense, got {got}; remove hooks and parametrisations before")
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    linear.weight, linear.bias = own
    activation = layer.activation
    if isinstance(activation, Activation) and activation.df is not None and activation.disagreement:
        raise ValueError(f"{name}: autograd would differentiate {activation.name!r}, but {activation.disagreement}")
    modules = [linear] if activation is table.TABLE["identity"] else [linear, as_module(activation)]
    return [module.train(layer.training) for module in modules]


def as_module(activation: Activation | nn.Module) -> nn.Module:
    """The module of `torch.nn` that computes f, or an `Elementwise`."""
    if isinstance(activation, nn.Module):
        return activation
    kinds = [each for each in activation.equivalents if isinstance(each, type) and issubclass(each, nn.Module)]
    if not kinds:
        return Elementwise(activation)
    return kinds[0](*activation.family.parameters_of(activation)) if activation.family else kinds[0]()


def rename_keys_of_sequential(mlp: MLP, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before an `MLP` loads the state of an `nn.Sequential`: give each entry the name that the MLP has for it.

    `0.weight` and `2.weight` become `layers.0.weight` and `layers.1.weight`. A linear layer is known by its matrix;
    what follows it, up to the next, belongs to its activation. `rest` ends with the list of error messages.
    """
    names = [name for name in state if name.startswith(prefix) and name[len(prefix) :].split(".")[0].isdigit()]
    indices = sorted({int(name[len(prefix) :].split(".")[0]) for name in names})
    matrices = [index for index in indices if getattr(state.get(f"{prefix}{index}.weight"), "ndim", 0) == 2]
    layers = mlp.layers
    if names and len(matrices) != len(layers):
        got = f"{len(matrices)}: {', '.join(f'{prefix}{index}.weight' for index in matrices)}"
        rest[-1].append(f"expected the state of {len(layers)} linear layers, got that of {got}")
    elif names:
        for name in names:
            index, _, end = name[len(prefix) :].partition(".")
            layer = bisect_right(matrices, int(index)) - 1
            is_of_activation = int(index) not in matrices
            if is_of_activation and not (layer >= 0 and isinstance(layers[layer].activation, nn.Module)):
                continue  # PyTorch then tells that the key is unexpected
            state[f"{prefix}layers.{layer}.{'activation.' * is_of_activation}{end}"] = state.pop(name)


def as_children(layers: Iterable[Dense]) -> Any:
    return nn.ModuleList(layers)


def refuse_script(module: nn.Module) -> None:
    raise TypeError(
        f"torch.jit.script: expected a module that TorchScript can read, got a torchann.{type(module).__name__}; "
        "use torch.jit.trace or torch.export, which record what it computes"
    )


def as_attribute(activation: ActivationLike) -> Activation | nn.Module:
    """What a layer stores as its activation. An `nn.Module` that the table does not know becomes a child module."""
    found = table.get(activation)
    return activation if found.df is None and isinstance(activation, nn.Module) else found


def check_size(name: str, size: int) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{name}: expected a positive integer, got {size!r}")
    return size


def check_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a real floating-point dtype, got {dtype}")
