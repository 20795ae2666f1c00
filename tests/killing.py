"""Run functions in child processes that are killed at a chosen moment, and compare results bit by bit."""

import multiprocessing
import os
import signal
import sys
from pkgutil import resolve_name

import pytest
import torch

resource = pytest.importorskip("resource", reason="only POSIX can limit the size of files")

CHILDREN = multiprocessing.get_context("forkserver")  # which imports PyTorch once, not in each child
CHILDREN.set_forkserver_preload(
    ["torchann.training.command", "torchann.monitor", "torch._dynamo", "sklearn.datasets", "pytest"]
)
KILLED = -signal.SIGKILL
KILLED_WRITING = -signal.SIGXFSZ


def in_child(function, *arguments):
    """Call the function in a child process; returns its exit status, or minus the number of the signal that killed it."""
    child = CHILDREN.Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_line(module, number):
    """From now on, count the executed lines of the module, and die before the nth."""
    left = number

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        left -= event == "line"
        if left == 0:
            die()
        return trace

    sys.settrace(trace)


def at_call(name, number, action=die):
    """Replace a function, named as in `os:replace`, so that `action` runs before its nth call."""
    module, _, path = name.partition(":")
    *owner, attribute = path.split(".")
    owner = resolve_name(":".join([module, ".".join(owner)]))
    original, left = getattr(owner, attribute), number

    def function(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            action(*arguments)
        return original(*arguments, **options)

    setattr(owner, attribute, function)


def limit_files(size, die=False):
    """From now on no file can grow beyond `size` bytes: a write raises OSError as on a full disk, or kills (`die`)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if die else signal.SIG_IGN)


def bits(value):
    """The value with the bytes of each tensor in its place, so that == compares bit by bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value
