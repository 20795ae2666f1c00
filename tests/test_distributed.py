"""Two gloo processes with half a batch each get the same parameters as one process with the whole batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from torchann import MLP, HalfSquaredErrorLoss

WORLD, STEPS, SAMPLES = 2, 20, 12


def data():
    generator = torch.Generator().manual_seed(5)
    draw = lambda width: torch.randn(STEPS, SAMPLES, width, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(6), draw(4)


def network():
    torch.manual_seed(3)
    return MLP([6, 8, 8, 4], "tanh", "identity", dtype=torch.float64)


def train(model, inputs, targets):
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), HalfSquaredErrorLoss()
    for x, y in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()


def wrap(how):
    model = network()
    if how == "DDP":
        return DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (WORLD,))
    if how == "FSDP2 by layer":
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def work(rank, port, how, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    inputs, targets = data()
    share = slice(rank * SAMPLES // WORLD, (rank + 1) * SAMPLES // WORLD)
    model = wrap(how)
    train(model, inputs[:, share], targets[:, share])
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    results[rank] = [parameter.detach().tolist() for parameter in whole]
    dist.destroy_process_group()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["DDP", "FSDP2", "FSDP2 by layer"])
def test_two_processes_equal_one(how):
    alone = network()
    train(alone, *data())
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(work, (free_port(), how, results), nprocs=WORLD)
        for rank in range(WORLD):
            for found, expected in zip(results[rank], alone.parameters(), strict=True):
                torch.testing.assert_close(
                    torch.tensor(found, dtype=torch.float64), expected.detach(), rtol=0, atol=1e-6
                )
