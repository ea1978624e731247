"""Code as users write it; `test_types` checks that exactly the marked lines are refused."""

import jax
import jax.numpy as jnp

import jaxnn

x = jnp.ones((3, 4))

p: jax.Array = jaxnn.softmax(x)
q: jax.Array = jaxnn.softmax(x, axis=0)
jaxnn.softmax(x, dim=0)  # refused
jaxnn.softmax()  # refused
wrong: str = jaxnn.softmax(x)  # refused
y, residuals = jaxnn.leaky_relu.fwd(x, slope=0.5)
jaxnn.leaky_relu.fwd(x, slop=0.5)  # refused
(dx,) = jaxnn.leaky_relu.bwd(residuals, y)
loss: jax.Array = jaxnn.softmax_cross_entropy(x, jnp.array([0, 1, 2]), label_smoothing=0.1)
jaxnn.softmax_cross_entropy(x)  # refused

net = jaxnn.serial(jaxnn.Linear(4, 3), jaxnn.relu, jaxnn.leaky_relu.bind(slope=0.1))
jaxnn.Linear(4)  # refused
jaxnn.Linear(4, 3, bias=False)  # refused
params = net.init(jax.random.key(0))
dparams, dinput = net.bwd(net.fwd(params, x)[1], y)


@jaxnn.op
def double(x: jax.Array, *, times: float = 2.0) -> jax.Array:
    """Twice x."""
    return times * x


twice: jax.Array = double(x, times=3.0)
double(x, time=3.0)  # refused
