"""Checkpoints and weights, written so that a kill, a full disk or a flipped bit never costs the last good file.

`last.pt` is the newest checkpoint and `previous.pt` the one before it. At any moment at least one of them is complete:

    last.pt.tmp written → last.pt becomes previous.pt → last.pt.tmp becomes last.pt

Each file is what torch.save writes, followed by its SHA-256 digest, because torch.load does not notice flipped bits.
torch.load can read the file with the digest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from torchann.training.distributed import is_first_process
from torchann.training.files import in_one_line, load_plain

LAST = "last.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"
FORMAT = 1
DIGEST_SIZE = sha256().digest_size


class CheckpointError(ValueError):
    """A file that can't be read or written: the message names the file and the reason."""


def write(path: Path, write_to: Callable[[BinaryIO], Any], former: Path | None = None) -> None:
    """Write a file completely or not at all. Until it is complete, an existing file at `path` stays as it is.

    Args:
        write_to: is called with the file, open for writing.
        former: the existing file at `path` is renamed to this; None to replace it.

    Raises:
        CheckpointError: the file can't be written, because the disk is full, for example.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write(Path(folder, "note"), lambda file: file.write(b"whole"))
        ...     Path(folder, "note").read_bytes()
        b'whole'
    """
    temporary = path.parent / f"{path.name}.tmp"  # with_name would raise for the path "/"
    try:
        temporary.unlink(missing_ok=True)  # left by a run that was killed
        try:
            with temporary.open("xb") as file:
                write_to(file)
                file.flush()
                os.fsync(file.fileno())
            if former is not None and path.exists():
                os.replace(path, former)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # On a full disk torch.save raises a RuntimeError while it handles the OSError.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(f"{path}: expected to write it, got {in_one_line(cause)}") from error


def sync_folder(folder: Path) -> None:
    """Make renames survive a power failure. Windows has no such call."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `last.pt`; the existing one becomes `previous.pt`.

    Args:
        state: tensors and plain Python values, in dictionaries and lists.

    Raises:
        CheckpointError: the file can't be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save(Path(folder), {"epoch": 3})
        ...     load(Path(folder))
        {'format': 1, 'epoch': 3}
    """
    write_state(folder / LAST, state, former=folder / PREVIOUS)


def write_state(path: Path, state: dict[str, Any], former: Path | None = None) -> None:
    """Write a file that `read` can read; `former` as for `write`."""
    content = pack({"format": FORMAT, **state})
    write(path, lambda file: file.writelines(content), former)


def pack(state: dict[str, Any]) -> tuple[memoryview, bytes]:
    buffer = BytesIO()
    torch.save(state, buffer)
    packed = buffer.getbuffer()
    return packed, sha256(packed).digest()


def say_from_first_process(line: str) -> None:
    if is_first_process():
        print(line, file=sys.stderr)


def load(
    folder: Path,
    check: Callable[[dict[str, Any]], Any] = lambda state: None,
    warn: Callable[[str], None] = say_from_first_process,
) -> dict[str, Any]:
    """The state in `last.pt` or, if that is missing or damaged, in `previous.pt`. No code in the files is executed.

    A damaged `last.pt` is renamed, so that the next `save` does not move it over the good `previous.pt`.

    Args:
        check: raises if the caller can't use the state; the file then counts as damaged. It may be the caller's
            `load_state_dict`: if that fails halfway, it is called again with the state of `previous.pt`.
        warn: is called with a line that names the missing or damaged file.

    Raises:
        CheckpointError: neither file can be used.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        return read(last, check)
    except CheckpointError as error:
        damage = error
    try:
        state = read(previous, check)
    except CheckpointError as error:
        raise (CheckpointError(f"{damage}; {error}") if previous.exists() else damage) from error
    if last.exists() and is_first_process():
        set_aside(last)
        damage = CheckpointError(f"{damage}; renamed to {DAMAGED}")
    warn(f"{damage}; going on from {previous}")
    return state


def set_aside(path: Path) -> None:
    try:
        os.replace(path, path.with_name(DAMAGED))
    except OSError as error:
        raise CheckpointError(f"{path}: expected to rename it, as it is damaged, got {in_one_line(error)}") from error


def read(path: Path, check: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The state in a file. No code in it is executed.

    Raises:
        CheckpointError: there is no such file, it is damaged, or `check` raised.
    """
    if not os.path.isfile(path):  # Path.is_file raises where the name is too long
        raise CheckpointError(f"{path}: expected a checkpoint, got no file")
    try:
        state = unpack(path.read_bytes())
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError(f"one without 'format': {FORMAT}")
        check(state)
    except Exception as error:  # a file from elsewhere can cause any exception
        raise CheckpointError(f"{path}: expected a checkpoint, got {in_one_line(error)}") from error
    return state


def unpack(content: bytes) -> Any:
    packed, digest = content[:-DIGEST_SIZE], content[-DIGEST_SIZE:]
    if sha256(packed).digest() != digest:
        raise ValueError("a file that is truncated or damaged, or none that a run wrote")
    return load_plain(BytesIO(packed))


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a network's `state_dict` as safetensors, which other programs can read, too.

    Raises:
        CheckpointError: the file can't be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_weights(Path(folder, "model.safetensors"), {"bias": torch.zeros(2)})
        ...     safetensors.torch.load_file(Path(folder, "model.safetensors"))
        {'bias': tensor([0., 0.])}
    """
    content = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in weights.items()})
    write(path, lambda file: file.write(content))
