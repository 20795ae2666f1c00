"""torchann: backpropagation that a person can read, check and run at full speed."""

from torchann import activations, functional
from torchann.activations import Activation
from torchann.modules import MLP, Dense, HalfSquaredErrorLoss, convert
from torchann.tracing import Trace, trace
from torchann.verification import verify

__version__ = "0.1.0"
__all__ = [
    "MLP", "Activation", "Dense", "HalfSquaredErrorLoss", "Trace", "activations", "convert", "functional", "trace",
    "verify",
]  # fmt: skip
