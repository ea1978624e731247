"""Records what modules of PyTorch compute, for test_torch.py, which runs without PyTorch.

    python tests/interop/record_torch.py

Each case in torch.safetensors has the module's tensors, its inputs and the gradients of its
outputs, all drawn by NumPy, and, computed by PyTorch, its output and the gradients of its inputs.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

FILE = Path(__file__).with_name("torch.safetensors")


class Sequences(nn.Module):
    """A recurrent module, of which only the hidden states are returned."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0]


class Attention(nn.Module):
    """Self-attention, or attention to a context, without the weights that it also returns."""

    def __init__(self, *sizes, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(*sizes, batch_first=True, **options)

    def forward(self, x, context=None):
        context = x if context is None else context
        return self.attention(x, context, context, need_weights=False)[0]


BLOCK = {"dropout": 0.0, "batch_first": True, "norm_first": True}
IDS = np.array([[3, 0, 4], [1, 5, 3]])
CASES = {
    "linear": (nn.Linear(5, 4), (7, 5)),
    "linear_without_bias": (nn.Linear(5, 4, bias=False), (7, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9)),
    "conv2d": (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        (3, 4, 7, 5),
    ),
    "conv_transpose2d": (
        nn.ConvTranspose2d(4, 6, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 0), groups=2),
        (3, 4, 5, 3),
    ),
    "layer_norm": (nn.LayerNorm(5), (7, 5)),
    "rms_norm": (nn.RMSNorm(5, eps=1e-5), (7, 5)),
    "group_norm": (nn.GroupNorm(3, 6), (4, 6, 5)),
    "batch_norm": (nn.BatchNorm2d(4), (3, 4, 5, 6)),
    "embedding": (nn.Embedding(6, 4), IDS),
    "prelu": (nn.PReLU(), (7, 5)),
    "prelu_of_channels": (nn.PReLU(4), (3, 4, 5)),
    "attention": (Attention(6, 3), (4, 5, 6)),
    "attention_to_context": (Attention(6, 3, kdim=4, vdim=4), (3, 5, 6), (3, 7, 4)),
    "rnn": (Sequences(nn.RNN(4, 3)), (6, 5, 4)),
    "gru": (Sequences(nn.GRU(4, 3)), (6, 5, 4)),
    "lstm": (Sequences(nn.LSTM(4, 3, num_layers=2)), (6, 5, 4)),
    "lstm_bidirectional": (Sequences(nn.LSTM(4, 3, bidirectional=True)), (6, 5, 4)),
    "encoder_layer": (
        nn.TransformerEncoderLayer(6, 3, 8, activation="gelu", **BLOCK),
        (4, 5, 6),
    ),
    "decoder_layer": (nn.TransformerDecoderLayer(6, 3, 8, **BLOCK), (3, 5, 6), (3, 7, 6)),
}


def record() -> dict[str, np.ndarray]:
    """All cases, under names such as "linear/tensors/weight" and "linear/y"."""
    recorded = {}
    for case, (module, *inputs) in CASES.items():
        random = np.random.default_rng(sorted(CASES).index(case))
        tensors = {
            name: _drawn_tensor(random, name, tensor.shape)
            for name, tensor in module.state_dict().items()
            if tensor.is_floating_point()
        }
        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        module.load_state_dict(state, strict=False)
        module.eval()
        arrays = [x if isinstance(x, np.ndarray) else _drawn(random, x) for x in inputs]
        xs = [torch.from_numpy(x) for x in arrays]
        floating = [x.requires_grad_() for x in xs if x.is_floating_point()]
        y = module(*xs)
        dy = _drawn(random, y.shape)
        y.backward(torch.from_numpy(dy))
        values = {f"tensors/{name}": tensor for name, tensor in tensors.items()}
        values |= {f"x{i}": x for i, x in enumerate(arrays)} | {"y": y.detach().numpy(), "dy": dy}
        values |= {f"dx{i}": x.grad.numpy() for i, x in enumerate(floating)}
        recorded |= {f"{case}/{name}": np.ascontiguousarray(a) for name, a in values.items()}
    return recorded


def _drawn(random, shape):
    return random.standard_normal(tuple(shape)).astype(np.float32)


def _drawn_tensor(random, name, shape):
    """Small numbers, because large scores of an attention magnify errors of rounding."""
    half = np.float32(0.5) * _drawn(random, shape)
    return np.abs(half) + np.float32(0.5) if name.endswith("running_var") else half


if __name__ == "__main__":
    save_file(record(), FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes")
