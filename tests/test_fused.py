"""Every kernel gives the same as its formula."""

import pytest
import torch
from cases import EXACT, ROWS

from torchann import formulas
from torchann.fast import fused

# Where z is NaN, the same kernel of PyTorch gives ē or 0: ē in the last few entries, 0 where it computes a vector.
UNDECIDED = ("hardtanh_backward", "softshrink_backward", "hardshrink_backward")


@pytest.mark.parametrize("activation", ROWS.values(), ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (0, 3), (1, 1)])
class TestAgainstFormulas:
    def tensors(self, shape, activation):
        z, error, t = torch.randn(3, *shape, dtype=torch.float64)
        return z, activation.f(z) if activation.reads_output else z, error, t

    def test_activate(self, shape, activation):
        z, *_ = self.tensors(shape, activation)
        expected = formulas.activate(z.clone(), activation)
        torch.testing.assert_close(fused.activate(z.clone(), activation), expected, **EXACT)

    def test_delta(self, shape, activation):
        _, s, error, _ = self.tensors(shape, activation)
        expected = formulas.delta(error, s, activation)
        torch.testing.assert_close(fused.delta(error, s, activation), expected, **EXACT)

    def test_delta_of_nan(self, shape, activation):
        """Where the output is NaN, ē is passed on, as in PyTorch."""
        _, s, error, _ = self.tensors(shape, activation)
        s = torch.full_like(s, torch.nan)
        found, expected = fused.delta(error, s, activation), formulas.delta(error, s, activation)
        if activation.aten and activation.aten[1][0] in UNDECIDED:
            found = torch.where(found == 0, expected, found)
        torch.testing.assert_close(found, expected, equal_nan=True, **EXACT)

    def test_delta_leaves_its_inputs_alone(self, shape, activation):
        _, s, error, _ = self.tensors(shape, activation)
        before = s.clone(), error.clone()
        fused.delta(error, s, activation)
        torch.testing.assert_close((s, error), before, rtol=0, atol=0)

    def test_zeta(self, shape, activation):
        _, s, error, t = self.tensors(shape, activation)
        expected = formulas.zeta(t, formulas.delta(t, s, activation), error, s, activation)
        if fused.has_zero_second_derivative(activation):
            assert not expected.any()
        else:
            found = fused.zeta(t, formulas.delta(t, s, activation), error, s, activation)
            torch.testing.assert_close(found, expected, **EXACT)

    def test_delta_in_place(self, shape, activation):
        _, s, error, _ = self.tensors(shape, activation)
        expected = formulas.delta(error, s, activation)
        found = fused.kernels_of(activation).delta_(error, s)
        torch.testing.assert_close(found, expected, **EXACT)

    @pytest.mark.parametrize("keeps", [True, False])
    def test_activate_and_keep(self, shape, activation, keeps):
        """In place only where z is not what is kept."""
        z, s, *_ = self.tensors(shape, activation)
        o, kept = fused.activate_and_keep(z.clone(), activation, keeps)
        torch.testing.assert_close(o, activation.f(z), **EXACT)
        torch.testing.assert_close(kept, s if keeps else None, **EXACT)
