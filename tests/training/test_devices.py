"""Training on several devices and in several processes: the same results, each part once."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import two_processes

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("standard_promotion")
def test_two_processes_equal_one(tmp_path):
    """`train_step`, `train_epoch`, `fit`, `evaluate`, files, and a run that goes on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.two_processes", str(n), str(port), tmp_path],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    (tmp_path / "alone").mkdir()
    with jax.enable_x64(False):
        expected = two_processes.results(jnp.asarray, two_processes.MINIBATCHES, tmp_path / "alone")
    for n in (0, 1):
        found = np.load(tmp_path / f"process {n}.npz")
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6, err_msg=name)


PROGRAM = """
import re
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import jaxnn
from jaxnn.training import sources

net, loss, optimizer = jaxnn.mlp((64, 256, 10)), jaxnn.softmax_cross_entropy, optax.sgd(0.1)
N, BATCH = 2048, 512
random = np.random.default_rng(0)
x = random.normal(size=(N, 64)).astype(np.float32)
labels = random.integers(0, 10, N).astype(np.int32)
params = jax.tree.map(np.asarray, net.init(jax.random.key(0)))
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.{kind},))
data = NamedSharding(mesh, PartitionSpec("data"))
step = jaxnn.train_step(net, loss, optimizer)
epoch = jaxnn.train_epoch(net, loss, optimizer, BATCH)

lowered = {{}}
begin = sources.ResidentExamples.__init__
def recording(self, programs, examples, batch_size):
    def resident(*args):
        lowered["fit"] = programs.resident.lower(*args)
        return programs.resident(*args)
    begin(self, programs._replace(resident=resident), examples, batch_size)
sources.ResidentExamples.__init__ = recording

def everything(put):
    x_there, labels_there, start = put(x), put(labels), jax.tree.map(jnp.asarray, params)
    if put is not jnp.asarray:
        start = jax.device_put(start, NamedSharding(mesh, PartitionSpec()))
    first = put(x[:BATCH]), put(labels[:BATCH])
    key = jax.random.key(1)
    programs = {{
        "step": step.lower(start, optimizer.init(start), *first),
        "epoch": epoch.lower(start, optimizer.init(start), x_there, labels_there, key),
    }}
    stepped = step(start, optimizer.init(start), *first)
    gone_through = epoch(
        jax.tree.map(jnp.copy, start), optimizer.init(start), x_there, labels_there, key
    )
    training = jaxnn.fit(
        net, loss, params, (x_there, labels_there), epochs=2, batch_size=BATCH, optimizer=optimizer,
        progress=False,
    )
    programs["fit"] = lowered["fit"]
    results = stepped[0], stepped[2], gone_through[0], gone_through[2], training.params
    return {{name: program.compile() for name, program in programs.items()}}, results

alone, expected = everything(jnp.asarray)
together, found = everything(lambda array: jax.device_put(array, data))
for name in alone:
    flops = [programs[name].cost_analysis()["flops"] for programs in (together, alone)]
    floats = re.findall(r"= \\((f32.*?)\\) all-reduce\\(", together[name].as_text())
    print(name, "ratio", flops[0] / flops[1], "reductions of a tuple", len(floats))
for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
    np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-6, atol=1e-6)

layer = jaxnn.residual(jaxnn.serial(jaxnn.Linear(6, 5), jaxnn.tanh, jaxnn.Linear(5, 6)))
weights = layer.init(jax.random.key(2))
x, dy = random.normal(size=(2, 16, 6)).astype(np.float32)
def gradients(weights, x, dy):
    _, residuals = layer.fwd(weights, x)
    return layer.bwd(residuals, dy)
everywhere, split = PartitionSpec(), PartitionSpec("data")
within = jax.shard_map(
    gradients, mesh=mesh, in_specs=(everywhere, split, split), out_specs=(everywhere, split)
)
expected = jax.jit(gradients)(weights, x, dy)
placed = [jax.device_put(weights, NamedSharding(mesh, everywhere)), *jax.device_put((x, dy), data)]
found = jax.jit(within)(*placed)
for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
    np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-5, atol=1e-6)
"""


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_eight_devices_share_the_work(kind):
    """An eighth of the flops each, one all-reduce for all gradients, the same results."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(kind=kind)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(\w+) ratio ([\d.]+) reductions of a tuple (\d+)", done.stdout)
    assert [name for name, *_ in found] == ["step", "epoch", "fit"]
    for name, ratio, reductions in found:
        assert float(ratio) <= 1 / 7.5, name
        assert int(reductions) == 1, name
