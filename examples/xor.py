"""A network with four hidden neurons learns XOR, which one neuron can't.

python examples/xor.py
"""

import torch

import torchann

X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])


def train(net: torchann.MLP, steps: int = 1000) -> float:
    """E after the last step."""
    loss = torchann.HalfSquaredErrorLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        error = loss(net(X), Y)
        error.backward()
        optimizer.step()
    return error.item()


def main() -> dict[str, float | list[float]]:
    torch.manual_seed(0)
    net, neuron = torchann.MLP([2, 4, 1]), torchann.MLP([2, 1])
    error, error_of_one = train(net), train(neuron)

    outputs = net(X).flatten().tolist()
    print("a b | a xor b | output")
    for (a, b), y, output in zip(X.tolist(), Y.flatten().tolist(), outputs, strict=True):
        print(f"{a:.0f} {b:.0f} | {y:7.0f} | {output:.4f}")
    print(f"E = {error:.6f}; of one neuron without a hidden layer {error_of_one:.4f}")
    return {"outputs": outputs, "error": error, "error_of_one": error_of_one}


if __name__ == "__main__":
    main()
