"""A row added to the table is all that a new activation takes: the tests go over it, and find it wrong.

pytest runs in a process of its own, with a plugin that adds one before the tests are collected.
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
NAMES = [*activations.TABLE]  # without bent_identity
# (√(z² + 1) − 1) / 2 + z
RIGHT = {
    "df": "z / (2 * (z * z + 1).sqrt()) + 1",
    "d2f": "(z * z + 1) ** -1.5 / 2",
    "d3f": "-1.5 * z * (z * z + 1) ** -2.5",
}
PLUGIN = """
from torchann.activations import TABLE, Activation

TABLE["bent_identity"] = Activation(
    "bent_identity",
    f=lambda z: ((z * z + 1).sqrt() - 1) / 2 + z,
    df=lambda z: {df},
    d2f=lambda z: {d2f},
    d3f=lambda z: {d3f},
)
"""
# Tests that check derivatives, from several files, and take seconds.
CHECKS = {  # for each derivative, those that find it wrong
    "d3f": [
        "test_activations.py::test_derivatives_are_those_of_f",
        "test_jets.py::test_derivatives_of_an_activation",
        "test_functional.py::test_derivatives_up_to_the_fourth_order",
    ],
}
CHECKS["d2f"] = [
    *CHECKS["d3f"],
    "test_functional.py::test_dense_in_every_mode",
    "test_transforms.py::test_every_activation",
]
CHECKS["df"] = [
    *CHECKS["d2f"],
    "test_activation_accuracy.py::test_errors_are_at_most_twice_those_of_pytorch",
]


def run_pytest(folder, *arguments, **wrong):
    """Runs pytest with the row for bent_identity in the table."""
    (folder / "with_bent_identity.py").write_text(PLUGIN.format(**{**RIGHT, **wrong}), "utf-8")
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    options = ["-q", "-n", "0", "-p", "with_bent_identity", "-p", "no:cacheprovider"]
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
        for name in [*NAMES, "bent_identity"]:
            over[re.sub(rf"\b{name}\b", "{}", test)].add(name)
    whole = {test: names for test, names in over.items() if names >= {*NAMES} and "{}" in test}
    by_file = Counter(
        re.match(r"tests/(\w+)\.py", test)[1] for test, names in whole.items() if "bent_identity" in names
    )
    print(by_file)
    files_of = ["activation_accuracy", "activations", "functional", "fused", "jets", "modules", "transforms"]
    assert {f"test_{name}" for name in files_of} <= {*by_file}
    # Tests of Triton's kernels go over the rows that have one.
    assert {test.partition("::")[0] for test, names in whole.items() if "bent_identity" not in names} <= {
        "tests/test_triton.py"
    }


@pytest.mark.slow
def test_the_page_asks_for_it(tmp_path):
    """The list of which code computes each activation lacks it."""
    pytest.importorskip("triton", reason="no Triton here: the list has a column for it")
    test = "tests/test_implementations.py::test_the_page_says_which_code_computes_each_activation"
    done = run_pytest(tmp_path, test)
    assert counts(done) == {"failed": 1}, done.stdout[-4000:]
    assert "`bent_identity`" in done.stdout


@pytest.mark.slow
def test_they_pass(tmp_path):
    files = ["activation_accuracy", "activations", "functional", "fused", "jets", "modules", "transforms"]
    selected = [f"tests/test_{name}.py" for name in files]
    done = run_pytest(tmp_path, "-k", "bent_identity", "-m", "not slow", *selected)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert counts(done)["passed"] > 30


@pytest.mark.slow
def test_the_command_verifies_it(tmp_path):
    """It lists bent_identity among torchann's own operations."""
    done = run_pytest(tmp_path, "tests/test_verify_command.py::TestOwnOperations", "-k", "table or matrix")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "wrong"),
    [
        ("df", "z / (z * z + 1).sqrt() + 1"),
        ("d2f", "(z * z + 1) ** -0.5 / 2"),
        ("d3f", "1.5 * z * (z * z + 1) ** -2.5"),
    ],
    ids=["f′ without its ½", "f″ of another power", "f‴ of another sign"],
)
def test_a_wrong_derivative_is_found_by_each(tmp_path, role, wrong):
    checks = CHECKS[role]
    selected = (f"tests/{check}" for check in checks)
    done = run_pytest(tmp_path, "-k", "bent_identity and not compile", "--tb=no", *selected, **{role: wrong})
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr
    failed = re.findall(r"^FAILED tests/(\S+?)(?=\[)", done.stdout, re.M)
    assert all(any(test.startswith(check) for test in failed) for check in checks), done.stdout[-4000:]
