"""Constants that were chosen by measurement, each with the measurement.

All were measured on two cores of a server processor (Intel Xeon, unless AMD EPYC is named) with
JAX 0.10.2, and those for GPUs on one NVIDIA H200 with JAX 0.11.2, in float32 (products in TF32).
"""

from typing import NamedTuple

import jax


def on_a_gpu() -> bool:
    """Whether the default backend is a GPU, asked while tracing."""
    return jax.default_backend() == "gpu"


class Tuned(NamedTuple):
    """A constant that differs between CPUs and GPUs."""

    cpu: int
    gpu: int

    @property
    def here(self) -> int:
        """The value for the default backend."""
        return self.gpu if on_a_gpu() else self.cpu


NARROW_OUTPUT = 32
"""The most outputs for which `linear` computes dW as (dyᵀ·x)ᵀ.

dW of 512 inputs and 10 outputs at batch 128: xᵀ·dy takes 122 µs, dyᵀ·x takes 35 µs.
"""

CONVOLUTION_WHOLE_BYTES = 2**23
"""The most bytes of x and dy together for which dW of a convolution is summed in one piece.

3×3, 16 to 32 channels, 28×28, on two cores of an AMD EPYC: 32 images (4.6 MiB) take 2.6 ms in one
piece and 2.7 ms in two; 256 images (37 MiB) take 29.8 ms in one and 21.7 ms in pieces of 4 MiB.
"""

CONVOLUTION_PART_BYTES = 2**22
"""The bytes of x and dy together in one piece of a longer sum: they fit the caches of a CPU.

On two cores of an AMD EPYC: 3×3, 16 to 16 channels, 56×56, 128 images take 40 ms in one piece, and
81, 48, 23 and 23 ms in pieces of 1, 2, 4 and 8 MiB. The same loop takes the groups one at a time:
3×3, 16 to 32 channels in 16 groups, 28×28, 32 images take 3.3 ms, in XLA's own groups 473 ms.
"""

TILE_SCORES = Tuned(cpu=2**20, gpu=2**25)
"""The most scores in one tile of attention, of all heads of all examples: 4 and 128 MiB of float32.

(2, 1024, 8, 64), causal, forward and backward, on two cores of an AMD EPYC: tiles with sides of
64, 128, 256, 512 and 1024 take 132, 117, 119, 140 and 205 ms, and 7, 10, 19, 65 and 210 MB.
On a GPU those of 128, 256, 512 and 1024 take 2.34, 1.14, .77 and .62 ms; for (4, 2048, 8, 64) those
of 256, 512, 1024 and 2048 take 4.13, 2.81, 2.55 and 2.79 ms, and 99, 189, 610 and 1553 MiB.
"""

SHORTEST_TILE, LONGEST_TILE = 128, Tuned(cpu=512, gpu=1024)
"""The bounds of a default tile's sides, if there are that many positions; see `TILE_SCORES`."""

TANGENT_TILE_SCORES = 2**18
"""The same as `TILE_SCORES` for the tangent, which holds twice as many arrays of this size at once.

(1, 2048, 4, 32), causal, the tangent alone, on two cores of an AMD EPYC: 2¹⁶, 2¹⁸ and 2²⁰ scores
take 56, 46 and 49 ms, and 5, 8 and 18 MB.
"""

TANGENT_TILE_ASPECT = 2
"""The queries of a tile of the tangent for each of its keys.

(1, 2048, 4, 32), causal, value and tangent, on two cores of an AMD EPYC: 256 queries by 256 keys
take 61 ms, 256 by 512 take 41, 512 by 256 take 40, and 512 by 512 take 36 ms; the last takes 19 MB
of temporary memory, the others 14.
"""

BAG_UNROLL = Tuned(cpu=1, gpu=8)
"""The number of positions of a bag that one step of the loop of `embedding_bag` takes.

512 bags of 32 rows of 256 numbers, forward and backward, on a GPU: 1, 4, 8 and 32 positions take
.82, .31, .24 and .17 ms, autodiff takes .32 ms; the compiler's time grows with them.
"""

CHUNK_LOGITS = Tuned(cpu=2**21, gpu=2**26)
"""The logits in one chunk of `linear_softmax_cross_entropy`: 8 and 256 MiB of float32.

2048 rows of 256 inputs, 32000 classes, forward and backward, on two cores of an AMD EPYC: chunks
of 128, 256, 512, 1024, 2048 and 8192 classes take 802, 735, 699, 699, 745 and 827 ms, and 3, 5,
11, 19, 45 and 203 MB. On a GPU chunks of 1024, 2000, 4000, 8000, 16000 and 32000 classes take 2.75,
2.21, 1.75, 1.50, 1.34 and .98 ms, and 19, 65, 98, 133, 266 and 500 MiB; autodiff takes 1.19 ms and
500 MiB. With a single chunk the compiler reuses the logits of the forward pass in the backward.
"""

SHORTEST_CHUNK = 512
"""The fewest classes in a chunk by default: matrix products with fewer are slower.

See `CHUNK_LOGITS`.
"""
