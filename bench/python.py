# SPDX-License-Identifier: Apache-2.0
"""What the Python package costs beside C++ (docs/python.md). Needs a build:

    PATH=build/cpu/bin:$PATH PYTHONPATH=build/cpu/python python3 bench/python.py build/cpu/lib/libens_edge.so
"""
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import ensembler as ens

SMALL = {"data.name": "shapes", "data.train_limit": 1000, "data.test_limit": 100, "model.width": 16, "ensemble.nets": 4,
         "ensemble.selected": 2, "stage1.epochs": 1, "stage2.epochs": 1}


C = """
import ctypes, sys, time
import numpy as np
library, bundle, address, images = sys.argv[1:]
c = ctypes.CDLL(library)
c.ens_edge_open.restype = ctypes.c_void_p
error = ctypes.create_string_buffer(1024)
edge = ctypes.c_void_p(c.ens_edge_open(f"bundle: '{bundle}' cloud: '{address}'".encode(), error, 1024))
assert edge, error.value
x, logits = np.load(images), np.zeros((32, 10), np.float32)
for i in range(80):
    start = time.perf_counter()
    assert c.ens_edge_classify(edge, x.ctypes, ctypes.c_int64(32), logits.ctypes, error, 1024) == 0, error.value
    if i >= 20:
        print(1e3 * (time.perf_counter() - start))
"""


def against_c(run, address, library, folder):
    """The same 32 images by EdgeClient and, in a process of its own (both register the protocol's messages), by
    libens_edge.so's C interface, in turns: the median milliseconds of each."""
    x = np.ascontiguousarray(ens.Dataset.load("shapes", test=True, limit=32).x)
    np.save(folder / "images.npy", x)
    times = {"Python": [], "C": []}
    for _ in range(4):
        with ens.EdgeClient(run.edge_bundle, address) as client:
            for i in range(80):
                start = time.perf_counter()
                client.classify(x)
                if i >= 20:
                    times["Python"].append(1e3 * (time.perf_counter() - start))
        out = subprocess.run([sys.executable, "-c", C, library, run.edge_bundle, address, folder / "images.npy"],
                             capture_output=True, text=True, check=True)
        times["C"] += map(float, out.stdout.split())
    return {name: statistics.median(t) for name, t in times.items()}


def counting(work):
    """How far a Python thread counts in a second of processor time, alone and while `work` runs."""
    def count(seconds):
        n, end = 0, time.thread_time() + seconds
        while time.thread_time() < end:
            n += 1
        return n / seconds
    alone = count(1)
    thread = threading.Thread(target=work)
    thread.start()
    beside = count(1)
    thread.join()
    return beside / alone


def main():
    with tempfile.TemporaryDirectory() as folder:
        run = ens.train(ens.Config(**SMALL), out=Path(folder) / "run")
        ready = Path(folder) / "ready"
        cloud = subprocess.Popen(["ensembler-cloud", "--bundle", run.cloud_bundle, "--bind", "tcp://127.0.0.1:*",
                                  "--ready-file", ready], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not ready.exists():
            time.sleep(0.1)
        times = against_c(run, ready.read_text().strip(), sys.argv[1], Path(folder))
        cloud.kill()
        print(f"32 images: Python {times['Python']:.2f} ms, C {times['C']:.2f} ms: {100 * times['Python'] / times['C'] - 100:+.1f} %")
        ratio = counting(lambda: ens.train(ens.Config(**{**SMALL, "stage1.epochs": 3}), out=Path(folder) / "other"))
        print(f"a thread that counts beside a training: {100 * ratio:.0f} % of its speed alone, in processor time")


main()
