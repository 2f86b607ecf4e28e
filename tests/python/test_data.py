# SPDX-License-Identifier: Apache-2.0
import pickle

import numpy as np
import pytest

import ensembler as ens

from conftest import SMALL, peer


def images(n=20, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_layouts_dtypes_and_grey():
    x = images()
    y = np.arange(20) % 4
    nhwc = ens.Dataset.from_arrays(x, y)
    nchw = ens.Dataset.from_arrays(x.transpose(0, 3, 1, 2), y, classes=["a", "b", "c", "d"])
    floats = ens.Dataset.from_arrays(x.astype(np.float64) / 255, y)
    for d in (nhwc, nchw, floats):
        assert np.array_equal(d.images, x) and d.labels.tolist() == y.tolist() and d.shape == (3, 32, 32)
    assert nchw.classes == ["a", "b", "c", "d"] and nhwc.classes == ["0", "1", "2", "3"]
    assert ens.Dataset.from_arrays(x[..., 0], y).shape == (1, 32, 32)
    assert np.array_equal(nhwc[3:5].images, x[3:5])
    assert np.array_equal(pickle.loads(pickle.dumps(nhwc)).images, x)


def test_an_ambiguous_layout_is_asked_for_and_never_guessed():
    x = np.zeros((5, 3, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="layout"):
        ens.Dataset.from_arrays(x, np.zeros(5, int))
    assert ens.Dataset.from_arrays(x, np.zeros(5, int), layout="NCHW").shape == (3, 8, 3)


@pytest.mark.parametrize("x", [
    np.full((2, 3, 8, 8), np.nan, np.float32), np.full((2, 3, 8, 8), 1.5), np.full((2, 3, 8, 8), -0.1),
    np.zeros((2, 5, 8, 8), np.uint8), np.zeros((2, 8), np.uint8), np.zeros((0, 3, 8, 8), np.uint8),
    np.zeros((2, 3, 8, 8), np.int32), np.zeros((2, 3, 8, 8), object),
])
def test_images_that_are_none_are_refused(x):
    with pytest.raises((ens.UsageError, TypeError)):
        ens.Dataset.from_arrays(x, np.zeros(len(x), int))


def test_labels_that_do_not_fit_are_refused():
    x = images(3)
    for y in ([0, 1], [0.0, 1.0, 2.0], [-1, 0, 1], [[0], [1], [2]]):
        with pytest.raises(ens.UsageError):
            ens.Dataset.from_arrays(x, np.array(y))
    with pytest.raises(ens.UsageError):
        ens.Dataset.from_arrays(x, np.array([0, 1, 5]), classes=["a", "b"])


def test_a_saved_data_set_is_read_again_with_its_classes_in_their_order(tmp_path):
    x = images(24)
    y = np.arange(24) % 12
    names = [f"class {chr(122 - i)}, nr. {i}" for i in range(12)]  # neither sorted nor free of commas
    folder = ens.Dataset.from_arrays(x, y, classes=names).save(tmp_path / "set",
                                                              ens.Dataset.from_arrays(x[:12], y[:12], classes=names))
    for test, count in ((False, 24), (True, 12)):
        again = ens.Dataset.load(f"folder:{folder}", test=test, image_size=32)
        assert again.classes == names and len(again) == count
        pixels = {(bytes(image.tobytes()), label) for image, label in zip(x[:count], y)}
        assert pixels == {(bytes(image.tobytes()), int(label)) for image, label in zip(again.images, again.labels)}


def test_a_run_trains_on_arrays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, test = ens.Dataset.load("shapes", limit=200), ens.Dataset.load("shapes", test=True, limit=40)
    settings = {k: v for k, v in SMALL.items() if not k.startswith("data.")}
    run = ens.train(ens.Config(**settings), data=(train, test), out=tmp_path / "run", **{"stage1.epochs": 1})
    assert run.summary["test_images"] == 40
    assert (tmp_path / "cache" / "ensembler-data" / "arrays").stat().st_mode & 0o777 == 0o700
    assert (run.folder / "classes.txt").read_text().split("\n")[:-1] == train.classes


def test_torch_data_sets():
    torch = peer("torch")
    x = images(6)

    class Set(torch.utils.data.Dataset):
        classes = ["a", "b", "c"]

        def __init__(self, convert):
            self.convert = convert

        def __len__(self):
            return 6

        def __getitem__(self, i):
            return self.convert(x[i]), i % 3

    pil = peer("PIL.Image")
    for convert in (pil.fromarray, lambda a: torch.from_numpy(a).permute(2, 0, 1),
                    lambda a: torch.from_numpy(a).permute(2, 0, 1).float() / 255):
        seen = []
        d = ens.Dataset.from_torch(Set(convert), limit=5, progress=lambda *p: seen.append(p))
        assert np.array_equal(d.images, x[:5]) and d.classes == ["a", "b", "c"] and seen
