# SPDX-License-Identifier: Apache-2.0
"""What importing does to a process, forks, and the end of the interpreter."""
import os
import subprocess
import sys

import pytest

import ensembler as ens

from conftest import SMALL, peer


def python(code, *arguments, **options):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          **options)


def test_importing_is_quick_and_starts_no_thread():
    code = """
import resource, sys, os
before = resource.getrusage(resource.RUSAGE_SELF)
import ensembler
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, len(os.listdir("/proc/self/task")),
      "numpy" in sys.modules)
"""
    out = python(code)
    assert out.returncode == 0, out.stderr
    seconds, threads, numpy = out.stdout.split()
    assert float(seconds) < 0.3 and threads == "1" and numpy == "False"


def test_a_child_of_fork_is_told_to_spawn():
    code = """
import os, ensembler as ens
ens.Dataset.load("shapes", limit=10)
if os.fork() == 0:
    try:
        ens.Dataset.load("shapes", limit=10)
        os._exit(3)
    except ens.EnsemblerError as e:
        os._exit(0 if "spawn" in str(e) else 4)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    out = python(code)
    assert out.stdout.strip() == "0", out.stderr


def test_a_child_of_fork_waits_for_no_call_of_its_parent(tmp_path):
    code = """
import os, sys, threading, ensembler as ens
begun, end = threading.Event(), threading.Event()
def tell(*progress):
    begun.set()
    if end.is_set(): raise KeyboardInterrupt
def train():
    try: ens.train(ens.Config.from_text(sys.argv[1]), out=sys.argv[2], progress=tell, **{"stage1.epochs": 500})
    except KeyboardInterrupt: pass
thread = threading.Thread(target=train)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
end.set()
thread.join()
"""
    out = python(code, ens.Config(**SMALL).to_text(), tmp_path / "run")
    assert out.stdout.strip() == "7", out.stderr


def test_a_fork_of_a_process_that_only_imported_may_compute():
    code = """
import os, ensembler as ens
if os.fork() == 0:
    os._exit(len(ens.Dataset.load("shapes", limit=10)))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert python(code).stdout.strip() == "10"


def test_spawned_processes_compute():
    code = """
import multiprocessing, ensembler as ens
def load(seed): return len(ens.Dataset.load("shapes", limit=10, seed=seed))
if __name__ == "__main__":
    ens.Dataset.load("shapes", limit=10)
    with multiprocessing.get_context("spawn").Pool(1) as pool: print(pool.map(load, [1, 2]))
"""
    # spawn imports the main module again: it must be a file.
    import tempfile
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        out = subprocess.run([sys.executable, file.name], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "[10, 10]", out.stderr


TWICE = """
import os, signal, sys, threading, time, ensembler as ens
def send():
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send, daemon=True).start()
try:
    ens.train(ens.Config.from_text(sys.argv[1]), out=sys.argv[2], **{"stage1.epochs": 500})
except KeyboardInterrupt:
    print("interrupted")
    time.sleep(0.5)
"""


def test_two_interrupts_and_the_end_of_the_interpreter_leave_a_run_that_goes_on(tmp_path):
    out = python(TWICE, ens.Config(**SMALL).to_text(), tmp_path / "run")
    assert out.returncode in (0, 1, -2) and "Aborted" not in out.stderr, out
    assert not ens.Run(tmp_path / "run").done


@pytest.mark.parametrize("order", ["import torch; import ensembler as ens", "import ensembler as ens; import torch"])
def test_torch_beside_it_whoever_comes_first(order, tmp_path):
    peer("torch")
    code = order + """
import sys
x = torch.randn(64, 64)
ens.train(ens.Config.from_text(sys.argv[1]), out=sys.argv[2])
print(float((x @ torch.linalg.inv(x)).diag().mean()))
"""
    out = python(code, ens.Config(**SMALL).to_text(), tmp_path / "run")
    assert out.returncode == 0 and abs(float(out.stdout) - 1) < 0.1, out.stderr


def test_protobuf_beside_it():
    peer("google.protobuf")
    code = """
import google.protobuf.descriptor_pb2 as pb, ensembler as ens
print(pb.FileDescriptorProto(name="x").SerializeToString(), ens.Config("demo").data.name)
"""
    out = python(code)
    assert "cifar10" in out.stdout, out.stderr
    code = "import ensembler as ens; ens.Config('demo'); import onnx; print(onnx.__version__)"
    peer("onnx")
    out = python(code)
    assert out.returncode == 0, out.stderr
