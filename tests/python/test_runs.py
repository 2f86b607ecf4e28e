# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import ensembler as ens

from conftest import ATTACKS, BIN, SMALL, peer


def weights(run, folder):
    """The whole net's, as bytes."""
    files = run.export(folder, format="safetensors", secrets=True)
    return {f.name: f.read_bytes() for f in files}


def test_a_training_from_python_and_from_the_program_end_in_the_same_weights(run, tmp_path):
    text = tmp_path / "config.txtpb"
    text.write_text(ens.Config(**SMALL).to_text())
    subprocess.run([BIN / "ensembler", "train", "--config", text, "--out", tmp_path / "cli"], check=True,
                   capture_output=True)
    assert weights(run, tmp_path / "a") == weights(ens.Run(tmp_path / "cli"), tmp_path / "b")


def test_a_run_says_what_it_is(run):
    assert run.done and 0 <= run.accuracy <= 1 and "accuracy" in repr(run)
    assert run.config.model.width == 4 and run.summary["protection"] == "none"
    assert any(row["name"] == "loss" for row in run.metrics)
    assert pickle.loads(pickle.dumps(run)) == run
    assert ens.train(ens.Config(**SMALL), out=run.folder) == run  # done already
    with pytest.raises(ens.UsageError, match="model.width"):
        ens.train(ens.Config(**{**SMALL, "model.width": 8}), out=run.folder)


def test_attacks_report_and_table(run, tmp_path):
    seen = []
    results = ens.attack(run, ["oracle", "linear-decoder", "mean-image"], progress=lambda *p: seen.append(p), **ATTACKS)
    assert [r.attack for r in results] == ["oracle", "linear-decoder", "mean-image"]
    assert seen and all(total > 0 for _, total, _ in seen)
    for r in results:
        assert -1 <= r.ssim <= 1 and r.interval[0] <= r.ssim <= r.interval[1] and r.strength
        assert r.images.dtype == np.uint8 and r.images.shape[1:] == (32, 32, 3) and len(r.images) == len(r.originals)
        assert "data:image/png" in r._repr_html_()
    assert "SSIM" in repr(results) and "<table>" in results._repr_html_()
    changed = [f.stat().st_mtime_ns for f in run.folder.glob("attack/*/result.json")]
    assert ens.attack(run, ["oracle"], **ATTACKS)[0].ssim == results[0].ssim  # done already
    assert changed == [f.stat().st_mtime_ns for f in run.folder.glob("attack/*/result.json")]
    page = ens.report([run], tmp_path / "report.html")
    assert "oracle" in page.read_text() or "decoder on true features" in page.read_text()
    rows = ens.table(run)
    assert {row["attack"] for row in rows} == {"oracle", "linear-decoder", "mean-image"}
    pandas = peer("pandas")
    frame = results.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame["attack"]) == [r.attack for r in results]
    assert len(rows.to_pandas()) == 3


def test_originals_are_those_of_the_data_set(run):
    r = ens.attack(run, ["mean-image"], **ATTACKS)[0]
    test = ens.Dataset.load("shapes", test=True, limit=100)
    assert np.array_equal(r.originals[0], test.images[0])


def test_a_sweep(tmp_path):
    cells = ens.sweep(ens.Config(**SMALL), {"protection.kind": ["none", "largest"], "ensemble.nets": ["1"]},
                      attacks=["linear-decoder"], out=tmp_path / "sweep")
    assert [c.status for c in cells] == ["done", "done"] and (tmp_path / "sweep/report.html").exists()
    assert [c.values["protection.kind"] for c in cells] == ["none", "largest"]
    assert cells[0].run.results[0].attack == "linear-decoder"


def test_what_progress_raises_ends_the_work_and_is_what_is_raised(tmp_path):
    class Mine(Exception):
        pass

    def progress(*_):
        raise Mine

    long = ens.Config(**{**SMALL, "stage1.epochs": 500})
    start = time.monotonic()
    with pytest.raises(Mine):
        ens.train(long, out=tmp_path / "run", progress=progress)
    assert time.monotonic() - start < 20
    assert not ens.Run(tmp_path / "run").done


def interrupt_after(seconds):
    def send():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_interrupted_at_random_moments_a_training_goes_on_to_the_same_weights(run, tmp_path):
    moments = int(os.environ.get("ENS_INTERRUPTS", "6"))
    chance = random.Random(1)
    interrupted = 0
    for _ in range(moments):
        sender = interrupt_after(chance.uniform(0.05, 0.6))
        try:
            ens.train(ens.Config(**SMALL), out=tmp_path / "run")
            sender.join()
            time.sleep(0.2)  # the signal comes after the training
        except KeyboardInterrupt:
            interrupted += 1
        sender.join()
    again = ens.train(ens.Config(**SMALL), out=tmp_path / "run")
    assert weights(again, tmp_path / "a") == weights(run, tmp_path / "b")
    assert interrupted > 0


def test_an_interrupted_training_ends_within_two_seconds(tmp_path):
    long = ens.Config(**{**SMALL, "stage1.epochs": 500})
    times = []
    for attempt in range(3):
        sent = []
        thread = threading.Timer(1, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT)))
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            ens.train(long, out=tmp_path / "run")
        times.append(time.monotonic() - sent[0])
    assert min(times) < 2


def test_python_threads_go_on_while_a_net_trains(tmp_path):
    """The GIL is not held: a thread that sleeps a millisecond each turn is not kept waiting."""
    longest, stop = [0.0], []

    def watch():
        last = time.monotonic()
        while not stop:
            time.sleep(0.001)
            now = time.monotonic()
            longest[0], last = max(longest[0], now - last), now

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.monotonic()
    ens.train(ens.Config(**SMALL), out=tmp_path / "run")
    seconds = time.monotonic() - start
    stop.append(1)
    thread.join()
    assert seconds > 0.2 and longest[0] < seconds / 2


def test_denormals_of_the_calling_thread_stay(run):
    assert np.float32(1e-40) * np.float32(1) != 0
    ens.attack(run, ["linear-decoder"], again=True, **ATTACKS)
    assert np.float32(1e-40) * np.float32(1) != 0


def test_secrets_are_exported_only_when_asked_for_and_stay_the_owners(run, tmp_path):
    public = run.export(tmp_path / "public", format="safetensors")
    assert [f.name for f in public] == ["body0.safetensors"]
    secret = run.export(tmp_path / "secret", format="safetensors", secrets=True)
    for f in secret:
        if f.name != "body0.safetensors":
            assert f.stat().st_mode & 0o77 == 0
    with pytest.raises(ens.UsageError):
        run.export(tmp_path, format="pickle")


def test_repr_and_pickles_hold_no_secret(run):
    secret = hashlib.sha256(run.edge_bundle.read_bytes()).hexdigest()
    for text in (repr(run), repr(run.config), repr(run.summary)):
        assert secret not in text and "selector" not in text
    assert len(pickle.dumps(run)) < 500


PRINTS = """
import ensembler as ens, sys
ens.train(ens.Config.from_text(sys.argv[1]), out=sys.argv[2])
for _ in range(2):
    ens.attack(sys.argv[2], ["mean-image"], **{"attack.reference_images": 0, "attack.scored_images": 16})
"""


def test_the_core_prints_nothing(tmp_path):
    out = subprocess.run([sys.executable, "-c", "import logging; logging.disable()\n" + PRINTS,
                          ens.Config(**SMALL).to_text(), tmp_path / "run"], capture_output=True, text=True, check=True)
    assert out.stdout == "" and out.stderr == ""
