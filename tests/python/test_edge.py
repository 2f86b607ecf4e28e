# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import pickle
import threading
import time

import numpy as np
import pytest

import ensembler as ens

from conftest import Cloud


@pytest.fixture(scope="module")
def images():
    return ens.Dataset.load("shapes", test=True, limit=48)


def test_classifies_as_the_net_does(run, cloud, images, tmp_path):
    files = run.export(tmp_path / "out", format="safetensors", secrets=True)
    net_file = next(f for f in files if f.name == "net.safetensors")
    with ens.EdgeClient(run.edge_bundle, cloud.address) as edge:
        assert edge.image_shape == (3, 32, 32) and edge.class_names == images.classes
        c = edge.classify(images.x)
        assert c.logits.shape == (48, 10) and len(c) == 48
        assert [image[0].index for image in c.top] == c.logits.argmax(1).tolist()
        softmax = np.exp(c.logits[0] - c.logits[0].max())
        assert c.top[0][0].probability == pytest.approx(softmax.max() / softmax.sum(), abs=1e-4)
        assert (c.logits.argmax(1) == images.labels).mean() == pytest.approx(run.accuracy, abs=0.2)
        assert np.allclose(edge.classify(images.images).logits, c.logits, atol=1e-4)  # uint8
        assert np.allclose(edge.classify(images.x[0]).logits, c.logits[:1], atol=1e-2)
        assert c.times["total_ms"] > 0 and c.times["bytes_sent"] > 0
    with pytest.raises(ValueError):
        edge.classify(images.x)
    assert net_file.exists()


def test_images_that_do_not_fit_are_refused_and_others_go_on(run, cloud, images):
    with ens.EdgeClient(run.edge_bundle, cloud.address) as edge:
        for bad in (images.x * 2, np.full((1, 3, 32, 32), np.nan, np.float32), np.zeros((1, 3, 16, 16), np.float32),
                    np.zeros((0, 3, 32, 32), np.float32)):
            with pytest.raises(ValueError):
                edge.classify(bad)
        assert len(edge.classify(images.x)) == 48


def test_nobody_there_is_a_typed_error(run, images):
    with ens.EdgeClient(run.edge_bundle, "tcp://127.0.0.1:9", timeout_ms=300) as edge:
        with pytest.raises((ens.Unavailable, ens.DeadlineExceeded)) as caught:
            edge.classify(images.x)
        assert caught.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    with pytest.raises(ens.EnsemblerError):
        ens.EdgeClient(run.edge_bundle, "tcp://192.0.2.1:5755")  # plain text beyond loopback


def test_neither_repr_nor_pickle_nor_traceback_has_a_secret(run, cloud):
    edge = ens.EdgeClient(run.edge_bundle, cloud.address)
    assert str(run.edge_bundle) in repr(edge) and "key" not in repr(edge)
    with pytest.raises(TypeError):
        pickle.dumps(edge)
    edge.close()
    edge.close()


def test_denormals_of_the_calling_thread_stay(run, cloud, images):
    with ens.EdgeClient(run.edge_bundle, cloud.address) as edge:
        edge.classify(images.x)
    assert np.float32(1e-40) * np.float32(1) != 0


def test_several_threads_share_a_client(run, cloud, images):
    with ens.EdgeClient(run.edge_bundle, cloud.address) as edge:
        expected = edge.classify(images.x).logits
        found = {}
        threads = [threading.Thread(target=lambda i=i: found.update({i: edge.classify(images.x[i:i + 1]).logits}))
                   for i in range(24)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        for i in range(24):
            assert np.allclose(found[i], expected[i:i + 1], atol=1e-2)


def test_a_thousand_calls_at_once_without_a_thread_each(run, cloud, images):
    async def calls():
        async with ens.AsyncEdgeClient(run.edge_bundle, cloud.address) as edge:
            expected = (await edge.classify(images.x)).logits
            threads = len(os.listdir("/proc/self/task"))
            tasks = [asyncio.create_task(edge.classify(images.x[i % 48:i % 48 + 1])) for i in range(1000)]
            await asyncio.sleep(0.01)
            assert len(os.listdir("/proc/self/task")) <= threads + 8
            for i, c in enumerate(await asyncio.gather(*tasks)):
                assert np.allclose(c.logits, expected[i % 48:i % 48 + 1], atol=1e-2)

    asyncio.run(calls())


def test_a_cloud_that_is_killed_among_a_thousand_calls(run, cloud, images):
    outcomes = []

    async def calls():
        async with ens.AsyncEdgeClient(run.edge_bundle, cloud.address, timeout_ms=200) as edge:
            expected = (await edge.classify(images.x[:1])).logits

            async def caller():
                for _ in range(20):
                    try:
                        c = await edge.classify(images.x[:1])
                        assert np.allclose(c.logits, expected, atol=1e-2)
                        outcomes.append(None)
                    except ens.CloudError as e:
                        outcomes.append(e)
                    if len(outcomes) == 100:
                        cloud.kill()

            await asyncio.gather(*(caller() for _ in range(50)))

    asyncio.run(asyncio.wait_for(calls(), 300))
    failed = [e for e in outcomes if e is not None]
    assert len(outcomes) == 1000 and 100 <= len(failed) <= 900


def test_a_cancelled_call_is_dropped(run, cloud, images):
    async def calls():
        async with ens.AsyncEdgeClient(run.edge_bundle, cloud.address) as edge:
            task = asyncio.create_task(edge.classify(images.x))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert edge._pending == {}
            return len(await edge.classify(images.x))

    assert asyncio.run(calls()) == 48


def test_a_stream_keeps_the_order(run, cloud, images):
    async def calls():
        async with ens.AsyncEdgeClient(run.edge_bundle, cloud.address) as edge:
            expected = (await edge.classify(images.x)).logits
            frames = (images.x[i] for i in range(48))
            found = [c.logits[0] async for c in edge.stream(frames, in_flight=5)]
            assert np.allclose(np.stack(found), expected, atol=1e-2)

    asyncio.run(calls())


def test_a_server_of_another_training_is_told_apart(run, images, tmp_path):
    other = ens.train(run.config, out=tmp_path / "other", seed=9)
    server = Cloud(other.cloud_bundle, tmp_path)
    try:
        with ens.EdgeClient(run.edge_bundle, server.address) as edge:
            with pytest.raises(ens.FingerprintMismatch):
                edge.classify(images.x)
    finally:
        server.kill()


def test_an_image_file(run, cloud, images, tmp_path):
    pixels = images[:3]
    pixels.save(tmp_path / "set")
    with ens.EdgeClient(run.edge_bundle, cloud.address) as edge:
        x = edge.read_image(tmp_path / "set/images/train000001.png")
        assert np.allclose(x[0], images.x[1], atol=1e-6)
        with pytest.raises(ens.EnsemblerError):
            edge.read_image(tmp_path / "missing.png")


def test_closing_ends_what_is_under_way(run, images):
    edge = ens.EdgeClient(run.edge_bundle, "tcp://127.0.0.1:9", timeout_ms=60000)
    raised = []

    def call():
        try:
            edge.classify(images.x)
        except ens.CloudError as e:
            raised.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.2)
    edge.close()
    thread.join(10)
    assert not thread.is_alive() and isinstance(raised[0], ens.CloudError)
