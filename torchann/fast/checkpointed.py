"""The sweeps in less memory: only the output of every k-th layer is kept, and the rest is recomputed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchann.activations import Activation
from torchann.sweeps import Gradients, NeedsGrad, Optionals, Sweeps, blank, there, to_keep


class Checkpointed(Sweeps):
    """`sweeps`, k layers at a time.

    It keeps what the forward pass needs to run again: x, W of the first layer, every b, and the input of each later
    segment. (The other weights are saved in any case.)
    """

    def __init__(self, sweeps: Sweeps, k: int) -> None:
        super().__init__(sweeps.layer)
        self.sweeps = sweeps
        self.k = k

    @property
    def readable(self) -> Sweeps:
        return Checkpointed(self.sweeps.readable, self.k)

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        kept = [x, weights[0], *biases]
        output = x
        for part in self.segments(len(weights)):
            if part.start > 0:
                kept.append(output)
            nothing = [False] * len(weights[part])
            output, _ = self.sweeps.forward(output, weights[part], biases[part], activations[part], nothing)
        return output, kept

    def gradients(
        self,
        grad_output: Tensor,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        needs: NeedsGrad,
    ) -> Gradients:
        """The same gradients; second derivatives start from another forward pass (see `functions.kept_in_graph`)."""
        error: Tensor | None = grad_output  # ē of the current segment
        depth = len(weights)
        x, first_weight, *biases_and_received = kept
        weights = [first_weight, *weights[1:]]
        biases, received = biases_and_received[:depth], biases_and_received[depth:]
        kept.clear()
        weight_grads, bias_grads = blank(depth), blank(depth)
        for part in reversed(self.segments(depth)):
            if part.stop <= needs.lowest:
                break
            of_part = weights[part], biases[part], activations[part]
            part_x = received.pop() if part.start > 0 else x
            needs_x = needs.x if part.start == 0 else part.start > needs.lowest
            part_needs = NeedsGrad(needs_x, needs.weights[part], needs.biases[part])
            _, part_kept = self.sweeps.forward(there(part_x), *of_part, to_keep(activations[part], part_needs.weights))
            found = self.sweeps.gradients(there(error), part_x, weights[part], part_kept, activations[part], part_needs)
            error, weight_grads[part], bias_grads[part] = found.x, found.weights, found.biases
        return Gradients(error if needs.x else None, weight_grads, bias_grads)

    def segments(self, depth: int) -> list[slice]:
        """The layers, k at a time."""
        return [slice(start, min(start + self.k, depth)) for start in range(0, depth, self.k)]
