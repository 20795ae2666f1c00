"""Shows the backward pass in TensorBoard while a model trains. Needs the extra `train`."""

from importlib.util import find_spec

missing = [package for package in ("tensorboard", "matplotlib") if find_spec(package) is None]
if missing:
    raise ImportError(f"torchann.monitor needs {', '.join(missing)}, not installed here: pip install 'torchann[train]'")

from torchann.monitor.monitor import Monitor  # noqa: E402  (after the check that it can load)

__all__ = ["Monitor"]
