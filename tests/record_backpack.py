"""Records what BackPACK computes, for test_curvature.py, which runs without PyTorch.

    python tests/record_backpack.py

backpack.safetensors has, for a network of linear layers and one with convolutions, the tensors, the
input and the labels, and each extension's result for the mean of the cross-entropy, in float64.
"""

from pathlib import Path

import numpy as np
import torch
from backpack import backpack, extend, extensions
from safetensors.numpy import save_file
from torch import nn

FILE = Path(__file__).with_name("backpack.safetensors")
NETWORKS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)),
        (5, 7),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.ReLU(),
            nn.Conv2d(3, 4, 2, stride=2),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        (5, 2, 5, 5),
    ),
}
EXTENSIONS = {
    "batch_grad": (extensions.BatchGrad, "grad_batch"),
    "batch_l2": (extensions.BatchL2Grad, "batch_l2"),
    "sum_grad_squared": (extensions.SumGradSquared, "sum_grad_squared"),
    "variance": (extensions.Variance, "variance"),
    "diag_ggn_exact": (extensions.DiagGGNExact, "diag_ggn_exact"),
    "kflr": (extensions.KFLR, "kflr"),
}


def record() -> dict[str, np.ndarray]:
    """Every tensor of every case, by name."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    random, found = np.random.default_rng(0), {}
    for name, (make, shape) in NETWORKS.items():
        net, loss = extend(make()), extend(nn.CrossEntropyLoss())
        x, labels = random.normal(size=shape), random.integers(0, 3, shape[0])
        found |= {f"{name}.x": x, f"{name}.labels": labels}
        kinds = [kind() for kind, _ in EXTENSIONS.values()]
        with backpack(*kinds):
            loss(net(torch.tensor(x)), torch.tensor(labels)).backward()
        for parameter, tensor in net.named_parameters():
            found[f"{name}.{parameter}"] = tensor.detach().numpy()
            for extension, (_, attribute) in EXTENSIONS.items():
                result = getattr(tensor, attribute)
                parts = result if isinstance(result, list) else [result]
                for i, part in enumerate(parts):
                    found[f"{name}.{parameter}.{extension}.{i}"] = part.detach().numpy()
    return {key: np.ascontiguousarray(array) for key, array in found.items()}


if __name__ == "__main__":
    save_file(record(), FILE)
