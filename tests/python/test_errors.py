# SPDX-License-Identifier: Apache-2.0
import pickle

import pytest

import ensembler as ens
from ensembler import errors

CODES = {
    "INVALID_ARGUMENT": (ens.InvalidArgument, ValueError),
    "FINGERPRINT_MISMATCH": (ens.FingerprintMismatch, ens.CloudError),
    "RESOURCE_EXHAUSTED": (ens.ResourceExhausted, ens.CloudError),
    "DEADLINE_EXCEEDED": (ens.DeadlineExceeded, TimeoutError),
    "UNAVAILABLE": (ens.Unavailable, ens.CloudError),
    "VERSION_MISMATCH": (ens.VersionMismatch, ens.CloudError),
    "INTERNAL": (ens.Internal, ens.CloudError),
    "UNAUTHENTICATED": (ens.Unauthenticated, PermissionError),
}


def test_every_code_of_the_protocol_has_its_error():
    text = (__import__("conftest").SOURCE / "docs/protocol.md").read_text()
    for code, (kind, base) in CODES.items():
        assert code in text
        error = errors.from_status(code, "why")
        assert type(error) is kind and isinstance(error, (base,)) and isinstance(error, ens.CloudError)
        assert error.code == code and str(error) == error.what == "why"
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind and str(copy) == "why"


def test_our_errors_say_what_where_and_what_to_try(tmp_path):
    with pytest.raises(ens.UsageError) as caught:
        ens.Config(**{"ensemble.sigma": 1e9})
    assert caught.value.what.startswith("ensemble.sigma = ") and caught.value.hint
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, ens.EnsemblerError)
    with pytest.raises(FileNotFoundError) as missing:
        ens.Net.from_safetensors(tmp_path / "missing.safetensors", mean=[0, 0, 0], std=[1, 1, 1])
    assert isinstance(missing.value, ens.EnsemblerError) and str(tmp_path) in missing.value.where


def test_damaged_files_are_errors(tmp_path, run):
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ens.EnsemblerError):
        ens.Net.from_safetensors(tmp_path / "w.safetensors", mean=[0, 0, 0], std=[1, 1, 1])
    with pytest.raises(ens.UsageError):
        ens.Run(tmp_path)
    with pytest.raises(ens.EnsemblerError):
        ens.EdgeClient(tmp_path / "w.safetensors", "tcp://127.0.0.1:9")
    with pytest.raises(ens.UsageError):
        ens.attack(run, ["orakel"])
