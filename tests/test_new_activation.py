"""A row added to the table is all that a new activation takes: the tests go over it, and find it wrong.

pytest runs in a process of its own, with a plugin that adds softsign before the tests are collected.
"""

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from torchann import activations

ROOT = Path(__file__).parent.parent
NAMES = [*activations.TABLE]  # without softsign
DF, D2F = "lambda o: (1 - o.abs()) ** 2", "lambda o: -2 * o.sign() * (1 - o.abs()) ** 3"
PLUGIN = """
from torch import nn
from torch.nn import functional as F
from torchann.activations import TABLE, Activation

TABLE["softsign"] = Activation(
    "softsign", lambda z: z / (1 + z.abs()), {df}, {d2f}, reads="output", equivalents=(F.softsign, nn.Softsign)
)
"""
# Tests that check derivatives, from several files, and take seconds.
CHECKS = [
    "test_activations.py::test_derivatives_are_those_of_f",
    "test_functional.py::test_dense_in_every_mode",
    "test_functional.py::test_derivatives_up_to_the_fourth_order",
    "test_modules.py::TestDense::test_gradients",
    "test_transforms.py",
]


def run_pytest(folder, *arguments, df=DF, d2f=D2F):
    """Runs pytest with the row for softsign in the table."""
    (folder / "with_softsign.py").write_text(PLUGIN.format(df=df, d2f=d2f), "utf-8")
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    options = ["-q", "-n", "0", "-p", "with_softsign", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, encoding="utf-8"
    )


def counts(done):
    """How many tests passed, failed and so on, as {'passed': 12, …}, from pytest's last line."""
    return {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout[-300:])}


@pytest.mark.slow
def test_every_test_that_goes_over_the_table_goes_over_the_new_row(tmp_path):
    done = run_pytest(tmp_path, "--collect-only", "tests")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    over = defaultdict(set)  # each test with a place for the name → the names in that place
    for test in (line for line in done.stdout.splitlines() if "::" in line):
        for name in [*NAMES, "softsign"]:
            over[re.sub(rf"\b{name}\b", "{}", test)].add(name)
    whole = {test: names for test, names in over.items() if names >= {*NAMES} and "{}" in test}
    by_file = Counter(re.match(r"tests/(\w+)\.py", test)[1] for test, names in whole.items() if "softsign" in names)
    print(by_file)
    files_of = ["activations", "functional", "fused", "modules", "training", "transforms", "verify"]
    assert {f"test_{name}" for name in files_of} <= {*by_file}
    # Tests of Triton's kernels go over the rows that have one.
    assert {test.partition("::")[0] for test, names in whole.items() if "softsign" not in names} <= {
        "tests/test_triton.py"
    }


@pytest.mark.slow
def test_the_page_asks_for_it(tmp_path):
    """The list of which code computes each activation lacks it."""
    pytest.importorskip("triton", reason="no Triton here: the list has a column for it")
    test = "tests/test_implementations.py::test_the_page_says_which_code_computes_each_activation"
    done = run_pytest(tmp_path, test)
    assert counts(done) == {"failed": 1}, done.stdout[-4000:]
    assert "`softsign`" in done.stdout


@pytest.mark.slow
def test_they_pass(tmp_path):
    files = ["activations", "functional", "fused", "modules", "training", "transforms"]
    selected = [f"tests/test_{name}.py" for name in files]
    done = run_pytest(tmp_path, "-k", "softsign", "-m", "not slow", *selected)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert counts(done)["passed"] > 50


@pytest.mark.slow
def test_the_command_verifies_it(tmp_path):
    """It lists softsign among torchann's own operations, with and without a bias."""
    done = run_pytest(tmp_path, "tests/test_verify_command.py::TestOwnOperations", "-k", "table or matrix")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [{"df": "lambda o: 1 - o.abs()"}, {"d2f": "lambda o: 2 * o.sign() * (1 - o.abs()) ** 3"}],
    ids=["f′ without its square", "f″ without its sign"],
)
def test_a_wrong_derivative_is_found_by_each(tmp_path, wrong):
    done = run_pytest(
        tmp_path, "-k", "softsign and not compile", "--tb=no", *(f"tests/{check}" for check in CHECKS), **wrong
    )
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr
    failed = re.findall(r"^FAILED tests/(\S+?)(?=\[)", done.stdout, re.M)
    assert all(any(test.startswith(check) for test in failed) for check in CHECKS), done.stdout[-4000:]
