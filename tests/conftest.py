import os
import platform
from collections import defaultdict
from pathlib import Path

import pytest

# PyTorch reads it when it loads: threads that wait for each other sleep. train.py sets it, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def always_sweep(monkeypatch):
    """Let converted models run as sweeps in any size; in the sizes of tests they would not."""
    from torchann import conversion

    monkeypatch.setattr(conversion, "TRAINING", 0)
    monkeypatch.setattr(conversion, "INFERENCE", 0)


@pytest.fixture
def writer(tmp_path):
    from torch.utils.tensorboard import SummaryWriter  # takes a while to import

    with SummaryWriter(tmp_path) as writer:
        yield writer


# --- Options ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption(
        "--table", metavar="FILE", type=Path, help="write the results of the transforms' tests as Markdown"
    )


def pytest_configure(config):
    if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
        torch.set_num_threads(max(1, os.cpu_count() // processes))  # the processes share the cores
    if config.getoption("--table"):
        if config.getoption("--numprocesses"):
            raise pytest.UsageError("--table: the table has the order of the tests, so it takes -n 0")
        config.pluginmanager.register(TransformsTable(config.getoption("--table")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One process more than there are cores, as many tests wait for the disk or for children."""
    return os.cpu_count() + 1


MARKS = {"passed": "✓", "failed": "✗", "skipped": "not run"}
MODULE_TESTS = ("test_module_transforms.py", "test_distributed.py")


def grid(corner, columns, rows):
    """A Markdown table of the marks in rows[row][column]."""
    return [
        f"| {corner} | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {name} | " + " | ".join(row.get(column, "–") for column in columns) + " |" for name, row in rows.items()),
    ]


class TransformsTable:
    """Writes the page docs/transforms.md (`--table FILE`): the results of the transforms' and the modules' tests.

    It reads them off the reports of `test_transform[transform-operation]`, `test_every_activation[transform-activation]`
    and the tests in `MODULE_TESTS`.
    """

    def __init__(self, path):
        self.path = path
        self.matrix = defaultdict(dict)
        self.activations = defaultdict(dict)
        self.others = {}

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return
        file, _, name = report.nodeid.rpartition("::")
        if file.endswith("test_transforms.py") and name.startswith("test_transform["):
            transform, _, operation = name.removeprefix("test_transform[").removesuffix("]").partition("-")
            is_refused = ("refused", True) in report.user_properties
            self.matrix[transform][operation] = "refused" if is_refused else MARKS[report.outcome]
        elif file.endswith("test_transforms.py") and name.startswith("test_every_activation["):
            transform, _, activation = name.removeprefix("test_every_activation[").removesuffix("]").partition("-")
            self.activations[activation][transform] = MARKS[report.outcome]
        elif file.endswith(MODULE_TESTS):
            self.others[name.removeprefix("test_").replace("_", " ")] = MARKS[report.outcome]

    def pytest_sessionfinish(self):
        operations = list(dict.fromkeys(operation for row in self.matrix.values() for operation in row))
        quick = list(dict.fromkeys(transform for row in self.activations.values() for transform in row))
        lines = [
            "# Operations × transforms",
            "",
            f"Written by `pytest tests -n 0 --table {self.path}` with PyTorch {torch.__version__}, Python "
            f"{platform.python_version()}, {platform.system()} {platform.machine()}, "
            f"{'CUDA' if torch.cuda.is_available() else 'CPU'}. ✓ means: the same values and the same gradients as the plain "
            "composition `f(F.linear(x, W, b))` under the same transform, to the tolerance in "
            "`tests/test_transforms.py`. `laplacian` and `jet` are compared with formulas derived by hand. The activation `straight through` has a df that is not the derivative of its f: "
            "its gradients show that the formula derived by hand ran. *refused*: this transform records f alone, so "
            "torchann raises an error.",
            "",
            *grid("transform", operations, self.matrix),
            "",
            "The activations of torchann in this table stand for all: each is the first of its kind, which is what the "
            "code tells activations apart by. `dense` of every one, and of some with other parameters:",
            "",
            *grid("activation", quick, self.activations),
            "",
            "Modules, against `nn.Sequential` in the same place:",
            "",
            "| what | result |",
            "|---|---|",
            *(f"| {name} | {mark} |" for name, mark in self.others.items()),
            "",
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(lines), encoding="utf-8")
