"""An ensemble of 100 networks, trained at once by torch.func on two moons, and where they disagree.

Each network has its own initial weights and its own random draw of the samples (bootstrap). Together they are right
more often than one of them, and the spread of their predictions shows where not to trust them.

python examples/ensemble.py
"""

import copy

import torch
from sklearn.datasets import make_moons
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

import torchann

NETWORKS, SAMPLES = 100, 200


def moons(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points [N, 2], and the moon that each belongs to, 0 or 1 [N, 1]."""
    x, y = make_moons(samples, noise=0.25, random_state=seed)
    return torch.from_numpy(x).float(), torch.from_numpy(y).float().unsqueeze(1)


class Ensemble:
    """Networks of one shape whose parameters are stacked, [networks, *shape], so that vmap runs them as one."""

    def __init__(self, networks: list[torch.nn.Module]) -> None:
        self.parameters, self.buffers = stack_module_state(networks)
        self.skeleton = copy.deepcopy(networks[0]).to("meta")  # only its code is used

    def __call__(self, x: Tensor, x_dim: int | None = None) -> Tensor:
        """The outputs [networks, N, 1] for one x [N, 2]; or, if x_dim is 0, for one each, x [networks, N, 2]."""

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.skeleton, (parameters, buffers), x)

        return vmap(call, in_dims=(0, 0, x_dim))(self.parameters, self.buffers, x)


def train(ensemble: Ensemble, x: Tensor, y: Tensor, steps: int = 300) -> None:
    optimizer = torch.optim.Adam(ensemble.parameters.values(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        # Summed over the networks: each parameter gets the gradient of its own network's error.
        errors = binary_cross_entropy_with_logits(ensemble(x, 0), y, reduction="none").mean((1, 2))
        errors.sum().backward()
        optimizer.step()


def main() -> dict[str, float]:
    torch.manual_seed(0)
    x, y = moons(SAMPLES, seed=0)
    ensemble = Ensemble([torchann.MLP([2, 16, 16, 1], "tanh", "identity") for _ in range(NETWORKS)])
    drawn = torch.randint(SAMPLES, (NETWORKS, SAMPLES))
    train(ensemble, x[drawn], y[drawn])

    x_test, y_test = moons(2000, seed=1)
    with torch.no_grad():
        probabilities = ensemble(x_test).sigmoid()  # [networks, N, 1]
    single = ((probabilities > 0.5) == y_test).float().mean((1, 2))  # accuracy of each  [networks]
    is_right = (probabilities.mean(0) > 0.5) == y_test
    by_spread = is_right[probabilities.std(0).argsort(dim=0).squeeze(1)].float()  # in the order of rising spread
    agreed, disputed = by_spread[:1000].mean().item(), by_spread[-200:].mean().item()
    together = is_right.float().mean().item()
    print(f"accuracy of one network {single.mean():.4f} ± {single.std():.4f}, of {NETWORKS} together {together:.4f}")
    print(f"on the half where they agree most {agreed:.4f}, on the tenth where they disagree most {disputed:.4f}")
    return {"single": single.mean().item(), "together": together, "agreed": agreed, "disputed": disputed}


if __name__ == "__main__":
    main()
