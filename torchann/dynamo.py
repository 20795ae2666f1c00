"""A backend for `torch.compile`: the layers of any model run as sweeps, whatever Python code calls them.

Dynamo, the front end of torch.compile, records the operations of a model's forward pass as a graph, with all modules
opened. `backend` looks in that graph for chains of linear layers and activations, and puts one node in place of each:
the same layers as one sweep, differentiated by the formulas. All other operations stay as they are.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.split_module import split_module
from torch.nn import functional as F

from torchann import activations as table
from torchann.activations import TABLE, Activation
from torchann.conversion import Fate, Size, as_columns, run_layers
from torchann.transforms import pytree

Rest = Literal["eager", "inductor"]
OPTIONS = ("rest", "report")


def backend(
    graph_module: GraphModule, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """The backend of `torch.compile(model, backend="torchann")`.

    A chain is consecutive calls of `F.linear` (or `nn.Linear`) and of activations in `torchann.activations.TABLE`, as
    functions, methods or modules. It ends where anything else comes, where a result is used twice, and where an
    operation between two layers may change a tensor or a mode. Dropout that drops nothing does not end it.

    Args:
        graph_module: Dynamo's graph.
        example_inputs: its inputs; not used.
        options: of `torch.compile`: "rest", what runs the other operations, "eager" (the default) or "inductor"; and
            "report", True to print what became of each linear layer, and why.

    Returns:
        What Dynamo calls in place of the graph.

    Raises:
        ValueError: an option is unknown, or has another value.

    Example:
        >>> net = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), backend=backend)  # or backend="torchann"
    """
    rest, report = checked_options(options)
    graph = graph_module.graph
    whole = rest == "inductor" and any(map(may_change_mode, graph.nodes))  # which can't be cut into parts
    chains = {} if whole else chains_in(graph)
    if report:
        print(as_columns(fates(graph, chains, "the graph changes a mode, so inductor gets all of it" if whole else "")))
    for index, chain in enumerate(dict.fromkeys(chains.values())):
        if chain.is_worth_a_node:
            replace(graph_module, chain, f"{PREFIX}{index}")
    graph.lint()
    graph_module.recompile()
    return graph_module.forward if rest == "eager" else with_inductor(graph_module)


PREFIX = "torchann_layers_"


def checked_options(options: dict[str, Any] | None) -> tuple[Rest, bool]:
    options = options or {}
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"options: expected {' or '.join(map(repr, OPTIONS))}, got {name!r}")
    rest, report = options.get("rest", "eager"), options.get("report", False)
    if rest not in ("eager", "inductor"):
        raise ValueError(f"options['rest']: expected 'eager' or 'inductor', got {rest!r}")
    return rest, report


# --- Chains -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Chain:
    """Consecutive layers of the graph.

    Attributes:
        linears: the nodes of their linear layers.
        activations: their f.
        nodes: all that the layers stand for, in order; the value of the last one is the output.
        end: why no more layers follow.
    """

    linears: list[Node] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    end: str = ""

    @property
    def size(self) -> Size:
        weights = [example_of(linear_arguments(linear)[1]) for linear in self.linears]
        return Size.of(weights[0].shape[1], list(map(len, weights)), self.activations)

    @property
    def is_worth_a_node(self) -> bool:
        """Whether there is more than one linear layer without an activation."""
        return len(self.linears) > 1 or self.activations[0] is not TABLE["identity"]


def chains_in(graph: Graph) -> dict[Node, Chain]:
    """The chain of each linear layer that can be in one."""
    chains: dict[Node, Chain] = {}
    for node in graph.nodes:
        if is_linear(node) and node not in chains:
            chain = chain_from(node)
            chains |= dict.fromkeys(chain.linears, chain)
    return chains


def chain_from(first: Node) -> Chain:
    """The longest chain that begins with this linear layer."""
    chain = Chain()
    node: Node | str = first
    while isinstance(node, Node):
        if is_linear(node):
            chain.linears.append(node)
            chain.activations.append(TABLE["identity"])
        elif (row := row_of(node)) is not None:
            changes = [user for user in node.users if changes_in_place(user)]
            if changes:  # a backward pass that reads the output would fail where autograd's reads z
                node = f"{name_of(changes[0])} changes the output of {name_of(node)}"
                break
            if chain.activations[-1] is not TABLE["identity"]:
                node = f"{name_of(node)} follows"
                break
            chain.activations[-1] = row
        chain.nodes.append(node)
        node = next_of(node)
    chain.end = node
    return chain


def next_of(node: Node) -> Node | str:
    """The one node that takes this node's value, as its first argument, if it can be in a chain; else why not."""
    if len(node.users) != 1:
        return "its output is used more than once" if node.users else "its output is not used"
    (user,) = node.users
    if list(inputs_of(user)).count(node) > 1:
        return "its output is used more than once"
    can_be_in_chain = is_linear(user) or is_idle(user) or row_of(user) is not None
    if not can_be_in_chain or user.args[0] is not node:
        return f"{name_of(user)} follows"
    between = node.next
    while between is not user:  # a chain runs where its last node stood, so its first layers run later than before
        if not is_harmless(between):
            return f"{name_of(between)} comes between"
        between = between.next
    return user


def inputs_of(node: Node) -> Iterator[Node]:
    """The nodes among the arguments; one that is used twice comes twice."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return (leaf for leaf in leaves if isinstance(leaf, Node))


# --- Kinds of nodes ---------------------------------------------------------------------------------------------------


def is_linear(node: Node) -> bool:
    """Whether the node is x Wᵀ + b for real matrices that are not empty."""
    if node.op != "call_function" or node.target is not F.linear or len(node.args) < 2:
        return False
    x, weight, bias = linear_arguments(node)
    values = [example_of(each) for each in (x, weight, bias) if each is not None]
    if not all(value is not None and value.is_floating_point() and not value.is_nested for value in values):
        return False
    shape = values[1].shape
    return len(shape) == 2 and all(isinstance(size, int) and size > 0 for size in shape)


def example_of(node: Any) -> Any:
    """A tensor without values that stands for the node's; None if the node gives no tensor."""
    value = node.meta.get("example_value") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def linear_arguments(node: Node) -> tuple[Any, Any, Any]:
    x, weight, *rest = node.args
    return x, weight, rest[0] if rest else node.kwargs.get("bias")


def row_of(node: Node) -> Activation | None:
    """The row of torchann's table that computes the same, if the node is an activation and its settings are numbers."""
    if node.op not in ("call_function", "call_method") or not node.args:
        return None
    function = out_of_place(node)
    row = known_row(function)
    if row is None or not all(isinstance(each, (int, float, str)) for each in (*node.args[1:], *node.kwargs.values())):
        return None
    names = [*getattr(row.family, "defaults", ()), "inplace"]
    if len(node.args) - 1 > len(names):
        return None
    settings = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    settings.pop("inplace", None)
    return known_row(partial(function, **settings)) if settings else row


def out_of_place(node: Node) -> Any:
    """The function that a node calls, as a function also where it is a method, or works in place."""
    name = name_of(node)
    if node.op == "call_function" and not name.endswith("_"):
        return node.target
    name = name.removesuffix("_")
    return getattr(torch, name, None) or getattr(F, name, None)


def known_row(function: Any) -> Activation | None:
    if not callable(function):
        return None
    row = table.get(function)
    return None if row.df is None else row


def is_idle(node: Node) -> bool:
    """Whether the node is dropout that drops nothing."""
    if node.target is not F.dropout or not node.args:
        return False
    given = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
    return given.get("training") is False or given.get("p") in (0, 0.0)


def is_harmless(node: Node) -> bool:
    """Whether the node surely changes no tensor and no mode, so that a layer gives the same after it."""
    if node.op in ("placeholder", "get_attr"):
        return True
    if node.op == "call_method":
        return node.target in HARMLESS_METHODS or (row_of(node) is not None and not changes_in_place(node))
    if node.op != "call_function":
        return False
    return (
        node.target in HARMLESS
        or is_linear(node)
        or ((is_idle(node) or row_of(node) is not None) and not changes_in_place(node))
    )


HARMLESS = (operator.getitem, operator.add, operator.sub, operator.mul, operator.truediv, torch.cat)
HARMLESS_METHODS = ("item", "size", "view", "reshape", "flatten", "transpose", "permute")


def changes_in_place(node: Node) -> bool:
    """Whether the node writes over its first argument, by its name or its arguments."""
    if node.target in (operator.setitem, *IN_PLACE_OPERATORS) or node.kwargs.get("inplace") or "out" in node.kwargs:
        return True
    is_activation_in_place = row_of(node) is not None and any(value is True for value in node.args[1:])
    return is_activation_in_place or (name_of(node).endswith("_") and not name_of(node).endswith("__"))


IN_PLACE_OPERATORS = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
    operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
)  # fmt: skip


def may_change_mode(node: Node) -> bool:
    """Whether the node may switch gradients, autocast or a transform on or off: such a node's value is not used."""
    return node.op.startswith("call_") and not node.users and not is_harmless(node)


def name_of(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


# --- The new graph ----------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """What stands in the graph in place of a chain."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.activations = chain.activations
        self.size = chain.size

    def forward(self, x: Tensor, weights: list[Tensor], biases: list[Tensor | None]) -> Tensor:
        return run_layers(x, weights, biases, self.activations, self.size)

    def extra_repr(self) -> str:
        return ", ".join(activation.name for activation in self.activations)


def replace(graph_module: GraphModule, chain: Chain, name: str) -> None:
    """Put one node in place of a chain."""
    graph, last = graph_module.graph, chain.nodes[-1]
    x = chain.linears[0].args[0]
    weights = [linear_arguments(linear)[1] for linear in chain.linears]
    biases = [linear_arguments(linear)[2] for linear in chain.linears]
    graph_module.add_module(name, Layers(chain))
    with graph.inserting_after(last):
        node = graph.call_module(name, (x, weights, biases))
    node.meta = dict(last.meta)
    last.replace_all_uses_with(node)
    for each in reversed(chain.nodes):
        graph.erase_node(each)


def with_inductor(graph_module: GraphModule) -> Callable[..., Any]:
    """The graph with inductor's code for all that stands before, between and behind the new nodes."""
    part, is_new = 0, False

    def part_of(node: Node) -> int:
        """Counts up at each change between new nodes and others."""
        nonlocal part, is_new
        if (node.op == "call_module" and str(node.target).startswith(PREFIX)) is not is_new:
            part, is_new = part + 1, not is_new
        return part

    parts = split_module(graph_module, nn.Module(), part_of)
    for name, child in parts.named_children():
        if not any(isinstance(each, Layers) for each in child.modules()):
            setattr(parts, name, torch.compile(child))
    return parts.forward


# --- The report -------------------------------------------------------------------------------------------------------


def fates(graph: Graph, chains: dict[Node, Chain], why_none: str) -> Iterator[Fate]:
    """One line for each call of a linear layer."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is F.linear:
            yield Fate(place_of(node), "linear", fate_of(node, chains.get(node), why_none))


def fate_of(node: Node, chain: Chain | None, why_none: str) -> str:
    if chain is None:
        return f"called by itself: {why_none or 'is complex, empty, or its arguments are no matrices'}"
    if not chain.is_worth_a_node:
        return f"called by itself: {chain.end}"
    index, count = chain.linears.index(node), len(chain.linears)
    text = f"layer {index + 1} of {count}, {chain.activations[index].name}"
    if index == 0:
        text += f": {chain.size}"
    return f"{text}; {chain.end}" if index == count - 1 else text


def place_of(node: Node) -> str:
    """The module that called it, such as `encoder.fc1`."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path = str(list(stack.values())[-1][0])
    return re.sub(r"^L\['\w+'\]\.?|_modules\.|[\[\]']+", "", path) or "model"
