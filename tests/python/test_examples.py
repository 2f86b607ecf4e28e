# SPDX-License-Identifier: Apache-2.0
"""Every example runs, as a script whose cells a notebook would show, and prints what it is there for."""
import os
import re
import subprocess
import sys

import pytest

from conftest import BIN, SOURCE, peer

EXAMPLES = SOURCE / "python/examples"
# What is printed, not which numbers.
PRINTS = {
    "ten_lines": [r"^<Run runs/ten-lines: none, shapes, accuracy \d+\.\d %>$", r"oracle +black box +-?0\.\d{3} ",
                  r"^runs/ten-lines\.html$"],
    "my_pytorch_model": [r"^plain +oracle +black box +-?0\.\d{3}", r"^ensemble +linear-decoder", r"^channel +retrieval",
                         "mean-image"],
    "attack_features": [r"known-pairs +known pairs +-?0\.\d{3}", r"^oracle +black box +-?0\.\d{3}"],
    "edge_client": [r"^<Classified .* ms>$", r"^accuracy \d", r"^\d+ of 200 right$"],
    "sweep": [r"^<Cell .*: done>", r"Additive noise", "linear-decoder"],
}


def test_every_example_is_tested():
    assert {f.stem for f in EXAMPLES.glob("*.py")} == set(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_example(name, tmp_path):
    if name in ("my_pytorch_model", "attack_features"):
        peer("torch")
    if name == "my_pytorch_model":
        peer("torchvision")
    out = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], cwd=tmp_path, capture_output=True, text=True,
                         timeout=500, env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"})
    assert out.returncode == 0, out.stderr
    for pattern in PRINTS[name]:
        assert re.search(pattern, out.stdout, re.MULTILINE), (pattern, out.stdout)


def test_an_example_as_a_notebook(tmp_path):
    nbclient, nbformat = peer("nbclient"), peer("nbformat")
    peer("ipykernel")
    text = (EXAMPLES / "ten_lines.py").read_text()
    book = nbformat.v4.new_notebook()
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        book.cells.append(nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", body, flags=re.MULTILINE))
                          if "markdown" in kind else nbformat.v4.new_code_cell(body.strip()))
    book.cells.append(nbformat.v4.new_code_cell("results"))
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = book.cells[-1]["outputs"][0]["data"]
    assert "<table>" in shown["text/html"] and "linear-decoder" in shown["text/plain"]
