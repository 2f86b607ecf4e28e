# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Python package share. ENS_BIN names the folder of the programs."""
import importlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import ensembler as ens

# Shells let what runs in their background ignore it, and Python then raises no KeyboardInterrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = {
    "data.name": "shapes", "data.train_limit": 600, "data.test_limit": 100, "data.public_images": 120,
    "model.width": 4, "stage1.epochs": 2, "stage2.epochs": 1, "protection.kind": "none",
    "attack.scored_images": 16, "attack.public_images": 120, "attack.decoder.channels": 8, "attack.decoder.blocks": 1,
    "attack.decoder.epochs": 2, "attack.reference_images": 0, "attack.known_pairs.counts": [20],
    "attack.alignment.steps": 8, "attack.alignment.restarts": 1, "attack.seeds": 1,
}
ATTACKS = {path: value for path, value in SMALL.items() if path.startswith("attack.")}
BIN = Path(os.environ["ENS_BIN"])
SOURCE = Path(__file__).parents[2]


def peer(name):
    """A module of others; the test skips without it, or fails where ENS_REQUIRE_PEERS is set."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("ENS_REQUIRE_PEERS"):
            pytest.fail(f"{name} is missing: ./run peers installs it")
        pytest.skip(f"{name} is not installed: ./run peers")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of one unprotected net."""
    return ens.train(ens.Config(**SMALL), out=tmp_path_factory.mktemp("runs") / "none")


class Cloud:
    def __init__(self, bundle, folder, bind="tcp://127.0.0.1:*"):
        self.ready = Path(folder) / f"ready{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [BIN / "ensembler-cloud", "--bundle", bundle, "--bind", bind, "--ready-file", self.ready],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self.ready.exists():
                break
            assert self.process.poll() is None
            time.sleep(0.05)
        self.address = self.ready.read_text().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture()
def cloud(run, tmp_path):
    server = Cloud(run.cloud_bundle, tmp_path)
    yield server
    server.kill()
