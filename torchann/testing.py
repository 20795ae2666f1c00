"""For tests: `assert_gradients` proves a gradient in one line, as `torch.testing.assert_close` compares tensors."""

from __future__ import annotations

from typing import Any

from torchann.verification import Report, verify


def assert_gradients(*args: Any, **kwargs: Any) -> Report:
    """Assert that every check of `torchann.verify` holds that is not refused; the arguments are those of `verify`.

    Returns:
        The report.

    Raises:
        AssertionError: a row failed, or nothing is proven, as `reverse` could not be run. The message is the table.

    Example:
        >>> import torch
        >>> report = assert_gradients(torch.sin, (torch.randn(3),), require={"vmap"})
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    report = verify(*args, **kwargs)
    if not report.ok:
        raise AssertionError(str(report))
    return report
