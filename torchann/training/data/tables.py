"""Tables: CSV, TSV and Parquet. polars reads them piece by piece; errors name the row and the column.

A column holds numbers if all its values are numbers, else names. If nearly all values are numbers, any other value is
an error. Rows are numbered from 1, with the header of a CSV as row 1. A cell in quotes may contain line breaks, so a
row number can be smaller than the line number that an editor shows.
"""

from __future__ import annotations

import csv
import gzip
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

import polars as pl
from polars.exceptions import PanicException, PolarsError

from torchann.training.data.errors import DataError
from torchann.training.files import in_one_line

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
MISSING = ("", "NA", "N/A", "NaN", "nan", "NAN", "null", "NULL")  # cells of a CSV that hold no value
PIECE = 2**19  # values in a piece
NEARLY_ALL = 0.9  # of the values of a column
MOST_CATEGORIES = 1000
ROW = "\0row"  # the name of the column that holds the row numbers

Kind: TypeAlias = Literal["number", "name", "whole"]  # whole: integers that are class names


def is_table(path: Path) -> bool:
    return suffix_of(path) in (*SEPARATORS, *PARQUET)


def suffix_of(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


class Table:
    """A table in a file.

    Raises:
        DataError: the file is no table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.separator = SEPARATORS.get(suffix_of(path))
        self.first_row = 1 if self.separator is None else 2
        if self.separator is None:
            check_parquet(path)
        else:
            self.check_header()
        with self.reading():
            self.schema = self.lazy().collect_schema()
        self.columns = self.schema.names()
        if self.separator is not None:
            self.check_layout()

    def lazy(self) -> pl.LazyFrame:
        if self.separator is None:
            return pl.scan_parquet(self.path, glob=False)
        scan = pl.scan_csv(self.path, separator=self.separator, infer_schema=False, glob=False)
        return scan.rename(str.strip)

    def scan(self, columns: Sequence[str]) -> pl.LazyFrame:
        """The columns and `ROW`: numbers unchanged, everything else as stripped text, null for a missing value.

        Blank lines of a CSV are left out.
        """
        rows = self.lazy().with_row_index(ROW, self.first_row)
        if self.separator is not None:
            cells = pl.col(self.columns)
            rows = rows.filter(~pl.all_horizontal(cells.is_null() | (cells.str.strip_chars() == "")))
        return rows.select(ROW, *map(self.normal, columns))

    def normal(self, name: str) -> pl.Expr:
        column, dtype = pl.col(name), self.schema[name]
        if dtype.is_float() or dtype.is_decimal():
            return column.cast(pl.Float64).fill_nan(None)
        if dtype.is_numeric():
            return column
        if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null):
            text = column.cast(pl.String).str.strip_chars()
            return pl.when(~text.is_in(MISSING if self.separator else ("",))).then(text).alias(name)
        raise DataError(f"{self.path}: column {name!r}: expected numbers, text or booleans, got {dtype}")

    def pieces(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The rows of `scan`, in order."""
        rows = max(1, PIECE // (1 + len(columns)))
        scan = self.scan(columns)
        with self.reading():
            yield from scan.collect_batches(chunk_size=rows, maintain_order=True)

    def require(self, columns: list[str]) -> None:
        for name in columns:
            if name not in self.columns:
                raise DataError(f"{self.path}: expected a column {name!r}, got {', '.join(self.columns) or 'none'}")

    def bad(self, row: int, column: str, expected: str, got: str) -> DataError:
        return DataError(f"{self.path}: row {row}, column {column!r}: expected {expected}, got {got}")

    # --- Checks of a CSV's rows ---------------------------------------------------------------------------------------

    def check_header(self) -> None:
        with self.reading(), self.open() as file:
            names = [name.strip() for name in next(self.rows(file), [])]
        if not names:
            raise DataError(f"{self.path}: row 1: expected the names of the columns, got nothing")
        for name in names:
            if "\0" in name:
                raise DataError(f"{self.path}: row 1: expected the name of a column, got one with NUL in it")
            if names.count(name) > 1:
                raise DataError(f"{self.path}: row 1: expected columns with different names, got {name!r} twice")

    def check_layout(self) -> None:
        """Check the number of values in each row.

        polars pads short rows with nulls. So if the last column has a null, read the rows again with the csv module.
        """
        with self.reading():
            if self.lazy().select(pl.col(self.columns[-1]).is_null().any()).collect(engine="streaming").item():
                self.find_bad_row()

    def find_bad_row(self) -> None:
        """Raise for the first row that is not UTF-8, or has too few or too many values. Blank rows are skipped."""
        with self.open() as file:
            for number, row in enumerate(self.rows(file), 1):
                if any(map(str.strip, row)) and len(row) != len(self.columns):
                    wanted = "1 value" if len(self.columns) == 1 else f"{len(self.columns)} values"
                    raise DataError(f"{self.path}: row {number}: expected {wanted}, got {len(row)}")

    def rows(self, file: BinaryIO) -> Iterator[list[str]]:
        """The rows by Python's csv module, which tells the row that is not UTF-8 or has an unclosed quote."""
        lines = (line.decode("utf-8-sig") for line in file)
        rows = csv.reader(lines, delimiter=self.separator or ",", strict=True)
        for number in count(1):
            try:
                yield next(rows)
            except StopIteration:
                return
            except UnicodeDecodeError:
                raise DataError(f"{self.path}: row {number}: expected text in UTF-8, got other bytes") from None
            except csv.Error as error:
                expected = "a row of a CSV, its quotes closed"
                raise DataError(f"{self.path}: row {number}: expected {expected}, got an error: {error}") from None

    def open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path)) if self.path.suffix == ".gz" else self.path.open("rb")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn any error of reading the file into a DataError of one line."""
        try:
            yield
        except (OSError, EOFError, zlib.error, PolarsError, PanicException) as error:
            if isinstance(error, PolarsError) and self.separator is not None and hasattr(self, "columns"):
                self.find_bad_row()
            format = "Parquet" if self.separator is None else "a table as text"
            raise DataError(f"{self.path}: expected {format}, got an error: {in_one_line(error)}") from error


READ_ALL = """
import sys
import polars
for piece in polars.scan_parquet(sys.argv[1], glob=False).collect_batches():
    pass
"""


def check_parquet(path: Path) -> None:
    """Read the file once in a separate process, because polars may abort the process on a damaged file.

    Raises:
        DataError: it can't be read.
    """
    read = subprocess.run([sys.executable, "-c", READ_ALL, path], capture_output=True, text=True, errors="replace")
    if read.returncode != 0:
        reasons = re.findall(r"^polars\.exceptions\.\w+: (.+)$", read.stderr, re.MULTILINE)
        reason = reasons[-1] if reasons else "it can't be read"
        raise DataError(f"{path}: expected Parquet, got an error: {reason}")


@dataclass
class ColumnProfile:
    """What a column contains.

    Attributes:
        values, numbers, integers: how many of each there are.
        missing, infinite, text, nul: the row number and the value of the first of each; nul: text that contains NUL.
        distinct: the different values; incomplete once there are more than `MOST_CATEGORIES`.
    """

    name: str
    values: int = 0
    numbers: int = 0
    integers: int = 0
    missing: tuple[int, str] | None = None
    infinite: tuple[int, str] | None = None
    text: tuple[int, str] | None = None
    nul: tuple[int, str] | None = None
    distinct: set[str] = field(default_factory=set)

    def add(self, column: pl.Series, rows: pl.Series) -> None:
        values = column.drop_nulls()
        as_numbers = column.cast(pl.Float64, strict=False).fill_nan(None)
        self.values += len(values)
        self.numbers += as_numbers.count()
        self.integers += int((as_numbers == as_numbers.floor()).sum())
        self.missing = self.missing or first(column, rows, column.is_null())
        self.infinite = self.infinite or first(column, rows, as_numbers.is_infinite())
        if as_numbers.count() < len(values):
            self.text = self.text or first(column, rows, as_numbers.is_null() & column.is_not_null())
            self.nul = self.nul or first(column, rows, column.str.contains("\0", literal=True))
        if len(self.distinct) <= MOST_CATEGORIES:
            self.distinct.update(values.unique().cast(pl.String))

    @property
    def is_numeric(self) -> bool:
        return self.numbers == self.values

    @property
    def is_nearly_numeric(self) -> bool:
        return NEARLY_ALL * self.values <= self.numbers < self.values


def first(column: pl.Series, rows: pl.Series, found: pl.Series) -> tuple[int, str] | None:
    place = found.arg_max() if found.any() else None
    return None if place is None else (rows[place], str(column[place]))


def profile_columns(table: Table, columns: Sequence[str]) -> dict[str, ColumnProfile]:
    """Profile the columns, in one pass over the table.

    Raises:
        DataError: the table has no rows.
    """
    found = {name: ColumnProfile(name) for name in columns}
    rows = 0
    for piece in table.pieces(columns):
        rows += len(piece)
        for name, column in found.items():
            column.add(piece[name], piece[ROW])
    if rows == 0:
        raise DataError(f"{table.path}: expected rows, got none")
    return found


def kind_of(table: Table, column: ColumnProfile) -> Kind:
    """Whether a column holds numbers or names.

    Raises:
        DataError: the column is empty, or nearly all its values are numbers, but not all.
    """
    if column.values == 0:
        raise DataError(f"{table.path}: column {column.name!r}: expected values, got none")
    if column.text and column.is_nearly_numeric:
        raise bad_text(table, column)
    return "number" if column.is_numeric else "name"


def check(table: Table, column: ColumnProfile, kind: Kind, may_be_missing: bool) -> None:
    """Check that the column's values fit its kind, are finite and, unless they may be missing, are all there.

    Raises:
        DataError: names the first row where a value is wrong.
    """
    if kind != "name" and column.text:
        raise bad_text(table, column)
    if column.nul:
        raise table.bad(column.nul[0], column.name, "text without NUL", repr(column.nul[1]))
    if kind != "name" and column.infinite:
        row, value = column.infinite
        raise table.bad(row, column.name, "a finite number", value)
    if kind == "name" and len(column.distinct) > MOST_CATEGORIES:
        raise DataError(
            f"{table.path}: column {column.name!r}: expected numbers or at most {MOST_CATEGORIES} names, got more names"
        )
    if column.missing and not may_be_missing:
        raise table.bad(column.missing[0], column.name, "a value", "none (empty or NaN)")


def bad_text(table: Table, column: ColumnProfile) -> DataError:
    row, value = column.text or (0, "")
    return table.bad(row, column.name, "a number", repr(value))


def typed(kinds: Mapping[str, Kind]) -> list[pl.Expr]:
    """Expressions that cast numbers to float64, and names to text: whole numbers such as 1.0 become "1"."""
    return [as_kind(name, kind) for name, kind in kinds.items()]


def as_kind(name: str, kind: Kind) -> pl.Expr:
    column = pl.col(name)
    if kind == "number":
        return column.cast(pl.Float64)
    if kind == "name":
        return column.cast(pl.String)
    as_they_are = column.cast(pl.Int128, strict=False)  # float64 can't represent every integer above 2^53
    return pl.coalesce(as_they_are, column.cast(pl.Float64).cast(pl.Int128)).cast(pl.String)
