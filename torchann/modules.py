"""The modules: `Dense`, `MLP` and `HalfSquaredErrorLoss`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchann import activations as table
from torchann.activations import Activation, ActivationLike
from torchann.functional.layers import check_checkpoint, check_reduction, half_squared_error, infer, network
from torchann.functions import Reduction
from torchann.transforms import grandchildren, has_global_hooks, own_attribute, weight_and_bias, weights_and_biases


class WithRow(nn.Module):
    """A module that caches the `Activation` made from an `nn.Module`: making it takes longer than a small layer."""

    rows: dict[nn.Module, Activation]

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


class Dense(WithRow):
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

    def __prepare_scriptable__(self) -> None:
        refuse_script(self)

    def extra_repr(self) -> str:
        activation = "" if isinstance(self.activation, nn.Module) else f", activation={self.activation.name!r}"
        bias = "" if self.bias is not None else ", bias=False"
        return f"in_features={self.in_features}, out_features={self.out_features}{activation}{bias}"


class MLP(nn.Module):
    """A network of `Dense` layers that runs as one sweep forward and one sweep backward.

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
        super().__init__()
        check_checkpoint(checkpoint)
        self.checkpoint = checkpoint
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes: expected at least an input and an output width, got {sizes}")
        for index, size in enumerate(sizes):
            check_size(f"sizes[{index}]", size)
        hidden = len(sizes) - 2
        last = activation if output_activation is None else output_activation
        self.layers = as_children(
            Dense(fan_in, fan_out, each, bias, device, dtype)
            for (fan_in, fan_out), each in zip(pairwise(sizes), [*[activation] * hidden, last], strict=True)
        )

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
        mlp = cls.__new__(cls)
        nn.Module.__init__(mlp)
        mlp.checkpoint = None
        mlp.layers = as_children(layers)
        return mlp.train(seq.training)

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


# The elementwise modules of torch.nn that draw no random numbers.
ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink,
    nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip


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
