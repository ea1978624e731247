"""Every op on several devices: inside `shard_map`, and on meshes with automatic and explicit axes.

The process has one device, so each case runs in a child process with forced ones: once for all ops.
"""

import os
import subprocess
import sys

import pytest

from tests.thorough import OF_EVERY_KIND

THOROUGH = pytest.mark.thorough
CASES = [
    pytest.param(2, sorted(OF_EVERY_KIND), id="2-ops of every kind"),
    pytest.param(2, [], id="2-every op", marks=THOROUGH),
    pytest.param(4, [], id="4-every op", marks=THOROUGH),
]


@pytest.mark.parametrize(("devices", "ops"), CASES)
def test_ops_on_devices(devices, ops):
    """Equal to one device to 1e-12; the child prints one line for each op that is not."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(
        [sys.executable, "-m", "tests.on_devices", *ops],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
