"""The commands refuse bad data and bad runs: one line that names what is wrong, exit status 2, and no file changed.

To add a case, add a row to a table below; `check_refused` has the assertions.
"""

import gzip
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from command_line import unmonitored
from malice import Malice, sealed

from torchann.training import command, train

ROOT = Path(__file__).parents[1]
TARGET = ("--target", "kind")


class Bad(NamedTuple):
    """A bad file, and the message that names its fault.

    Args:
        what: what is wrong with it.
        file: its name.
        content: its bytes, a function that writes it to a path, or None for no file.
        message: a regular expression for all that follows "error: ", without the folder.
        options: further arguments of the command.
    """

    what: str
    file: str
    content: Any
    message: str
    options: tuple[str, ...] = ()

    def make(self, folder):
        path = folder / self.file
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        elif self.content is not None:
            self.content(path)
        return path


def table_of(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.what for case in cases])


# --- The assertions ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Temporary files go below `tmp_path`, so that `contents` finds those that are left behind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def refuse(tmp_path, capfd):
    """A function that asserts that the command refuses its arguments.

    `capfd` also catches what libraries print that are not in Python.
    """

    def refuse(message, *arguments):
        before = contents(tmp_path)
        try:
            status = command.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        check_refused(tmp_path, before, message, status, *capfd.readouterr())

    return refuse


def check_refused(folder, before, message, status, out, err):
    assert (status, out) == (2, ""), err
    (line,) = err.splitlines()
    name, error, shown = line.replace(f"{folder}/", "").partition(": error: ")
    assert error, line
    assert name in ("train.py", "train.py predict", "train.py evaluate")
    assert re.fullmatch(message, shown), shown
    assert contents(folder) == before


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# --- Tables -----------------------------------------------------------------------------------------------------------


def edited(rows=(), count=20):
    """A good CSV, with some rows (numbered from 1, the header) replaced."""
    lines = ["x,name,kind", *(f"{n / 4},{'ab'[n % 2]},{'uv'[n % 2]}" for n in range(count))]
    for row, text in dict(rows).items():
        lines[row - 1] = text
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def parquet(**columns):
    def write(path):
        good = pl.DataFrame({"x": np.arange(20.0), "kind": ["u", "v"] * 10})
        good.with_columns(**{name: pl.Series(values) for name, values in columns.items()}).write_parquet(path)

    return write


def overwritten(write, start, content):
    """A function that calls `write`, then overwrites the file with `content` from byte `start` on."""

    def write_both(path):
        write(path)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    return write_both


def cut_off(write, share=0.5):
    def write_some(path):
        write(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write_some


NOISE = np.random.default_rng(0).bytes(1000)
PACKED = gzip.compress(edited(count=2000))

OPEN = "expected a row of a CSV, its quotes closed, got an error: unexpected end of data"

TABLES = [
    Bad("no file", "bad.csv", None, r"--data: expected a file, or one of digits, .*, got '.*bad\.csv'", TARGET),
    Bad("a name too long for a file", "b" * 5000, None, r"--data: expected a file, .*, got '.*b'", TARGET),
    Bad("a folder", "bad.csv", Path.mkdir, r"bad\.csv: expected a file, got a folder", TARGET),
    Bad("an empty file", "bad.csv", b"", r"bad\.csv: expected data, got an empty file", TARGET),
    Bad("an unknown type", "bad.xlsx", b"x", r"bad\.xlsx: expected a file of the type \.csv, .*", TARGET),
    Bad("a header alone", "bad.csv", edited(count=0), r"bad\.csv: expected rows, got none", TARGET),
    Bad("blank lines alone", "bad.csv", b"\n\n\n", r"bad\.csv: row 1: expected the names of the columns, got nothing", TARGET),
    Bad("one row", "bad.csv", edited(count=1), r"bad\.csv: expected at least 2 rows, .*, got 1", (*TARGET, "--task", "classification")),
    Bad("a row too long", "bad.csv", edited({5: "1,a,u,2"}), r"bad\.csv: row 5: expected 3 values, got 4", TARGET),
    Bad("a row too short", "bad.csv", edited({5: "1,a"}), r"bad\.csv: row 5: expected 3 values, got 2", TARGET),
    Bad("text among numbers", "bad.csv", edited({5: "one,a,u"}), r"bad\.csv: row 5, column 'x': expected a number, got 'one'", TARGET),
    Bad("NaN", "bad.csv", edited({5: "nan,a,u"}), r"bad\.csv: row 5, column 'x': expected a value, got none \(empty or NaN\)", TARGET),
    Bad("an empty cell", "bad.csv", edited({5: ",a,u"}), r"bad\.csv: row 5, column 'x': expected a value, got none .*", TARGET),
    Bad("no target in a row", "bad.csv", edited({5: "1,a,"}), r"bad\.csv: row 5, column 'kind': expected a value, got none .*", (*TARGET, "--missing", "mean")),
    Bad("too few whole rows", "bad.csv", edited(dict.fromkeys(range(2, 21), ",a,u")), r"bad\.csv: expected at least 2 rows, .*, got 1", (*TARGET, "--missing", "drop")),
    *(Bad(text, "bad.csv", edited({5: f"{text},a,u"}), rf"bad\.csv: row 5, column 'x': expected a finite number, got {text}", TARGET) for text in ("inf", "-inf", "1e999")),
    Bad("a number too large", "bad.csv", edited({5: "1e300,a,u", 6: "1e300,a,u"}), r"bad\.csv: column 'x': expected numbers that can be squared, got larger ones", TARGET),
    Bad("one class", "bad.csv", edited().replace(b"v", b"u"), r"bad\.csv: column 'kind': expected at least two classes, got one: 'u'", TARGET),
    Bad("names for regression", "bad.csv", edited(), r"bad\.csv: row 2, column 'kind': expected a number, got 'u'", (*TARGET, "--task", "regression")),
    Bad("no target", "bad.csv", edited(), r"bad\.csv: expected --target, one of the columns x, name, kind, got none"),
    Bad("a target that is not there", "bad.csv", edited(), r"bad\.csv: expected a column 'price', got x, name, kind", ("--target", "price")),
    Bad("no column but the target", "bad.csv", b"kind\nu\nv\n", r"bad\.csv: expected columns beside the target 'kind', got none", TARGET),
    Bad("a column twice", "bad.csv", edited({1: "x,x,kind"}), r"bad\.csv: row 1: expected columns with different names, got 'x' twice", TARGET),
    Bad("too many names", "bad.csv", edited({n + 2: f"1,name {n},u" for n in range(1001)}, 2000), r"bad\.csv: column 'name': expected numbers or at most 1000 names, got more names", TARGET),
    Bad("a column without values", "bad.csv", edited({n + 2: f",a,{'uv'[n % 2]}" for n in range(20)}), r"bad\.csv: column 'x': expected values, got none", TARGET),
    Bad("other bytes in the middle", "bad.csv", edited({5: "1,\udcff,u"}), r"bad\.csv: row 5: expected text in UTF-8, got other bytes", TARGET),
    Bad("other bytes in the header", "bad.csv", edited({1: "x,\udcff,kind"}), r"bad\.csv: row 1: expected text in UTF-8, got other bytes", TARGET),
    Bad("UTF-16", "bad.csv", edited().decode().encode("utf-16"), r"bad\.csv: row 1: expected text in UTF-8, got other bytes", TARGET),
    Bad("NUL bytes", "bad.csv", edited({5: "1,\0,u"}), r"bad\.csv: row 5, column 'name': expected text without NUL, got '\\x00'", TARGET),
    Bad("NUL bytes in the header", "bad.csv", edited({1: "x,\0,kind"}), r"bad\.csv: row 1: expected the name of a column, got one with NUL in it", TARGET),
    Bad("NUL bytes alone", "bad.csv", bytes(1000), r"bad\.csv: row 1: expected the name of a column, got one with NUL in it", TARGET),
    Bad("a quote that is not closed", "bad.csv", edited({5: '1,"a,u'}), rf"bad\.csv: row 5: {OPEN}", TARGET),
    Bad("a quote that is not closed in the header", "bad.csv", edited({1: 'x,"name,kind'}), rf"bad\.csv: row 1: {OPEN}", TARGET),
    Bad("a quote that is not closed in the last row", "bad.csv", edited({21: '1,a,"u'}), rf"bad\.csv: row 21: {OPEN}", TARGET),
    Bad("a quote that is not closed at the end", "bad.csv", edited() + b'1,a,"u', rf"bad\.csv: row 22: {OPEN}", TARGET),
    Bad("a quote that is not closed in the last column", "bad.csv", edited({5: '1,a,"u'}), rf"bad\.csv: row 5: {OPEN}", TARGET),
    Bad("a gzip that is cut off", "bad.csv.gz", PACKED[:-40], r"bad\.csv\.gz: expected a table as text, got an error: .*", TARGET),
    Bad("a gzip that is cut off early", "bad.csv.gz", PACKED[:15], r"bad\.csv\.gz: expected a table as text, got an error: .*", TARGET),
    Bad("no gzip", "bad.csv.gz", edited(), r"bad\.csv\.gz: expected a table as text, got an error: Not a gzipped file .*", TARGET),
    Bad("a gzip of nothing", "bad.csv.gz", gzip.compress(b""), r"bad\.csv\.gz: row 1: expected the names of the columns, got nothing", TARGET),
    Bad("a gzip without .gz", "bad.csv", PACKED, r"bad\.csv: row 1: expected text in UTF-8, got other bytes", TARGET),
    Bad("no Parquet", "bad.parquet", NOISE, r"bad\.parquet: expected Parquet, got an error: .*", TARGET),
    Bad("Parquet that is cut off", "bad.parquet", cut_off(parquet()), r"bad\.parquet: expected Parquet, got an error: .*", TARGET),
    Bad("Parquet with other bytes", "bad.parquet", overwritten(parquet(), 4, NOISE[:150]), r"bad\.parquet: expected Parquet, got an error: .*", TARGET),
    Bad("Parquet that makes polars abort", "bad.parquet", overwritten(parquet(name=["a", "b"] * 10), 14, b"\5"), r"bad\.parquet: expected Parquet, got an error: .*", TARGET),
    Bad("Parquet without rows", "bad.parquet", lambda path: pl.DataFrame({"x": [1.0], "kind": ["u"]}).clear().write_parquet(path), r"bad\.parquet: expected rows, got none", TARGET),
    Bad("Parquet without columns", "bad.parquet", lambda path: pl.DataFrame().write_parquet(path), r"bad\.parquet: expected a column 'kind', got none", TARGET),
    Bad("lists", "bad.parquet", parquet(y=[[1, 2]] * 20), r"bad\.parquet: column 'y': expected numbers, text or booleans, got List\(Int64\)", TARGET),
    Bad("structs", "bad.parquet", parquet(y=[{"a": 1}] * 20), r"bad\.parquet: column 'y': expected numbers, text or booleans, got Struct.*", TARGET),
    Bad("dates", "bad.parquet", parquet(y=[date(2020, 1, 1)] * 20), r"bad\.parquet: column 'y': expected numbers, text or booleans, got Date", TARGET),
    Bad("NaN in Parquet", "bad.parquet", parquet(x=[float("nan"), *range(19)]), r"bad\.parquet: row 1, column 'x': expected a value, got none .*", TARGET),
    Bad("infinity in Parquet", "bad.parquet", parquet(x=[0.0] * 19 + [float("-inf")]), r"bad\.parquet: row 20, column 'x': expected a finite number, got -inf", TARGET),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])
@table_of(TABLES)
def test_tables(case, stream, tmp_path, refuse):
    options = [*case.options, *["--stream"] * stream, "--logdir", tmp_path / "runs"]
    refuse(case.message, "--data", case.make(tmp_path), *options)


# --- Arrays -----------------------------------------------------------------------------------------------------------

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
IMAGES, LABELS = np.arange(80).reshape(20, 2, 2), Y


def npz(**arrays):
    """A function that writes an .npz of the arrays; x and y are good ones unless given, and None leaves one out."""
    arrays = {name: values for name, values in {"x": X, "y": Y, **arrays}.items() if values is not None}
    return lambda path: np.savez(path, **arrays)


def pt(**content):
    return lambda path: torch.save({"x": torch.from_numpy(X), "y": torch.from_numpy(Y), **content}, path)


def malicious(path):
    return {"x": torch.zeros(20, 2), "y": Malice(path.with_name("executed"))}


def write_objects(path):
    np.savez(path, x=X, y=np.array([Malice(path.with_name("executed"))] * 20, dtype=object))


def write_array(path):
    with path.open("wb") as file:
        np.save(file, X)


def write_pickle(path):
    path.write_bytes(pickle.dumps(malicious(path)))


def idx(values, kind=8, shape=None):
    header = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *(shape or values.shape))
    return header + values.astype(np.uint8).tobytes()


def pair(images=None, labels=None):
    """A function that writes both files of an IDX pair, good ones unless bytes are given."""
    files = {"images-idx3-ubyte": images or idx(IMAGES), "labels-idx1-ubyte": labels or idx(LABELS)}

    def write(path):
        for name, content in files.items():
            packed = path.suffix == ".gz"
            path.with_name(name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)

    return write


NPZ, PT = (
    r"bad\.npz: expected an \.npz file with x and y, got .+",
    r"bad\.pt: expected a \.pt file .*, and nothing to execute, got .+",
)

ARRAYS = [
    Bad("--target", "bad.npz", npz(), r"--target: expected a table as --data, got bad\.npz", ("--target", "y")),
    Bad("--stream", "bad.npz", npz(), r"--stream: expected a table as --data, got bad\.npz", ("--stream",)),
    Bad("noise for npz", "bad.npz", NOISE, NPZ),
    Bad("an npz that is cut off", "bad.npz", cut_off(npz(), 0.7), NPZ),
    Bad("other bytes in an npz", "bad.npz", overwritten(npz(), 200, b"other bytes"), NPZ),
    Bad("an array alone", "bad.npz", write_array, r"bad\.npz: expected an \.npz file with x and y, got File is not a zip file"),
    Bad("no x", "bad.npz", npz(x=None), r"bad\.npz: expected x and y, got y"),
    Bad("a name of two lines", "bad.npz", npz(x=None, **{"two\nlines": X}), r"bad\.npz: expected x and y, got y, two\\nlines"),
    Bad("no y", "bad.npz", npz(y=None), r"bad\.npz: expected y, the targets, beside x, got none"),
    Bad("malicious objects", "bad.npz", write_objects, NPZ),
    Bad("a malicious pickle for npz", "bad.npz", write_pickle, NPZ),
    Bad("one row", "bad.npz", npz(x=X[:1], y=Y[:1], classes=["a", "b"]), r"bad\.npz: expected at least 2 rows, .*, got 1"),
    Bad("no rows", "bad.npz", npz(x=X[:0], y=Y[:0]), r"bad\.npz: x: expected samples, got an array of shape \[0, 2\]"),
    Bad("y of another length", "bad.npz", npz(y=Y[:7]), r"bad\.npz: expected as many samples in x as in y, got 20 and 7"),
    Bad("x of no dimension", "bad.npz", npz(x=np.array(1.0)), r"bad\.npz: x: expected numbers of shape \[N, …\], got float64 of shape \[\]"),
    Bad("x of names", "bad.npz", npz(x=X.astype(str)), r"bad\.npz: x: expected numbers of shape \[N, …\], got <U32 of shape \[20, 2\]"),
    Bad("y of three dimensions", "bad.npz", npz(y=np.zeros((20, 2, 2))), r"bad\.npz: y: expected shape \[N\] or \[N, outputs\], got float64 of shape \[20, 2, 2\]"),
    Bad("y of no dimension", "bad.npz", npz(y=np.array(1)), r"bad\.npz: y: expected shape \[N\] or \[N, outputs\], got int64 of shape \[\]"),
    Bad("y of no outputs", "bad.npz", npz(y=np.zeros((20, 0))), r"bad\.npz: y: expected shape \[N\] or \[N, outputs\], got float64 of shape \[20, 0\]"),
    Bad("NaN", "bad.npz", npz(x=np.where(X == 9, np.nan, X)), r"bad\.npz: x: row 5, column 2: expected a number, got nan"),
    Bad("NaN in y", "bad.npz", npz(y=np.where(X[:, 0] == 8, np.nan, 1.5)), r"bad\.npz: y: row 5: expected a number, got nan", ("--missing", "mean")),
    Bad("NaN in all rows", "bad.npz", npz(x=X * np.nan), r"bad\.npz: expected rows without missing values, got none", ("--missing", "drop")),
    Bad("infinity", "bad.npz", npz(x=np.where(X == 9, -np.inf, X)), r"bad\.npz: x: row 5, column 2: expected a finite number, got -inf"),
    Bad("numbers too large", "bad.npz", npz(x=np.where(X > 9, 1e300, X)), r"bad\.npz: column 'x0': expected numbers that can be squared, got larger ones"),
    Bad("one class", "bad.npz", npz(y=Y * 0), r"bad\.npz: y: expected at least two classes, got one: 0"),
    Bad("one class with a name", "bad.npz", npz(y=Y * 0, classes=["a"]), r"bad\.npz: y: expected at least two classes, got one: a"),
    Bad("classes that are no list", "bad.npz", npz(classes=np.array(3)), NPZ),
    Bad("two classes of one name", "bad.npz", npz(classes=["a", "a"]), r"bad\.npz: classes: expected different names, got 'a' twice"),
    Bad("a class below 0", "bad.npz", npz(y=Y - 1), r"bad\.npz: y: row 1: expected a class number from 0 to 1, as there are 2 classes, got -1"),
    Bad("half a class", "bad.npz", npz(y=Y / 2), r"bad\.npz: y: row 2: expected a class number from 0 to 1, as there are 2 classes, got 0\.5", ("--task", "classification")),
    Bad("classes of two outputs", "bad.npz", npz(y=X.round()), r"bad\.npz: y: expected class numbers of shape \[N\], got shape \[20, 2\]", ("--task", "classification")),
    Bad("names for regression", "bad.npz", npz(y=np.array(["a", "b"] * 10)), r"bad\.npz: y: expected numbers for regression, got names", ("--task", "regression")),
    Bad("malice", "bad.pt", lambda path: torch.save(malicious(path), path), PT),
    Bad("malice in the old format", "bad.pt", lambda path: torch.save(malicious(path), path, _use_new_zipfile_serialization=False), PT),
    Bad("a malicious pickle", "bad.pt", write_pickle, PT),
    Bad("noise for .pt", "bad.pt", NOISE, PT),
    Bad("a .pt that is cut off", "bad.pt", cut_off(pt()), PT),
    Bad("a tensor alone", "bad.pt", lambda path: torch.save(torch.zeros(3), path), r"bad\.pt: expected y, the targets, beside x, got none"),
    Bad("a number", "bad.pt", lambda path: torch.save(7, path), r"bad\.pt: expected x and y by their names, got int"),
    Bad("dictionaries in a dictionary", "bad.pt", pt(x={"a": 1}), r"bad\.pt: x: expected numbers of shape \[N, …\], got object of shape \[\]"),
    Bad("a ragged list", "bad.pt", pt(x=[[1], [1, 2]]), PT),
    Bad("a sparse tensor", "bad.pt", pt(x=torch.eye(20).to_sparse()), PT),
    Bad("a tensor without values", "bad.pt", pt(x=torch.zeros(20, 2, device="meta")), PT),
    Bad("noise for safetensors", "bad.safetensors", NOISE, r"bad\.safetensors: expected a \.safetensors file with x and y, got .+"),
    Bad("safetensors that are cut off", "bad.safetensors", safetensors.torch.save({"x": torch.zeros(20)})[:-9], r"bad\.safetensors: expected a \.safetensors file with x and y, got .+"),
    Bad("noise for IDX", "images-idx3-ubyte", pair(images=NOISE), r"images-idx3-ubyte: expected IDX that begins with 00000803, got [0-9a-f]{8}"),
    Bad("another magic number", "images-idx3-ubyte", pair(idx(IMAGES, kind=9)), r"images-idx3-ubyte: expected IDX that begins with 00000803, got 00000903"),
    Bad("fewer bytes than the header says", "images-idx3-ubyte", pair(idx(IMAGES)[:-1]), r"images-idx3-ubyte: expected 96 bytes, as its header says, got 95"),
    Bad("more bytes than there can be", "images-idx3-ubyte", pair(idx(IMAGES, shape=[2**32 - 1] * 3)), r"images-idx3-ubyte: expected \d{29} bytes, as its header says, got 96"),
    Bad("an IDX header that is cut off", "images-idx3-ubyte", pair(idx(IMAGES)[:9]), r"images-idx3-ubyte: expected a header of 16 bytes, got 9"),
    Bad("an IDX gzip that is cut off", "images-idx3-ubyte.gz", cut_off(pair()), r"images-idx3-ubyte\.gz: expected IDX, got Compressed file ended .*"),
    Bad("an IDX that is no gzip", "images-idx3-ubyte.gz", idx(IMAGES), r"images-idx3-ubyte\.gz: expected IDX, got Not a gzipped file .*"),
    Bad("no labels", "images-idx3-ubyte", idx(IMAGES), r"images-idx3-ubyte: expected y, the targets, beside x, got none"),
    Bad("labels for images", "labels-idx3-ubyte", idx(LABELS), r"labels-idx3-ubyte: expected IDX that begins with 00000803, got 00000801"),
    Bad("images for labels", "images-idx3-ubyte", pair(labels=idx(IMAGES)), r"labels-idx1-ubyte: expected IDX that begins with 00000801, got 00000803"),
    Bad("labels out of range", "images-idx3-ubyte", pair(labels=idx(LABELS * 200)), r"images-idx3-ubyte: y: row 2: expected a class number from 0 to 1, as there are 2 classes, got 200"),
    Bad("labels of another length", "images-idx3-ubyte", pair(labels=idx(LABELS[:7])), r"images-idx3-ubyte: expected as many samples in x as in y, got 20 and 7"),
]  # fmt: skip


@table_of(ARRAYS)
def test_arrays(case, tmp_path, refuse):
    refuse(case.message, "--data", case.make(tmp_path), *case.options, "--logdir", tmp_path / "runs")


@pytest.mark.parametrize("options", [("--target", "kind"), ("--stream",)])
def test_a_bundled_set_is_no_table(options, tmp_path, refuse):
    refuse(f"{options[0]}: expected a table as --data, got iris", "--data", "iris", *options, "--logdir", tmp_path)


# --- New rows for a run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a table, and one on arrays."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "good.csv").write_bytes(edited())
    npz()(folder / "good.npz")
    for file, target in (("good.csv", "kind"), ("good.npz", None)):
        config = unmonitored(data=str(folder / file), target=target, hidden=(4,), epochs=2, logdir=str(folder / "runs"))
        shutil.move(train(config).folder, folder / Path(file).suffix.removeprefix("."))
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of both runs, and an older file of predictions."""
    for name in ("csv", "npz"):
        shutil.copytree(trained / name, tmp_path / name)
    (tmp_path / "out.csv").write_text("mine")
    return tmp_path


NEW_ROWS = [
    Bad("no file", "new.csv", None, r"new\.csv: no such file"),
    Bad("a name too long for a file", "n" * 5000, None, r"n*: .*"),
    Bad("a folder", "new.csv", Path.mkdir, r"new\.csv: expected a file, got a folder"),
    Bad("no rows", "new.csv", edited(count=0), r"new\.csv: expected rows, got none"),
    Bad("an unknown name", "new.csv", edited({5: "1,c,u"}), r"new\.csv: row 5, column 'name': expected one of a, b, as in the data it was trained with, got 'c'"),
    Bad("a column less", "new.csv", b"x,kind\n1,u\n", r"new\.csv: expected a column 'name', got x, kind"),
    Bad("text for a number", "new.csv", edited({5: "one,a,u"}), r"new\.csv: row 5, column 'x': expected a number, got 'one'"),
    Bad("text for all numbers", "new.csv", b"x,name,kind\na,a,u\nb,b,v\n", r"new\.csv: row 2, column 'x': expected a number, got 'a'"),
    Bad("no value", "new.csv", edited({5: ",a,u"}), r"new\.csv: row 5, column 'x': expected a value, got none .*"),
    Bad("infinity", "new.csv", edited({5: "inf,a,u"}), r"new\.csv: row 5, column 'x': expected a finite number, got inf"),
    Bad("a row too short", "new.csv", edited({5: "1"}), r"new\.csv: row 5: expected 3 values, got 1"),
    Bad("numbers for names", "new.csv", edited({5: "1,2,u"}), r"new\.csv: row 5, column 'name': expected one of a, b, .*, got '2'"),
    Bad("dates", "new.parquet", parquet(name=[date(2020, 1, 1)] * 20), r"new\.parquet: column 'name': expected numbers, text or booleans, got Date"),
    Bad("arrays for a table", "new.npz", npz(x=np.ones((20, 3))), r"new\.npz: expected a table with the columns x, name, some of which are of names, got arrays"),
    Bad("a table for arrays", "new.csv", edited(), r"new\.csv: expected a column 'x0', got x, name, kind", ("npz",)),
    Bad("another number of inputs", "new.npz", npz(x=IMAGES), r"new\.npz: x: expected 2 numbers a sample \(x0, x1\), got 4", ("npz",)),
    Bad("NaN", "new.npz", npz(x=np.where(X == 9, np.nan, X)), r"new\.npz: x: row 5, column 2: expected a number, got nan", ("npz",)),
    Bad("malice", "new.pt", lambda path: torch.save(malicious(path), path), PT.replace("bad", "new"), ("npz",)),
]  # fmt: skip
TARGETS = [
    Bad("no target", "new.csv", b"x,name\n1,a\n", r"new\.csv: expected a column 'kind', got x, name"),
    Bad("an unknown class", "new.csv", edited({5: "1,a,w"}), r"new\.csv: row 5, column 'kind': expected one of u, v, .*, got 'w'"),
    Bad("an empty target", "new.csv", edited({5: "1,a,"}), r"new\.csv: row 5, column 'kind': expected a value, got none .*"),
    Bad("no y", "new.npz", npz(y=None), r"new\.npz: expected y, the targets, beside x, got none", ("npz",)),
    Bad("a class number too large", "new.npz", npz(y=Y + 1), r"new\.npz: y: row 2: expected a class number from 0 to 1, .*, got 2", ("npz",)),
    Bad("names for numbers", "new.npz", npz(y=np.array(["a", "b"] * 10)), r"new\.npz: y: row 1: expected one of the classes 0, 1, got a", ("npz",)),
]  # fmt: skip


@table_of(NEW_ROWS)
def test_predict(case, runs, refuse):
    (run,) = case.options or ("csv",)
    refuse(case.message, "predict", runs / run, case.make(runs), "--out", runs / "out.csv")


@table_of(NEW_ROWS + TARGETS)
def test_evaluate(case, runs, refuse):
    (run,) = case.options or ("csv",)
    refuse(case.message, "evaluate", runs / run, case.make(runs))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/out.csv", r"nowhere/out\.csv: expected to write it, got No such file or directory"),
        ("csv", r"csv: expected to write it, got Is a directory"),
        ("out.csv/more.csv", r"out\.csv/more\.csv: expected to write it, got Not a directory"),
        ("/", r"/: expected to write it, got .*"),
    ],
)
def test_where_predictions_cannot_go(out, message, runs, refuse):
    (runs / "new.csv").write_bytes(edited())
    refuse(message, "predict", runs / "csv", runs / "new.csv", "--out", runs / out)


# --- Runs -------------------------------------------------------------------------------------------------------------


class BadRun(NamedTuple):
    """A bad run: one of its files, the function that spoils it, and the message."""

    what: str
    file: str
    spoil: Callable[[Path], Any]
    message: str


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def edit(old, new):
    def write(path):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return write


save_malice = sealed(lambda path: torch.save({"format": 1, **malicious(path)}, path))
pickle_malice = sealed(write_pickle)
DAMAGED = r"expected a checkpoint, got a file that is truncated or damaged, or none that a run wrote"
MORE = r"expected a checkpoint, got one with more in it than tensors and plain values; it was not executed"

CHECKPOINTS = [
    ("missing", Path.unlink, "expected a checkpoint, got no file"),
    ("empty", lambda path: path.write_bytes(b""), DAMAGED),
    ("cut off", truncate, DAMAGED),
    ("with a flipped bit", flip, DAMAGED),
    ("a pickle", write_pickle, DAMAGED),
    ("a sealed pickle", pickle_malice, MORE),
    ("malicious", save_malice, MORE),
    ("of something else", sealed(lambda path: torch.save({"format": 1}, path)), "expected a checkpoint, got one without 'config'"),
    ("of a list", sealed(lambda path: torch.save([1], path)), "expected a checkpoint, got one without 'format': 1"),
]  # fmt: skip
CONFIGS = [
    BadRun("no folder", ".", shutil.rmtree, r"csv/config\.json: No such file or directory"),
    BadRun("no config", "config.json", Path.unlink, r"csv/config\.json: No such file or directory"),
    BadRun("no JSON", "config.json", truncate, r"csv/config\.json: expected JSON \(.*\)"),
    BadRun("other bytes", "config.json", lambda path: path.write_bytes(NOISE), r"csv/config\.json: expected JSON \(.*\)"),
    BadRun("a list", "config.json", lambda path: path.write_text("[]"), r"csv/config\.json: expected JSON \(no table of options\)"),
    BadRun("deep brackets", "config.json", lambda path: path.write_text("[" * 100_000), r"csv/config\.json: expected JSON \(.*\)"),
    BadRun("an unknown option", "config.json", edit('"epochs"', '"epoch"'), r"csv/config\.json: epoch: unknown option; known: data, .*"),
    BadRun("a bad value", "config.json", edit('"epochs": 2', '"epochs": -2'), r"csv/config\.json: --epochs: expected an integer from 1 to \d+, got -2"),
    BadRun("another network", "config.json", edit('"hidden": [\n    4\n  ]', '"hidden": [5]'), r"csv/checkpoints/last\.pt: expected a checkpoint, got one of a run with hidden = \[4\], not \[5\] as in config\.json"),
    BadRun("a summary that is cut off", "summary.json", truncate, r"csv/summary\.json: expected JSON, got .*"),
    BadRun("no data", "config.json", edit("good.csv", "gone.csv"), r"--data: expected a file, .*, got '.*gone\.csv'"),
]  # fmt: skip


@table_of([BadRun(what, "checkpoints/last.pt", spoil, rf"csv/checkpoints/last\.pt: {message}") for what, spoil, message in CHECKPOINTS] + CONFIGS)  # fmt: skip
def test_resume(case, runs, refuse):
    (runs / "csv/checkpoints/previous.pt").unlink()
    case.spoil(runs / "csv" / case.file)
    refuse(case.message, "--resume", runs / "csv")


@pytest.mark.parametrize("name", ["predict", "evaluate"])
@pytest.mark.parametrize(("what", "spoil", "message"), CHECKPOINTS, ids=[row[0] for row in CHECKPOINTS])
def test_the_best_network(name, what, spoil, message, runs, refuse):
    spoil(runs / "csv/checkpoints/best.pt")
    (runs / "new.csv").write_bytes(edited())
    refuse(rf"csv/checkpoints/best\.pt: {message}", name, runs / "csv", runs / "new.csv")


@pytest.mark.parametrize("arguments", [("predict", "new.csv"), ("evaluate",)])
def test_a_run_without_an_epoch(arguments, runs, refuse):
    (runs / "csv/checkpoints/best.pt").unlink()
    (runs / "csv/summary.json").unlink()
    message = r"csv/checkpoints/best\.pt: expected a run that has ended an epoch, got one to --resume first"
    refuse(message, arguments[0], runs / "csv", *arguments[1:])


@pytest.mark.parametrize("arguments", [("predict", "new.csv"), ("evaluate", "new.csv"), ("evaluate",)])
@pytest.mark.parametrize("run", ["nowhere", "n" * 5000], ids=["no run", "a name too long for a folder"])
def test_no_run(run, arguments, tmp_path, refuse):
    message = rf"{run}/checkpoints/best\.pt: expected a checkpoint, got no file"
    refuse(message, arguments[0], tmp_path / run, *arguments[1:])


CONFIG_FILES = [
    Bad("no file", "bad.toml", None, r"bad\.toml: No such file or directory"),
    Bad("a folder", "bad.toml", Path.mkdir, r"bad\.toml: Is a directory"),
    Bad("no TOML", "bad.toml", b"epochs = ", r"bad\.toml: expected TOML \(Invalid value .*\)"),
    Bad("other bytes", "bad.toml", NOISE, r"bad\.toml: expected TOML \(.*\)"),
    Bad("an unknown option", "bad.toml", b"epoch = 3", r"bad\.toml: epoch: unknown option; known: data, .*"),
    Bad("a table of options", "bad.toml", b"[epochs]\nlast = 3", r"bad\.toml: --epochs: expected an integer .*, got {'last': 3}"),
    Bad("text for a number", "bad.toml", b'lr = "0.1"', r"bad\.toml: --lr: expected a positive number, got '0\.1'"),
]  # fmt: skip


@table_of(CONFIG_FILES)
def test_config(case, tmp_path, refuse):
    refuse(case.message, "--config", case.make(tmp_path), "--logdir", tmp_path / "runs")


# --- As a program -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "bad.csv", "--target", "kind"), r"bad\.csv: row 5, column 'x': expected a number, got 'one'"),
        (("predict", "csv", "bad.csv", "--out", "out.csv"), r"bad\.csv: row 5, column 'x': expected a number, got 'one'"),
        (("--data", "bad.pt"), PT),
        (("--resume", "npz"), rf"npz/checkpoints/last\.pt: {MORE}"),
    ],
)  # fmt: skip
def test_the_program(arguments, message, runs):
    (runs / "bad.csv").write_bytes(edited({5: "one,a,u"}))
    (runs / "npz/checkpoints/previous.pt").unlink()
    save_malice(runs / "npz/checkpoints/last.pt")
    write_pickle(runs / "bad.pt")
    before = contents(runs)
    done = subprocess.run([sys.executable, ROOT / "train.py", *arguments], capture_output=True, text=True, cwd=runs)
    check_refused(runs, before, message, done.returncode, done.stdout, done.stderr)
