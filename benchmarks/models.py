"""Models of other packages, by `convert` and by the backend of torch.compile: python -m benchmarks.models

It runs those whose packages are installed (the extra `world`), and installs nothing. For each it compares values and
gradients with the model as it is, and then times training and inference.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import torchann
from benchmarks.report import (
    DASH,
    ReportError,
    Results,
    as_time,
    circumstances,
    kind_of_cpu,
    load,
    machine,
    merged,
    new_results,
    parser_of,
    status_of,
    table,
    write,
    write_between,
)
from benchmarks.timing import alternate, ratio, spread
from torchann import conversion, dynamo
from torchann.console import speak_utf8

BEGIN, END = "<!-- models -->", "<!-- /models -->"
MANY, FEW = 4096, 1  # samples; of a transformer, tokens
TOLERANCE = 1e-4  # of a gradient's largest entry: float32, and sums over 4096 samples in another order


class Model(NamedTuple):
    name: str
    distribution: str  # on PyPI
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]  # of the inputs, of one sample each
    group: int = 1  # samples that belong together, such as the tokens of a text


def named(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


class Evaluated(nn.Module):
    """What PPO trains: the values and the log-probabilities of actions under a policy."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        values, log_probabilities, _ = self.policy.evaluate_actions(observations, actions)
        return values, log_probabilities


def policy() -> nn.Module:
    box, inf = named("gymnasium.spaces", "Box"), float("inf")
    kind = named("stable_baselines3.common.policies", "ActorCriticPolicy")  # "MlpPolicy"
    return Evaluated(kind(box(-inf, inf, (24,)), box(-1, 1, (4,)), lambda progress: 1e-3))


def bert_layer() -> nn.Module:
    config = named("transformers", "BertConfig")(hidden_size=128, num_attention_heads=4, intermediate_size=512)
    return named("transformers.models.bert.modeling_bert", "BertLayer")(config)


def fnn() -> nn.Module:
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    return named("deepxde", "nn").FNN([2, 64, 64, 64, 64, 1], "tanh", "Glorot uniform")


MODELS = (
    Model("stable-baselines3 MlpPolicy", "stable-baselines3", policy, ((24,), (4,))),
    Model("timm Mlp", "timm", lambda: named("timm.layers", "Mlp")(192, 768), ((192,),)),
    Model("timm GluMlp", "timm", lambda: named("timm.layers", "GluMlp")(192, 768), ((192,),)),
    Model("transformers BertLayer", "transformers", bert_layer, ((128,),), group=64),
    Model("torchvision MLP", "torchvision", lambda: named("torchvision.ops", "MLP")(64, [256, 256, 10]), ((64,),)),
    Model(
        "rtdl MLP", "rtdl_revisiting_models",
        lambda: named("rtdl_revisiting_models", "MLP")(d_in=20, d_out=1, n_blocks=3, d_block=128, dropout=0.1),
        ((20,),),
    ),
    Model(
        "skorch MLPModule", "skorch",
        lambda: named("skorch.toy", "MLPModule")(input_units=20, hidden_units=64, num_hidden=3), ((20,),),
    ),
    Model("nerf-pytorch NeRF", "nerf-pytorch", lambda: named("nerf.model", "NeRF")(), ((3,), (3,))),
    Model("DeepXDE FNN", "deepxde", fnn, ((2,),)),
    Model(
        "pyod AutoEncoder", "pyod",
        lambda: named("pyod.models.auto_encoder", "AutoEncoderModel")(32, [64, 32], batch_norm=False), ((32,),),
    ),
    Model(
        "siren-pytorch SirenNet", "siren-pytorch",
        lambda: named("siren_pytorch", "SirenNet")(2, 64, 1, 4), ((2,),),
    ),
)  # fmt: skip
NAMES = tuple(model.name for model in MODELS)


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("models", __doc__)
    parser.add_argument("--only", nargs="+", metavar="PREFIX", help="models whose names begin so; others are kept")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15; 0 compares the numbers and times nothing")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table of this page; run nothing")
    arguments = parser.parse_args(argv)
    stem = f"models-{kind_of_cpu()}"
    if arguments.table:
        return status_of(lambda: write_between(arguments.table, BEGIN, END, overview(load(arguments.out, stem))))
    warnings.simplefilter("ignore")
    chosen = [model for model in MODELS if model.name.startswith(tuple(arguments.only or [""]))]
    absent = {model.distribution: "not installed" for model in MODELS if not installed(model.distribution)}
    results = new_results(machine("cpu"), {"rounds": arguments.rounds}, absent)
    for model in chosen:
        if model.distribution not in absent:
            results["rows"].append(measured(model, arguments.rounds))
            print(results["rows"][-1], flush=True)
    results = merged(load(arguments.out, stem), results, NAMES)
    write(results, f"# Models of other packages\n\n{overview(results)}\n", arguments.out, stem)
    print(overview(results))
    return int(any("failed" in row or not row["equal"] for row in results["rows"]))


def installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


# --- Running ----------------------------------------------------------------------------------------------------------


def measured(model: Model, rounds: int) -> dict[str, Any]:
    row: dict[str, Any] = {"name": model.name, "version": installed(model.distribution)}
    try:
        torch.manual_seed(0)
        plain = model.make()
        converted = torchann.convert(plain)  # before a call, which may leave tensors in the model that can't be copied
        row |= layers_in_sweeps(model, plain) | {"equal": is_equal(model, plain, converted)}
        timed = tasks(model, plain, converted) if rounds else ()
        row["times"] = {name: times(calls, rounds) for name, calls in timed}
    except Exception as error:  # a package may raise anything
        row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return row


def inputs(model: Model, samples: int) -> list[Tensor]:
    torch.manual_seed(1)
    lead = [max(samples // model.group, 1), model.group] if model.group > 1 else [samples]
    return [torch.rand(*lead, *shape) for shape in model.shapes]


def ways(plain: nn.Module, converted: nn.Module) -> dict[str, Callable[..., Any]]:
    """The model, and what runs it in another way, on the same parameters."""
    is_changed = any(isinstance(module, conversion.Sequential) for module in converted.modules())
    torch.compiler.reset()
    return {
        "eager": plain,
        "torch.compile": torch.compile(plain, dynamic=False),
        "backend": torch.compile(plain, backend=dynamo.backend, dynamic=False),
        "backend, inductor": torch.compile(plain, backend=dynamo.backend, options={"rest": "inductor"}, dynamic=False),
        **({"convert": converted} if is_changed else {}),
    }


def layers_in_sweeps(model: Model, plain: nn.Module) -> dict[str, int]:
    """How many linear layers the graph has, in how many sweeps how many of them are."""
    counts = {"layers": 0, "in sweeps": 0, "sweeps": 0}

    def counting(graph_module: Any, given: Any) -> Any:
        counts["layers"] += sum(node.target is nn.functional.linear for node in graph_module.graph.nodes)
        run = dynamo.backend(graph_module, given)
        sizes = [len(each.activations) for each in graph_module.modules() if isinstance(each, dynamo.Layers)]
        counts["in sweeps"] += sum(sizes)
        counts["sweeps"] += len(sizes)
        return run

    torch.compiler.reset()
    torch.compile(plain, backend=counting, dynamic=False)(*inputs(model, MANY))
    return counts


def is_equal(model: Model, plain: nn.Module, converted: nn.Module) -> bool:
    """Whether outputs and gradients are those of the model: in the way that the size chooses, and all as sweeps.

    Inductor draws other random numbers for dropout, so it is compared in eval mode alone.
    """
    x, agree = inputs(model, MANY), True
    for training in (True, False):
        converted.train(training)
        expected = outputs_and_gradients(plain.train(training), x)
        for context in (nullcontext, always_sweep):
            with context():
                for name, net in ways(plain, converted).items():
                    if name != "torch.compile" and not (training and "inductor" in name):
                        agree = agree and are_close(outputs_and_gradients(net, x), expected)
    plain.train(), converted.train()
    return agree


@contextmanager
def always_sweep() -> Iterator[None]:
    before = conversion.TRAINING, conversion.INFERENCE
    conversion.TRAINING = conversion.INFERENCE = 0
    try:
        yield
    finally:
        conversion.TRAINING, conversion.INFERENCE = before


def outputs_and_gradients(net: Callable[..., Any], x: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(2)  # of dropout
    tensors = [each.clone().requires_grad_() for each in x]
    outputs = as_tuple(net(*tensors))
    parameters = [each for each in net.parameters() if each.requires_grad]  # type: ignore[attr-defined]
    scalar = sum((output.sin().mean() for output in outputs), start=torch.zeros(()))
    found = torch.autograd.grad(scalar, [*tensors, *parameters], allow_unused=True)
    return [*(output.detach() for output in outputs), *(each for each in found if each is not None)]


def as_tuple(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def are_close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return len(ours) == len(theirs) and all(
        (a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-6) for a, b in pairs
    )


Calls = dict[str, Callable[[], Any]]


def tasks(model: Model, plain: nn.Module, converted: nn.Module) -> Iterator[tuple[str, Calls]]:
    """Forward and backward, and inference with many samples and with few."""
    nets, x = ways(plain, converted), inputs(model, MANY)
    parameters = list(plain.parameters())

    def step(net: Callable[..., Any]) -> Callable[[], None]:
        def call() -> None:
            for parameter in parameters:
                parameter.grad = None
            sum((output.sum() for output in as_tuple(net(*x))), start=torch.zeros(())).backward()

        return call

    yield "training", {name: step(net) for name, net in nets.items()}
    plain.eval(), converted.eval()
    for samples in (MANY, FEW):
        few = inputs(model, samples)
        nets = ways(plain, converted)
        yield f"inference, {samples}", {name: infer(net, few) for name, net in nets.items()}


def infer(net: Callable[..., Any], x: list[Tensor]) -> Callable[[], Any]:
    return torch.no_grad()(lambda: net(*x))


def times(calls: Calls, rounds: int) -> dict[str, Any]:
    seconds = alternate(calls, "cpu", rounds, block_seconds=0.02)
    return {
        "seconds": spread(seconds["eager"])._asdict(),
        "ratios": {name: ratio(each, seconds["eager"])._asdict() for name, each in seconds.items()},
    }


# --- As text ----------------------------------------------------------------------------------------------------------

WAYS = ("torch.compile", "backend", "backend, inductor", "convert")


def overview(results: Results | None) -> str:
    if results is None:
        raise ReportError("no results: run python -m benchmarks.models")
    cells = [line for row in results["rows"] for line in lines_of(row)]
    head = [
        "",
        "layers in sweeps",
        "",
        "eager",
        "`torch.compile`",
        '`backend="torchann"`',
        "the same, rest by inductor",
        "`convert`",
    ]
    if not any(row.get("times") for row in results["rows"]):  # compared, but not timed
        head, cells = ["", "layers in sweeps"], [line[:2] for line in cells]
    absent = [f"- {name}: {why}" for name, why in results["absent"].items()]
    return "\n".join([*table(head, cells), "", circumstances(results), *absent])


def lines_of(row: dict[str, Any]) -> Iterator[list[str]]:
    name = f"{row['name']} {row['version']}"
    if "failed" in row:
        yield [name, f"failed: {row['failed']}", *[DASH] * 6]
        return
    sweeps = f"{row['in sweeps']} of {row['layers']} in {row['sweeps']}" if row["equal"] else "**other numbers**"
    for task, times in row["times"].items():
        ratios = [f"{times['ratios'][way]['median']:.2f}" if way in times["ratios"] else DASH for way in WAYS]
        yield [name, sweeps, task, as_time(times["seconds"]["median"]), *ratios]
        name = sweeps = ""
    if not row["times"]:
        yield [name, sweeps, *[DASH] * 6]


if __name__ == "__main__":
    sys.exit(main())
