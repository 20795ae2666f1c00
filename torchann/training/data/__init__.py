"""Data for training: bundled sets, generated sets and the user's files, split, prepared and handed out in batches.

loading.py       makes a `Dataset` from a name or a file, and reads new rows for a trained network
bundled.py       the data sets that are chosen by a name
arrays.py        .npz, .pt, .safetensors, IDX
tables.py        CSV, TSV, Parquet
learning.py      computes means, deviations and categories from the rows
preparation.py   uses them to turn rows into tensors, and outputs into predictions
dataset.py       the interface of a data set; memory.py: one in memory; streamed.py: one on disk
"""

from torchann.training.data.bundled import SOURCES
from torchann.training.data.dataset import Dataset
from torchann.training.data.errors import DataError
from torchann.training.data.loading import MISSING, TASKS, NewRows, load
from torchann.training.data.preparation import Preparation, Task

__all__ = ["MISSING", "SOURCES", "TASKS", "DataError", "Dataset", "NewRows", "Preparation", "Task", "load"]
