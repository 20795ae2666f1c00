"""The wheel and the sdist have the right files, and `import torchann` loads nothing but torch."""

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_IN_SDIST = (".gitattributes", ".gitignore", ".github/", "runs/")
GENERATED = ("PKG-INFO", "setup.cfg", "torchann.egg-info/")
LITTER = ["runs/run/metrics.csv", "site/index.html", "tests/__pycache__/cases.pyc", "benchmarks/results/cpu-rough.json"]


def run(*command, cwd=ROOT):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- The files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing to compare with")
    return {name for name in run("git", "ls-files", "-z").split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """The folder with the sdist and its wheel, built from a copy of the checkout that also has files git ignores."""
    for module in ("build", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'torchann[test]'")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked | set(LITTER):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"litter" if name in LITTER else (ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)  # in isolation it needs a network
    return out


@pytest.mark.slow
def test_the_sdist_is_what_git_tracks(built, tracked):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    expected = {name for name in tracked if not name.startswith(NOT_IN_SDIST)}
    assert {name for name in names if not name.startswith(GENERATED)} == expected


@pytest.mark.slow
def test_the_wheel_is_the_package_alone(built, tracked):
    (path,) = built.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    (metadata,) = {name.partition("/")[0] for name in names} - {"torchann"}
    assert {name for name in names if name.startswith("torchann/")} == {
        name for name in tracked if name.startswith("torchann/")
    }
    assert {"torchann/py.typed", "torchann/native/network.cpp", f"{metadata}/licenses/LICENSE"} <= names


# --- The import -------------------------------------------------------------------------------------------------------


def test_import_loads_nothing_but_torch():
    """Neither an optional dependency, nor another package that PyTorch itself has not loaded yet, nor its compiler."""
    program = (
        "import sys, torch; before = {*sys.modules}; import torchann; assert 'torch._dynamo' not in sys.modules\n"
        "print(*{name.partition('.')[0] for name in {*sys.modules} - before} - {*sys.stdlib_module_names})"
    )
    assert set(run(sys.executable, "-c", program).split()) <= {"torch", "torchann"}


def test_works_without_numpy():
    """PyTorch does, too, after a warning."""
    program = (
        "import sys; sys.modules['numpy'] = None; import torch, torchann\n"
        "net, x = torchann.MLP([3, 4, 2]), torch.randn(5, 3)\n"
        "torchann.HalfSquaredErrorLoss()(net(x), torch.rand(5, 2)).backward()\n"
        "print(torchann.trace(net, x, torch.rand(5, 2), torchann.HalfSquaredErrorLoss()))\n"
        "report = torchann.verify(net, (x,), checks=['reverse', 'forward', 'double-backward'])\n"
        "assert report.ok, report"
    )
    run(sys.executable, "-c", program)
