"""How other tools work with a converted model and with an MLP: python -m benchmarks.tools

Each tool runs on an nn.Sequential, and on the models that `convert` and `MLP.from_sequential` make of it. All share the
same parameters.
"""

from __future__ import annotations

import logging
import platform
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

import torchann
from benchmarks.report import as_cell, as_line
from torchann.console import speak_utf8

OUT = Path("benchmarks/results/tools.md")
PACKAGES = ("captum", "thop", "torchao", "opacus", "peft", "lightning")
WAYS: tuple[Callable[[Any], nn.Module], ...] = (lambda model: model, torchann.convert, torchann.MLP.from_sequential)
EXPLANATION = """
Compared with the tool's result on `nn.Sequential(Linear, ReLU, Linear, Tanh, Linear)` with the same parameters, on the
CPU. Same: but for rounding. Sees nothing: it touches no layer, and no error tells so.

| tool | `convert` | `MLP` |
|---|---|---|"""
Result = tuple[list[Any], list[Any]]  # a tool's result (tensors and numbers), and the result if it changes no layer


def main() -> int:
    speak_utf8()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    rows = [[name, *verdicts(name.split()[0], tool)] for name, tool in TOOLS.items()]
    distributed.destroy_process_group()
    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__, "torchann": torchann.__version__}
    versions |= {package: installed(package) or "not installed" for package in PACKAGES}
    lines = ["# What other tools make of it", "", ", ".join(map(" ".join, versions.items())) + ".", EXPLANATION]
    text = "\n".join([*lines, *(as_line([as_cell(cell) for cell in row]) for row in rows), ""])
    print(text)
    OUT.write_text(text, encoding="utf-8")
    return 0


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def verdicts(package: str, tool: Callable[[nn.Module, Tensor], Result]) -> list[str]:
    if package in PACKAGES and not installed(package):
        return ["not installed", "not installed"]
    results: list[Any] = []
    for way in WAYS:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))
        x = torch.randn(256, 64)  # enough rows that inference also runs torchann's own sweep
        try:
            results.append(tool(way(model), x))
        except Exception as error:  # a tool may raise anything
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            results.append(f"refused: {message.partition('. ')[0].rstrip('.')}")
    return [verdict(result, results[0]) for result in results[1:]]


def verdict(result: Result | str, reference: Result | str) -> str:
    if isinstance(reference, str) or agree(*reference):
        return f"on the reference {reference if isinstance(reference, str) else 'it changes nothing'}"
    if isinstance(result, str):
        return result
    return "same" if agree(result[0], reference[0]) else "sees nothing" if agree(*result) else "other numbers"


def agree(a: list[Any], b: list[Any]) -> bool:
    a, b = ([torch.as_tensor(each, dtype=torch.float64) for each in values] for values in (a, b))
    same = (x.shape == y.shape and torch.allclose(x, y, 1e-4, 1e-6) for x, y in zip(a, b, strict=False))
    return len(a) == len(b) and all(same)


# --- The tools --------------------------------------------------------------------------------------------------------


def layers(model: nn.Module) -> dict[str, Any]:
    """The modules that have a weight, by name, from input to output."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "weight")}


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def gradients(model: nn.Module, x: Tensor) -> list[Any]:
    """The output, and the gradients of all parameters that have one."""
    output = model(x)
    output.square().sum().backward()
    found = [output.detach(), *(each.grad for each in model.parameters() if each.grad is not None)]
    return [each.full_tensor() if isinstance(each, DTensor) else each for each in found]


def edited(edit: Callable[[nn.Module], Any], model: nn.Module, x: Tensor) -> Result:
    """The outputs, with and without autograd, of the model that a tool returns or edits in place; and those before."""
    values = []
    for each in (lambda: model, lambda: edit(model) or model):
        changed = each()
        values.append([changed(x).detach(), torch.no_grad()(changed)(x)])
    return values[1], values[0]


def attribution(name: str, model: nn.Module, x: Tensor) -> Result:
    (plain,) = torch.autograd.grad(model(x.requires_grad_())[:, 0].sum(), x)
    values = getattr(import_module("captum.attr"), name)(model).attribute(x, target=0)
    return [values.detach()], [plain * x.detach() if name == "DeepLift" else plain]


def lora(model: nn.Module, x: Tensor) -> Result:
    peft = import_module("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=list(layers(model))), model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        _ = nn.init.normal_(parameter, std=0.1) if parameter.requires_grad else None
    return gradients(model, x), []


def flops(model: nn.Module, x: Tensor) -> Result:
    with FlopCounterMode(display=False) as counter:
        gradients(model, x)
    counts = counter.get_flop_counts()
    return [sum(counts[f"{type(model).__name__}.{name}"].values()) for name in layers(model)], [0] * 3


def summary(model: nn.Module, x: Tensor) -> Result:
    lightning = import_module("lightning")
    whole = type("Whole", (lightning.LightningModule,), {"forward": lambda self, x: self.net(x)})()
    whole.net, whole.example_input_array = model, x
    found = lightning.pytorch.utilities.model_summary.ModelSummary(whole, max_depth=-1)
    sizes = dict(zip(found.layer_names, zip(found.in_sizes, found.out_sizes, strict=True), strict=True))
    return [found.total_parameters, found.total_flops, *(sizes[f"net.{name}"] for name in layers(model))], []


def traced(model: nn.Module, x: Tensor) -> Result:
    kinds = [node.kind() for node in torch.jit.trace(model, x).inlined_graph.nodes()]
    return [kinds.count(f"aten::{kind}") for kind in ("linear", "relu", "tanh")], [0] * 3


def parallel(model: nn.Module, x: Tensor) -> Result:
    styles = import_module("torch.distributed.tensor.parallel")
    plan = dict(zip(layers(model), (styles.ColwiseParallel(), styles.RowwiseParallel()), strict=False))
    return gradients(styles.parallelize_module(model, distributed.init_device_mesh("cpu", (1,)), plan), x), []


def sharded(model: nn.Module, x: Tensor) -> Result:
    mesh = distributed.init_device_mesh("cpu", (1,))
    for layer in layers(model).values():
        for name in ("weight", "bias"):
            shard = distribute_tensor(getattr(layer, name).detach(), mesh, [Shard(0)])
            setattr(layer, name, nn.Parameter(shard))
    return gradients(model, distribute_tensor(x, mesh, [Replicate()])), []


def grad_samples(model: nn.Module, x: Tensor) -> Result:
    gradients(import_module("opacus").GradSampleModule(model), x)
    return [parameter.grad_sample for parameter in model.parameters()], []


def initialise(model: nn.Module) -> None:
    model.apply(lambda module: nn.init.constant_(module.weight, 0.01) if isinstance(module, nn.Linear) else None)


def prune_all(model: nn.Module) -> None:
    for layer in layers(model).values():
        prune.l1_unstructured(layer, "weight", 0.5)


def quantize(model: nn.Module) -> None:
    quantization = import_module("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())


TOOLS: dict[str, Callable[[nn.Module, Tensor], Result]] = {
    "captum DeepLift": partial(attribution, "DeepLift"),
    "captum GuidedBackprop": partial(attribution, "GuidedBackprop"),
    "captum Deconvolution": partial(attribution, "Deconvolution"),
    "captum LRP": partial(attribution, "LRP"),
    "captum IntegratedGradients": partial(attribution, "IntegratedGradients"),
    "thop profile": lambda model, x: (list(import_module("thop").profile(model, (x,), verbose=False)), [0, 0]),
    "torch.ao quantize_dynamic": partial(
        edited, lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    ),
    "torchao quantize_": partial(edited, quantize),
    "opacus GradSampleModule": grad_samples,
    "peft LoRA": lora,
    "torch.nn.utils.prune": partial(edited, prune_all),
    "weight decay by isinstance": lambda model, x: ([layer.weight for layer in linears(model)], []),
    "apply(init) by isinstance": partial(edited, initialise),
    "FlopCounterMode": flops,
    "lightning ModelSummary": summary,
    "torch.jit.trace (log_graph)": traced,
    "parallelize_module": parallel,
    "DTensor parameters": sharded,
}

if __name__ == "__main__":
    sys.exit(main())
