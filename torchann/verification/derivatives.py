"""Derivatives against central differences, to any order; and kinks, where central differences tell nothing.

A gradient is a function, too, and so is the gradient of that: what compares first derivatives reaches every order.

Small functions are compared entry by entry, ∂ (output entry) / ∂ (input entry). Above `ENTRIES` entries that would take
too long. There a random direction v of an argument and a random incoming gradient u stand for all the entries:

    (∂E/∂x, by backward from u) · v   =   u · (f(x + h v) − f(x − h v)) / 2h

Each wrong entry counts in that, as no entry of v is zero. Where it doesn't hold, halving v finds the wrong entry.

A complex tensor counts as its real and imaginary parts. With E = Re (conj(u) · f), ∂E/∂x is by PyTorch's convention
∂E/∂Re x + i ∂E/∂Im x, so that the dot products above are those of the parts.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, compress

import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck
from torch.autograd.gradcheck import GradcheckError

from torchann.verification.cases import Case, eps, gradients, leaves, precise, random_like
from torchann.verification.comparing import both, names_of, place, signs_like
from torchann.verification.report import Finding, Mismatch, Skipped, Unsupported, first_line

ENTRIES = 256  # of the arguments and outputs together: up to here they are compared one by one
DIRECTIONS = 3  # above
SECONDS = 10.0  # that comparing one by one may take


@dataclass(frozen=True)
class Numerics:
    """How central differences are taken."""

    eps: float | None = None  # their step
    atol: float | None = None  # what |a − b| / (1 + |b|) may be
    until: float = math.inf  # when the time is over


NUMERICS = Numerics()


@dataclass
class Derivative:
    """A function of tensors, each of whose outputs is connected to them, to be differentiated at one place."""

    call: Callable[..., tuple[Tensor, ...]]
    at: tuple[Tensor, ...]
    names: tuple[str, ...]  # of its arguments
    output_names: tuple[str, ...]
    values: Callable[..., tuple[Tensor, ...]]  # what central differences are taken of: call, unless told otherwise
    options: Numerics
    columns: dict[int, Tensor] = field(default_factory=dict)  # the differences that were taken
    without_gradient: set[int] = field(default_factory=set)  # the arguments for which backward returned None

    @classmethod
    def of(cls, case: Case, options: Numerics = NUMERICS) -> Derivative:
        """fn itself: its outputs that require grad; the others are constants by its own word."""
        outputs = case.function(*leaves(case.tensors))
        kept = [output.requires_grad for output in outputs]
        if not any(kept):
            raise Mismatch("no output requires grad: fn is cut from the graph")
        names = tuple(compress(names_of(outputs), kept))

        def only_kept(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
            return lambda *tensors: tuple(compress(function(*tensors), kept))

        return cls(only_kept(case.function), case.tensors, case.tensor_names, names, only_kept(case.values), options)

    @property
    def step(self) -> float:
        """The step of a central difference at which truncation, step², and roundoff, ε / step, are alike.

        In float64 both are 4e-11 at the scale of the function. The tolerance is as large as the step, for functions
        with a far larger third derivative.
        """
        return self.options.eps or eps(*self.at) ** (1 / 3)

    @property
    def tolerance(self) -> float:
        return self.options.atol or eps(*self.at) ** (1 / 3)

    def outputs(self) -> tuple[Tensor, ...]:
        return self.call(*leaves(self.at))

    @property
    def has_sparse_gradients(self) -> bool:
        at = leaves(self.at)
        outputs = self.call(*at)
        with suppress(RuntimeError):
            found = torch.autograd.grad(outputs, at, random_like(outputs), allow_unused=True)
            return any(gradient is not None and gradient.layout != torch.strided for gradient in found)
        return False

    def gradient(self) -> Derivative:
        """Its gradients, as a function of its arguments and of the incoming gradients.

        This is what `gradgradcheck` differentiates, but for one thing: that leaves out gradients that don't require
        grad, and so a backward that is cut from the graph for some of its inputs. Here they stay.
        """
        count = len(self.at)

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            for tensor in tensors:
                if not tensor.requires_grad:  # a dual number, in forward mode
                    tensor.requires_grad_()
            given, incoming = tensors[:count], [tensor.clone() for tensor in tensors[count:]]
            found = gradients(self.call(*given), given, incoming, create_graph=True)
            nothing = sum(parts(tensor).flatten()[:0].sum() for tensor in tensors)  # zero, as a function of them all
            dense = [torch.zeros_like(x) if g is None else g for x, g in zip(given, found, strict=True)]
            return tuple(gradient if gradient.requires_grad else gradient + nothing for gradient in dense)

        return Derivative(
            call,
            (*self.at, *random_like(self.outputs())),
            (*self.names, *(f"the incoming gradient of {name}" for name in self.output_names)),
            tuple(f"the gradient of {name}" for name in self.names),
            call,
            self.options,
        )

    def hear_refusal(self) -> None:
        """Let what can't be differentiated further say so.

        `once_differentiable` raises in a node that only `backward()` runs: `grad(inputs=…)` finds no way through it to
        the inputs, and takes the derivative for zero.
        """
        outputs = self.outputs()
        torch.autograd.backward(outputs, random_like(outputs))

    def hear_tangents(self) -> None:
        """Forward mode that stops at an operator of `torch.library` does so in silence, at the primal values."""
        pushed = self.duals([torch.ones_like(x) for x in self.at])
        if all(tangent is None for _, tangent in pushed):
            raise Unsupported("no tangent comes out, nor an error from PyTorch")

    def take_undefined_gradients(self) -> None:
        """With infinite tolerances, all that is left of gradcheck is its check of undefined gradients."""
        try:
            gradcheck(self.call, leaves(self.at), atol=math.inf, nondet_tol=math.inf, fast_mode=True)
        except GradcheckError as error:
            if "undefined" in str(error):
                raise Mismatch(first_line(error)) from error

    # --- Comparing ----------------------------------------------------------------------------------------------------

    def compare(self, forward_mode: bool = False, apart: bool = False) -> Finding:
        """Backward, or forward mode, against central differences: the largest error.

        Args:
            forward_mode: check this, not backward.
            apart: where directions are random, take one for each argument, for a closer look, not one through all.

        Raises:
            Mismatch: names the argument, its entry and both values.
            Unsupported: central differences settle nowhere, so that nothing can be said.
        """
        start = time.perf_counter()
        outputs = self.outputs()
        seconds = time.perf_counter() - start
        entries, entries_out = len(self.vector), sum(map(size, outputs))
        if entries + entries_out <= ENTRIES and (2 * entries + entries_out) * seconds <= SECONDS:
            worst = max(self.errors_by_entry(forward_mode), default=math.nan)
            return Finding(worst, self.tolerance)
        worst = max(self.errors_by_direction(outputs, forward_mode, apart), default=math.nan)
        return Finding(worst, self.tolerance, f"in {DIRECTIONS} random directions, for {entries:,} entries")

    def errors_by_entry(self, forward_mode: bool) -> Iterator[float]:
        """The Jacobian, [entries of the arguments, entries of the outputs], row by row, the worst first."""
        units = torch.eye(len(self.vector), dtype=torch.float64)
        analytical = [self.pushed(unit) for unit in units] if forward_mode else list(self.jacobian())
        numerical = [self.difference(unit, row) for row, unit in enumerate(units)]
        errors = [worst(a, n) for a, n in zip(analytical, numerical, strict=True)]
        for row in sorted(range(len(errors)), key=errors.__getitem__, reverse=True):
            if errors[row] <= self.tolerance:
                yield errors[row]
            else:
                yield self.look_again(units[row], analytical[row])

    def errors_by_direction(self, outputs: tuple[Tensor, ...], forward_mode: bool, apart: bool) -> Iterator[float]:
        for seed in range(DIRECTIONS):
            incoming = random_like(outputs, seed)
            weights = flat(incoming)
            pulled = None if forward_mode else self.pulled(incoming)
            for direction in self.directions(seed, apart):
                column = self.difference(direction, -1 - seed if not apart else None)
                if pulled is None:
                    analytical, numerical = self.pushed(direction), column
                else:
                    analytical, numerical = (pulled @ direction).view(1), (weights @ column).view(1)
                error = worst(analytical, numerical)
                if error <= self.tolerance:
                    yield error
                elif pulled is None:
                    yield self.look_again(direction, analytical)
                else:
                    yield self.look_again_along(direction, pulled, weights)

    def directions(self, seed: int, apart: bool) -> Iterator[Tensor]:
        """1 or −1 in each entry: through all arguments, or one for each, in which the others stay."""
        signs = flat(signs_like(self.at, seed))
        if not apart:
            yield signs
            return
        for part, offset in zip(self.at, self.offsets, strict=True):
            direction = torch.zeros_like(signs)
            direction[offset : offset + size(part)] = signs[offset : offset + size(part)]
            yield direction

    def look_again(self, direction: Tensor, analytical: Tensor) -> float:
        """A column of outputs' changes that seems to be wrong, against extrapolated differences.

        A steep function has a large third derivative, and a kink that is not quite reached looks like it.
        """
        numerical, uncertainty = self.extrapolated(direction)
        excess = self.excess(analytical, numerical, uncertainty)
        if not excess.isnan().any() and excess.max() <= self.tolerance:
            return excess.max().item()
        column = int(excess.nan_to_num(nan=-1).argmax())
        if not excess[column] > self.tolerance:
            raise Unsupported(UNSETTLED)
        is_unit = direction.count_nonzero() == 1
        where = self.entry(int(direction.argmax())) if is_unit else "along a random direction of all inputs"
        values = both(("analytical", "numerical"), analytical[column].item(), numerical[column].item())
        what = f", to {self.output_entry(column)}: {values}"
        raise self.mismatch(int(direction.argmax()), where, what, excess[column].item())

    def look_again_along(self, direction: Tensor, pulled: Tensor, weights: Tensor) -> float:
        """A direction along which the gradient seems to be wrong: extrapolated, then halved down to one entry."""
        analytical = (pulled @ direction).view(1)
        numerical, uncertainty = self.extrapolated(direction, weights)
        excess = self.excess(analytical, numerical, uncertainty)
        if excess.isnan():
            raise Unsupported(UNSETTLED)
        if excess <= self.tolerance:
            return excess.item()

        def gap(first: int, last: int) -> float:
            part = torch.zeros_like(direction)
            part[first:last] = direction[first:last]
            return (pulled @ part - weights @ self.difference(part)).abs().item() if part.any() else -1.0

        first, last = 0, len(direction)
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if gap(first, middle) >= gap(middle, last) else (middle, last)
        unit = torch.zeros_like(direction)
        unit[first] = 1
        numerical, _ = self.extrapolated(unit, weights)
        values = both(("analytical", "numerical"), pulled[first].item(), numerical.item())
        raise self.mismatch(first, self.entry(first), f", for a random incoming gradient: {values}", excess.item())

    def excess(self, analytical: Tensor, numerical: Tensor, uncertainty: Tensor) -> Tensor:
        """The errors beyond what the differences leave open; NaN where they leave too much open to be of use."""
        scale = 1 + numerical.abs()
        error = ((analytical - numerical).abs() - 4 * uncertainty).clamp(min=0) / scale
        error = torch.where(analytical.isfinite(), error, math.inf)
        settled = uncertainty <= torch.where(error > self.tolerance, 0.1, 1e-3 + self.tolerance) * scale
        return torch.where(settled & numerical.isfinite() & uncertainty.isfinite(), error, math.nan)

    def mismatch(self, row: int, where: str, what: str, error: float) -> Mismatch:
        index, _ = self.argument_of(row)
        if index in self.without_gradient:
            return Mismatch(
                f"{self.names[index]}: backward returned None for it, but the outputs depend on it (numerically"
                f"{what.rpartition('numerical')[2]}). If it is meant to be a constant, let the other inputs alone "
                "require grad: x.requires_grad_() before verify",
                error,
                self.tolerance,
            )
        return Mismatch(f"{where}{what}", error, self.tolerance)

    def argument_of(self, row: int) -> tuple[int, int]:
        """The argument that an entry of the vector belongs to, and its number there."""
        index = bisect_right(self.offsets, row) - 1
        return index, row - self.offsets[index]

    def entry(self, row: int) -> str:
        index, number = self.argument_of(row)
        return f"{self.names[index]}{entry_of(self.at[index], number)}"

    def output_entry(self, column: int) -> str:
        for name, output in zip(self.output_names, self.outputs(), strict=True):
            if column < size(output):
                return f"{name}{entry_of(output, column)}"
            column -= size(output)
        raise IndexError(column)

    # --- Both sides of the comparison ---------------------------------------------------------------------------------

    @cached_property
    def vector(self) -> Tensor:
        """All arguments as one vector of real numbers."""
        return flat(self.at)

    @cached_property
    def offsets(self) -> list[int]:
        """Where each argument begins in it."""
        return list(accumulate(map(size, self.at), initial=0))[:-1]

    def jacobian(self) -> Tensor:
        """By backward, one entry of the outputs after the other: [entries of the arguments, entries of the outputs]."""
        at = leaves(self.at)
        outputs = self.call(*at)
        self.without_gradient = set(range(len(at)))
        units = torch.eye(sum(map(size, outputs)), dtype=torch.float64)
        return torch.stack([self.backward(outputs, at, unflat(unit, outputs)) for unit in units], 1)

    def pulled(self, incoming: Sequence[Tensor]) -> Tensor:
        """The gradients of all arguments by backward from these incoming gradients."""
        at = leaves(self.at)
        self.without_gradient = set(range(len(at)))
        return self.backward(self.call(*at), at, incoming)

    def backward(self, outputs: Sequence[Tensor], at: Sequence[Tensor], incoming: Sequence[Tensor]) -> Tensor:
        self.check_time()
        found = gradients(outputs, at, incoming, retain_graph=True)
        self.without_gradient -= {index for index, gradient in enumerate(found) if gradient is not None}
        return flat([torch.zeros_like(x) if g is None else g for x, g in zip(at, found, strict=True)])

    def pushed(self, direction: Tensor) -> Tensor:
        """The tangents of the outputs along a direction, by forward mode."""
        self.check_time()
        pushed = self.duals(unflat(direction, self.at))
        return flat([torch.zeros_like(output) if tangent is None else tangent for output, tangent in pushed])

    def duals(self, along: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """The outputs with their tangents, in forward mode."""
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x, v) if v.any() else x for x, v in zip(leaves(self.at), along, strict=True)]
            return [(dual.primal, dual.tangent) for dual in map(forward_ad.unpack_dual, self.call(*duals))]

    def difference(self, direction: Tensor, key: int | None = None, step: float | None = None) -> Tensor:
        """(f(x + h v) − f(x − h v)) / 2h for a direction v. It is kept under the key, for the other mode."""
        if key is not None and key in self.columns:
            return self.columns[key]
        step = step or self.step
        above, below = (self.at_distance(direction, side) for side in (step, -step))
        column = (above - below) / (2 * step)
        if key is not None:
            self.columns[key] = column
        return column

    def at_distance(self, direction: Tensor, distance: float) -> Tensor:
        self.check_time()
        return flat(self.values(*leaves(unflat(self.vector + distance * direction, self.at))))

    def extrapolated(self, direction: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The derivative along a direction, extrapolated to step 0 (Romberg), and how far it may be off.

        The steps go from 2¹⁰ times the usual one down to 2⁻¹¹ times, each half as long as the one before. Of all
        neighbouring steps, those count whose extrapolations agree best with each other.
        """
        steps = [self.step * 2.0**power for power in range(10, -12, -1)]
        differences, noise = [], []
        for step in steps:
            above, below = (self.at_distance(direction, side) for side in (step, -step))
            both_sides = above.abs() + below.abs()
            if weights is not None:
                above, below = ((weights @ v).view(1) for v in (above, below))
                both_sides = (weights.abs() @ both_sides).view(1)
            differences.append((above - below) / (2 * step))
            noise.append(2 * eps(*self.at) * both_sides / step)
        first = torch.stack(differences)
        second = (4 * first[1:] - first[:-1]) / 3
        third = (16 * second[1:] - second[:-1]) / 15
        apart = torch.maximum((third[1:] - third[:-1]).abs(), (third[1:] - second[2:]).abs())
        apart = (apart + torch.stack(noise)[3:]).nan_to_num(nan=math.inf)
        uncertainty, best = apart.min(0)
        return third[1:].gather(0, best.unsqueeze(0)).squeeze(0), uncertainty

    def check_time(self) -> None:
        if time.perf_counter() > self.options.until:
            raise Skipped("the budget was spent before this check was done")


UNSETTLED = "central differences settle at no step, so that nothing can be said"


def entry_of(tensor: Tensor, number: int) -> str:
    """The name of an entry by its number among the real ones."""
    if not tensor.is_complex():
        return place(torch.tensor(number), tensor.shape)
    part = "imaginary" if number % 2 else "real"
    return f"{place(torch.tensor(number // 2), tensor.shape)} ({part} part)"


def exact(case: Case) -> Iterator[Finding]:
    """Each gradient in float64 against differences extrapolated from long steps, which have ten digits.

    Noise does not show a constant of float32 such as 1/6, which is off by 3e-8: every entry is off by the same factor.
    Nothing is said where the differences are not that exact, nor of larger errors, which `reverse` finds.
    """
    derivative = Derivative.of(case)
    outputs = derivative.outputs()
    apart = len(derivative.vector) <= ENTRIES  # else there is no time for each argument
    names = case.gradient_names if apart else ["the gradients"]
    incoming = [random_like(outputs, seed) for seed in range(2)]
    pulled = [derivative.pulled(each) for each in incoming]
    for name, *directions in zip(names, *(derivative.directions(seed, apart) for seed in range(2)), strict=True):
        error = error_to_ten_digits(derivative, directions[0], pulled[0], flat(incoming[0]))
        if error > TEN_DIGITS:  # once more, as chance may have it
            error = min(error, error_to_ten_digits(derivative, directions[1], pulled[1], flat(incoming[1])))
        if error > TEN_DIGITS:
            raise Mismatch(
                f"{name}: off by a factor of {error:.1g} in float64: backward has a constant of a lower precision, or "
                "approximates",
                error,
                TEN_DIGITS,
            )
        yield Finding(error, TEN_DIGITS)


def error_to_ten_digits(derivative: Derivative, direction: Tensor, gradient: Tensor, weights: Tensor) -> float:
    """The relative error of a gradient along a direction; 0 where the differences don't have as many digits."""
    scale = (gradient * direction).abs().sum().item() or math.inf
    try:
        found = long_steps(derivative, direction, weights, 0.2)
    except Skipped:
        raise
    except Exception:  # the long steps lead out of fn's domain
        return 0.0
    error = abs((gradient @ direction).item() - found) / scale
    if error <= TEN_DIGITS:
        return error
    again = long_steps(derivative, direction, weights, 0.13)
    is_exact = abs(found - again) / scale < TEN_DIGITS / 100
    return error if is_exact and error < LARGEST_ERROR_OF_A_CONSTANT else 0.0


TEN_DIGITS = 1e-10
LARGEST_ERROR_OF_A_CONSTANT = 1e-5


def long_steps(derivative: Derivative, direction: Tensor, weights: Tensor, start: float) -> float:
    """u · ∂f/∂v from a Romberg table over the steps start / 2ᵏ: the entry that its neighbours agree with best."""
    table: list[list[float]] = []
    best, least = math.nan, math.inf
    for row in range(10):
        table.append([float(weights @ derivative.difference(direction, step=start / 2**row))])
        for column in range(1, row + 1):
            a, b = table[row][column - 1], table[row - 1][column - 1]
            table[row].append(a + (a - b) / (4**column - 1))
            apart = max(abs(table[row][column] - a), abs(table[row][column] - b))
            if apart < least:
                best, least = table[row][column], apart
    return best


def worst(analytical: Tensor, numerical: Tensor) -> float:
    errors = ((analytical - numerical).abs() / (1 + numerical.abs())).nan_to_num(nan=math.inf)
    return max(errors.tolist(), default=0.0)


# --- Tensors as vectors of real numbers -------------------------------------------------------------------------------


def parts(tensor: Tensor) -> Tensor:
    """A complex tensor as real and imaginary parts, [*, 2]; a real one as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def size(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries as one vector in float64, on the CPU."""
    return torch.cat([parts(precise(tensor)).flatten().cpu() for tensor in tensors])


def unflat(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of such a vector, in the shapes and dtypes of others."""
    found = []
    for part, tensor in zip(vector.split([size(tensor) for tensor in like]), like, strict=True):
        if tensor.is_complex():
            part = torch.view_as_complex(part.clone().view(*tensor.shape, 2))
        found.append(part.view(tensor.shape).to(tensor))
    return found


# --- Kinks and jumps --------------------------------------------------------------------------------------------------


def away_from_kinks(case: Case, until: float = math.inf, tries: int = 5) -> tuple[Case, str]:
    """The case, moved a little at random if fn or one of its derivatives jumps within reach of the differences.

    The search takes at most a quarter of the time that is left.
    """
    now = time.perf_counter()
    options = Numerics(until=now + (until - now) / 4)
    found = kink_of(case, options)
    if not found:
        return case, ""
    generator = torch.Generator().manual_seed(0)
    for _ in range(tries):
        moved = case.moved_to([x + nudge(x, generator) for x in case.tensors])
        with suppress(Exception):  # out of fn's domain
            outputs = moved.function(*moved.tensors)
            if all(output.isfinite().all() for output in outputs) and not kink_of(moved, options):
                return moved, f"the inputs were moved away from {found}"
    return case, f"the inputs lie near {found}"


def kink_of(case: Case, options: Numerics, orders: int = 3) -> str:
    """What there is nearby: a jump of the value, a kink (a jump of a derivative), or nothing. As far as fn has them."""
    with suppress(Exception):  # what fn does not have is for the checks to report; or the time is over
        derivative = Derivative.of(case, options)
        if jumps(derivative, lambda *at: flat(derivative.values(*at))):
            return "a jump"
        for order in range(orders):
            derivative = derivative.gradient() if order else derivative
            outputs = derivative.outputs()
            if jumps(derivative, lambda *at: gradients_in_one(derivative, outputs, at)):  # noqa: B023, called at once
                return "a kink"
    return ""


def gradients_in_one(derivative: Derivative, outputs: Sequence[Tensor], at: Sequence[Tensor]) -> Tensor:
    found = gradients(derivative.call(*at), at, random_like(outputs))
    return flat([gradient for gradient in found if gradient is not None])


def jumps(derivative: Derivative, function: Callable[..., Tensor]) -> bool:
    """Whether the function differs on two sides, and by as much when the sides come closer."""
    step = derivative.step
    # Kinks behind sums of inputs may lie along one direction, hardly along four.
    for seed in range(4 if len(derivative.vector) <= ENTRIES else 2):
        directions = signs_like(derivative.at, seed)

        def value(distance: float, directions: Sequence[Tensor] = directions) -> Tensor:
            derivative.check_time()
            pairs = zip(derivative.at, directions, strict=True)
            return function(*leaves(x + distance * direction for x, direction in pairs))

        far = value(20 * step) - value(-20 * step)
        left, right = value(-2 * step), value(2 * step)
        near, floor = (right - left).abs(), derivative.tolerance * (1 + value(0).abs())
        suspects = (near > floor) & (near > far.abs() / 2)
        if suspects.any() and stays(value, step, left, right, int((near * suspects).argmax())):
            return True
    return False


def stays(value: Callable[[float], Tensor], step: float, left: Tensor, right: Tensor, entry: int) -> bool:
    """Whether an entry's change lies in one place: in the half that holds most of it, six times over.

    A smooth function changes by half as much over half the way, however steep it is.
    """
    change, low, high = (right - left)[entry].abs().item(), -2 * step, 2 * step
    for _ in range(6):
        middle = (low + high) / 2
        between = value(middle)
        if (between - left)[entry].abs() >= (right - between)[entry].abs():
            high, right = middle, between
        else:
            low, left = middle, between
    return (right - left)[entry].abs().item() > change / 4  # half of it, where the value at the jump lies between


def nudge(like: Tensor, generator: torch.Generator) -> Tensor:
    """0.01 to 0.1, either way; of a complex tensor in both parts."""
    sizes = torch.rand(parts(like).shape, generator=generator, dtype=torch.float64) * 0.09 + 0.01
    signs = 2 * torch.randint(2, sizes.shape, generator=generator) - 1
    (moved,) = unflat((sizes * signs).flatten(), [like])
    return moved
