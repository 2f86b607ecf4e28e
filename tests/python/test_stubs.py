# SPDX-License-Identifier: Apache-2.0
"""The stubs are those of the module, and examples pass mypy --strict."""
import os
import subprocess
import sys
from pathlib import Path

import ensembler
from conftest import SOURCE, peer


def mypy(*arguments, tmp_path):
    peer("mypy")
    out = subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, "MYPYPATH": str(Path(ensembler.__file__).parent.parent)})
    assert out.returncode == 0, out.stdout + out.stderr


def test_the_stubs_are_true(tmp_path):
    # Of pybind11's functions the signature is not known; the rooms in Python are their own stubs.
    (tmp_path / "allowed").write_text("ensembler\\.[a-z]+(\\..*)?\nensembler\\._native\\.[A-Z][A-Za-z]*(\\.__init__)?\n")
    mypy("mypy.stubtest", "ensembler", "--allowlist", "allowed",
         "--mypy-config-file", SOURCE / "pyproject.toml",
         "--ignore-unused-allowlist", tmp_path=tmp_path)


def test_the_package_and_the_examples_are_typed(tmp_path):
    package = ("mypy", "--config-file", SOURCE / "pyproject.toml", "--cache-dir", tmp_path / "cache", "-p", "ensembler")
    mypy(*package, tmp_path=tmp_path)
    mypy("mypy", "--config-file", SOURCE / "pyproject.toml", "--cache-dir", tmp_path / "cache",
         *sorted((SOURCE / "python/examples").glob("*.py")),
         tmp_path=tmp_path)
