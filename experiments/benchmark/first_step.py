"""The first compiled training step of the 64-128-10 network in this process: what it takes.

python -m experiments.benchmark.first_step jaxnn|plain SEED
"""

import json
import sys
import time

import jax
import numpy as np
import optax

SIZES = (64, 128, 10)
BATCH_SIZE = 64
OPTIMIZER = optax.sgd(0.8)


def with_jaxnn(key):
    """The step of jaxnn, and the parameters it starts from."""
    import jaxnn

    net = jaxnn.mlp(SIZES)
    return jaxnn.train_step(net, jaxnn.softmax_cross_entropy, OPTIMIZER), net.init(key)


def plain(key):
    """The same in plain JAX and optax."""
    params = [
        {"w": jax.random.normal(k, (n_in, n_out)) / n_in**0.5, "b": np.zeros(n_out, np.float32)}
        for k, n_in, n_out in zip(jax.random.split(key), SIZES, SIZES[1:], strict=False)
    ]

    def objective(params, x, labels):
        hidden, out = params
        h = jax.nn.relu(x @ hidden["w"] + hidden["b"])
        logits = h @ out["w"] + out["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, opt_state, x, labels):
        value, grads = jax.value_and_grad(objective)(params, x, labels)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return step, params


def main() -> None:
    side, seed = sys.argv[1:]
    random = np.random.default_rng(int(seed))
    x = random.random((BATCH_SIZE, SIZES[0]), np.float32)
    labels = random.integers(0, SIZES[-1], BATCH_SIZE).astype(np.int32)
    make = {"jaxnn": with_jaxnn, "plain": plain}[side]
    step, params = jax.block_until_ready(make(jax.random.key(int(seed))))
    opt_state = OPTIMIZER.init(params)
    start = time.monotonic()
    jax.block_until_ready(step(params, opt_state, x, labels))
    finished_at = time.monotonic()
    print(json.dumps({"seconds": finished_at - start, "finished_at": finished_at}))


if __name__ == "__main__":
    main()
