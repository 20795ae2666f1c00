"""What `verify` is tested on: a function with the inputs that it is checked at, and the verdicts that it must get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subject:
    """A Function, function or module with the inputs that it is checked at."""

    fn: Any
    shapes: tuple[tuple[int, ...], ...] = ((4, 3),)
    reference: Callable[..., Any] | None = None
    row: str = ""  # the row that names the defect
    also: set[str] = field(default_factory=set)  # the rows that the same defect fails as well
    require: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float64
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of `verify`
    make: Callable[[], Sequence[Any]] | None = None  # inputs other than random ones
    advised: set[str] = field(default_factory=set)  # the rows that give advice
    called: str = ""

    @property
    def name(self) -> str:
        fn = self.fn
        return self.called or getattr(fn, "__name__", None) or getattr(fn, "_name", None) or type(fn).__name__

    def inputs(self, seed: int) -> Sequence[Any]:
        if self.make is not None:
            return self.make()
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            if self.dtype.is_complex:
                return torch.complex(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "ri"))
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        return tuple(map(draw, self.shapes))


LAYER = ((4, 3), (3, 3), (3,))  # square weights: a transposed gradient fits
