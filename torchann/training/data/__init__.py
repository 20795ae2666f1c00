"""Data for training: bundled and generated sets and files of the user's own, split, prepared, handed out in batches.

loading.py       the way from a name or a file to a `Dataset`; and from a file to new rows for a trained network
bundled.py       the sets that have a name
arrays.py        .npz, .pt, .safetensors, IDX
tables.py        CSV, TSV, Parquet
learning.py      what is learned from rows
preparation.py   rows into numbers by what was learned, and outputs into predictions
dataset.py       batches; memory.py: of what is in memory; streamed.py: from disk
"""

from torchann.training.data.bundled import SOURCES
from torchann.training.data.dataset import Dataset
from torchann.training.data.errors import DataError
from torchann.training.data.loading import MISSING, TASKS, NewRows, load
from torchann.training.data.preparation import Preparation, Task

__all__ = ["MISSING", "SOURCES", "TASKS", "DataError", "Dataset", "NewRows", "Preparation", "Task", "load"]
