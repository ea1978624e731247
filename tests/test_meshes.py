"""Every op on several devices: inside `shard_map`, and on meshes with automatic and explicit axes.

The process has one device, so each case runs in a child process with forced ones: once for all ops.
"""

import os
import subprocess
import sys

import pytest

DEVICES = (2, 4)


@pytest.mark.parametrize("devices", DEVICES)
def test_ops_on_devices(devices):
    """Every op, equal to one device to 1e-12; the child prints one line for each that is not."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(
        [sys.executable, "-m", "tests.on_devices"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
