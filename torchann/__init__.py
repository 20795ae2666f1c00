"""torchann: backpropagation that a person can read, check and run at full speed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchann import activations, functional
from torchann.activations import Activation
from torchann.backpropagation import backpropagate
from torchann.conversion import convert, revert
from torchann.fast import implementation
from torchann.input_derivatives import WithLaplacian, gradient, jet, laplacian
from torchann.modules import MLP, Dense, HalfSquaredErrorLoss

if TYPE_CHECKING:
    from torchann import tracing as tracing
    from torchann import verification as verification
    from torchann.tracing import Trace, trace
    from torchann.verification import verify

__version__ = "0.1.0"
__all__ = [
    "MLP", "Activation", "Dense", "HalfSquaredErrorLoss", "Trace", "WithLaplacian", "activations", "backpropagate",
    "convert", "functional", "gradient", "implementation", "jet", "laplacian", "revert", "trace", "verify",
]  # fmt: skip

# Where training has no need of it: imported when it is first asked for, as that takes as long as all the rest.
LATER = {"Trace": "tracing", "trace": "tracing", "verify": "verification"}


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(f"torchann.{LATER[name]}"), name)
    if name in LATER.values():
        return import_module(f"torchann.{name}")
    raise AttributeError(f"module 'torchann' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER, *LATER.values()})
