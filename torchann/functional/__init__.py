"""The functions behind the modules; they take the parameters as arguments."""

from torchann.functional.layers import dense, half_squared_error, mlp
from torchann.functional.series import jet, laplacian

__all__ = ["dense", "half_squared_error", "jet", "laplacian", "mlp"]
