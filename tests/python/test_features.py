# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

import ensembler as ens

from conftest import ATTACKS

WEIGHTS = np.random.default_rng(0).normal(size=(12, 48)).astype(np.float32) * 0.2


def head(x):
    """The first layer of a network that nobody here knows: 12 maps of patches of 4x4."""
    n = len(x)
    patches = np.asarray(x).reshape(n, 3, 8, 4, 8, 4).transpose(0, 2, 4, 1, 3, 5).reshape(n, 64, 48)
    return (patches @ WEIGHTS.T).transpose(0, 2, 1).reshape(n, 12, 8, 8)


@pytest.fixture(scope="module")
def data():
    return ens.Dataset.load("shapes", limit=400), ens.Dataset.load("shapes", test=True, limit=16)


def test_attacks_from_pairs_and_public_images(data):
    own, victim = data
    results = ens.attack_features(
        z=head(victim.x), truth=victim.x, pairs=(own[:200].x, head(own[:200].x)), public=own[200:],
        attacks=["oracle", "linear-decoder", "retrieval", "known-pairs", "alignment", "nearest-public", "mean-image"],
        **ATTACKS)
    by_name = {r.attack: r for r in results}
    assert all(r.ssim is not None for r in results), results
    # Twelve of the 48 numbers of a patch: linear regression reads most of the image, and blind attacks do not.
    assert by_name["linear-decoder"].ssim > by_name["mean-image"].ssim + 0.1
    assert by_name["oracle"].floor == pytest.approx(max(by_name[n].ssim for n in ("nearest-public", "mean-image")))
    assert by_name["mean-image"].images.shape == (16, 32, 32, 3)
    mean = np.rint(own.images.mean(axis=0))
    assert np.abs(by_name["mean-image"].images[0] - mean).max() <= 1
    assert np.array_equal(by_name["oracle"].originals, victim.images)


def test_the_ridge_regression_is_numpys(data):
    """The linear decoder against a least-squares solution by numpy on the same pairs."""
    own, victim = data
    x, z = own.x.reshape(400, -1), head(own.x).reshape(400, -1)
    r = ens.attack_features(z=head(victim.x), truth=victim.x, pairs=(own.x, head(own.x)), attacks=["linear-decoder"],
                            **ATTACKS)[0]
    centre_x, centre_z = x.mean(0), z.mean(0)
    best = None
    for ridge in 10.0 ** np.arange(-3, 4):
        a = z - centre_z
        w = np.linalg.solve(a @ a.T + ridge * np.eye(400), x - centre_x)
        found = (head(victim.x).reshape(16, -1) - centre_z) @ a.T @ w + centre_x
        error = np.mean((np.clip(found, 0, 1) - victim.x.reshape(16, -1)) ** 2)
        best = error if best is None else min(best, error)
    assert r.mse < 1.5 * best


def test_a_query_answers_for_any_images(data):
    own, victim = data
    asked = []

    def query(x):
        asked.append(x.shape)
        return head(x)

    results = ens.attack_features(z=head(victim.x), truth=victim.x, public=own, query=query,
                                  attacks=["linear-decoder", "known-pairs"], **ATTACKS)
    assert results[0].ssim > 0.3 and sum(s[0] for s in asked) == len(own)
    assert results[1].pointless == "no pairs are given"


def test_what_a_query_raises_is_raised(data):
    own, victim = data

    def query(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ens.attack_features(z=head(victim.x), truth=victim.x, public=own, query=query, attacks=["linear-decoder"],
                            **ATTACKS)


def test_arrays_that_do_not_fit_are_refused(data):
    own, victim = data
    z, x = head(victim.x), victim.x
    good = dict(z=z, truth=x, public=own, attacks=["mean-image"], **ATTACKS)
    assert ens.attack_features(**good)[0].ssim is not None
    nan = z.copy()
    nan[0, 0, 0, 0] = np.nan
    for change in (dict(z=z[:3]), dict(z=z[:, :, :3]), dict(z=z.reshape(16, -1)), dict(z=nan), dict(truth=x * 2),
                   dict(truth=x[:, :, :16]), dict(public=None), dict(attacks=["shadow-n1"]), dict(attacks=["orakel"]),
                   dict(public=own.x[:, :, :16, :16]), dict(pairs=(own.x, z)), dict(z=z.astype(object)),
                   dict(z=np.zeros((16, 12, 7, 7), np.float32)), dict(z=np.zeros((16, 0, 8, 8), np.float32))):
        with pytest.raises((ens.UsageError, TypeError)):
            ens.attack_features(**{**good, **change})
