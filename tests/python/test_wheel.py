# SPDX-License-Identifier: Apache-2.0
"""The wheel: built by the documented command, installed in a virtual environment, and sufficient."""
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import SMALL, SOURCE, peer

import ensembler as ens


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    peer("build")
    if not shutil.which("patchelf"):
        pytest.fail("patchelf is missing") if os.environ.get("ENS_REQUIRE_PEERS") else pytest.skip("no patchelf")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, SOURCE], check=True,
                   capture_output=True)
    (file,) = folder.glob("ensembler-*.whl")
    return file


def test_it_is_small_and_whole(wheel):
    assert wheel.stat().st_size < 40e6
    names = zipfile.ZipFile(wheel).namelist()
    assert {"ensembler/__init__.py", "ensembler/py.typed", "ensembler/_native.pyi", "ensembler/configs/demo.txtpb"} <= set(names)


def test_installed_alone_it_trains(wheel, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True)  # numpy's place
    subprocess.run([venv / "bin/pip", "install", "--no-index", "--no-deps", "--quiet", wheel], check=True)
    (package,) = venv.glob("lib/python3*/site-packages/ensembler")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    code = """
import sys, ensembler as ens
run = ens.train(ens.Config("demo", **eval(sys.argv[1])), out=sys.argv[2])
print(ens.__file__, run)
"""
    out = subprocess.run([venv / "bin/python", "-c", code, repr(SMALL), tmp_path / "run"], capture_output=True, text=True,
                         env=environment, timeout=300)
    assert out.returncode == 0 and str(package) in out.stdout and "accuracy" in out.stdout, out.stderr
    # Whatever is loaded comes from the wheel, but for the C and C++ libraries.
    native = next(package.glob("_native*.so"))
    listed = subprocess.run(["ldd", native], capture_output=True, text=True, env=environment).stdout
    for line in listed.splitlines():
        match = re.match(r"\s*(\S+) => (\S+)", line)
        if match and str(package) not in match[2]:
            assert re.match(r"(libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|ld-linux.*)\.so", match[1]), line


def test_the_source_archive_is_whole(tmp_path):
    peer("build")
    if not (SOURCE / ".git").exists():
        pytest.skip("not a checkout")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path, SOURCE], check=True,
                   capture_output=True)
    (file,) = tmp_path.glob("*.tar.gz")
    import tarfile
    names = tarfile.open(file).getnames()
    top = f"ensembler-{ens.__version__}"
    assert {f"{top}/PKG-INFO", f"{top}/pyproject.toml", f"{top}/CMakeLists.txt", f"{top}/python/src/module.cc"} <= set(names)
