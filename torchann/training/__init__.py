"""The parts of `train.py`: options, data, network, training loop and records.

Example:
    >>> from torchann.training import Config, train
    >>> config = Config(data="iris", hidden=(8,), epochs=5)
    >>> result = train(config)  # doctest: +SKIP
"""

from importlib.util import find_spec

PACKAGES = {
    "polars": "polars",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "safetensors": "safetensors",
}
missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
if missing:
    raise ImportError(f"training needs {', '.join(missing)}, not installed here: pip install 'torchann[train]'")

from torchann.training.config import Config, parse  # noqa: E402  (after the check that they can load)
from torchann.training.errors import ConfigError, Interrupted, TrainingError  # noqa: E402
from torchann.training.loop import Result, train  # noqa: E402
from torchann.training.prediction import Model  # noqa: E402

__all__ = ["Config", "ConfigError", "Interrupted", "Model", "Result", "TrainingError", "parse", "train"]
