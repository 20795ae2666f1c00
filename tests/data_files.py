"""Files of data as a user would have them, and what is loaded from them."""

import gzip

import numpy as np
import polars as pl
import torch

from torchann.training.data import load

ROWS = 200


def people(rows=ROWS, seed=0):
    """A table with numbers, names and booleans; both targets can be learned from it."""
    random = np.random.default_rng(seed)
    age = random.normal(50, 10, rows)
    city = random.choice(["Rome", "Oslo", "Bern"], rows)
    member = random.choice([True, False], rows)
    price = 2 * age + 30 * (city == "Rome") + 5 * member
    return pl.DataFrame(
        {"age": age, "city": city, "member": member, "price": price, "kind": np.where(price > 115, "high", "low")}
    )


WRITERS = {
    "csv": lambda frame, path: frame.write_csv(path),
    "tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "parquet": lambda frame, path: frame.write_parquet(path),
    "csv.gz": lambda frame, path: path.write_bytes(gzip.compress(frame.write_csv().encode())),
}


def write(folder, frame, suffix="csv", name="people"):
    path = folder / f"{name}.{suffix}"
    WRITERS[suffix](frame, path)
    return path


def load_table(path, target="kind", **options):
    return load(str(path), **{"seed": 3, "device": "cpu", "dtype": torch.float64, "target": target, **options})


def all_rows(dataset):
    return [torch.cat(parts) for parts in zip(*dataset.batches(1, 16), strict=True)], [
        torch.cat(parts) for parts in zip(*dataset.test_batches(), strict=True)
    ]


def sorted_rows(*parts):
    """As a set of rows, which order doesn't change."""
    return sorted(map(tuple, torch.cat([torch.cat([x, y], dim=1) for x, y in parts]).tolist()))


def digits(count=60):
    random = np.random.default_rng(0)
    y = np.arange(count) % 3
    return (random.normal(size=(count, 4)) + y[:, None]).astype(np.float32), y


def write_npz(path, x, y):
    np.savez(path, x=x, y=y)


def write_pt(path, x, y):
    torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, path)
