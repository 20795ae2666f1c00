"""What `train.py` is made of: options, data, network, loop and record.

Example:
    >>> from torchann.training import Config, train
    >>> config = Config(data="iris", hidden=(8,), epochs=5)
    >>> result = train(config)  # doctest: +SKIP
"""

from importlib.util import find_spec

missing = [package for package in ("sklearn", "tensorboard", "tqdm") if find_spec(package) is None]
if missing:
    raise ImportError(f"training needs {', '.join(missing)}, not installed here: pip install 'torchann[train]'")

from torchann.training.config import Config, ConfigError, parse  # noqa: E402  (after the check that they can load)
from torchann.training.loop import Result, TrainingError, train  # noqa: E402

__all__ = ["Config", "ConfigError", "Result", "TrainingError", "parse", "train"]
