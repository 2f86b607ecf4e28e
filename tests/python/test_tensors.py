# SPDX-License-Identifier: Apache-2.0
import gc
import itertools
import resource

import numpy as np
import pytest

import ensembler as ens
from ensembler import _native

from conftest import peer


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int8, np.int32])
def test_numpy_and_tensors_share_memory(dtype):
    a = np.arange(24).astype(dtype).reshape(2, 3, 4)
    t = ens.as_tensor(a, copy=False)
    b, c = np.asarray(t), np.from_dlpack(t)
    assert t.data_ptr == a.ctypes.data == b.ctypes.data == c.ctypes.data
    assert b.dtype == c.dtype == dtype and b.shape == c.shape == t.shape == (2, 3, 4)
    a[1, 2, 3] = 9
    assert b[1, 2, 3] == 9
    assert ens.as_tensor(a, copy=True).data_ptr != a.ctypes.data


def test_what_is_read_only_is_copied_or_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3, np.float32))
    a, text = np.load(tmp_path / "a.npy", mmap_mode="r"), b"abc"
    for given in (a, memoryview(text)):
        np.asarray(ens.as_tensor(given))[0] = 7
        with pytest.raises(BufferError, match="read-only"):
            ens.as_tensor(given, copy=False)
        with pytest.raises(BufferError, match="read-only"):
            _native.from_buffer(given)
    assert a[0] == 1 and text == b"abc"


def test_what_must_be_copied_is_copied_or_refused():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    for odd in (a.T, a[:, ::-1], a[::2, 1:], a.astype(np.float64), np.arange(3), np.broadcast_to(a[:1], (4, 3))):
        assert np.array_equal(np.asarray(ens.as_tensor(odd)), odd)
        if not odd.flags.c_contiguous or odd.dtype.char in "dl":
            with pytest.raises(BufferError):
                ens.as_tensor(odd, copy=False)


def test_hostile_arrays_are_errors():
    scalar = ens.as_tensor(np.float32(2))
    assert scalar.shape == () and float(np.asarray(scalar)) == 2
    with pytest.raises(TypeError):
        len(scalar)
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**40,), (0,))
    for bad in (np.array([object()]), np.array(["a"]), np.zeros(2, "c8"), np.zeros(1, "M8[s]"), {}, "text",
                np.zeros(2, [("a", "f4")]), np.array([2**40])):
        with pytest.raises((TypeError, ValueError)):
            ens.as_tensor(bad)
    with pytest.raises(MemoryError):
        ens.as_tensor(huge)
    with pytest.raises(BufferError):
        ens.as_tensor(huge, copy=False)
    with pytest.raises(ValueError):
        ens.as_tensor(np.zeros((1,) * 7, np.float32))
    with pytest.raises((BufferError, ValueError, TypeError)):
        _native.from_buffer(np.zeros((4, 4), np.float32)[:, ::2])
    with pytest.raises(TypeError):
        _native.from_buffer(np.zeros(3, np.float64))
    empty = ens.as_tensor(np.zeros((0, 3), np.float32))
    assert np.asarray(empty).shape == (0, 3) and np.from_dlpack(empty).shape == (0, 3)


def test_a_tensor_is_not_pickled_and_shows_no_element():
    import pickle
    t = ens.as_tensor(np.full(3, 12345, np.float32))
    assert "12345" not in repr(t)
    with pytest.raises(TypeError):
        pickle.dumps(t)


def test_memory_lives_until_its_last_view_whatever_the_order():
    def make():
        a = np.random.default_rng(1).random((64, 64), dtype=np.float32)
        t = ens.as_tensor(a)
        return [a, t, np.asarray(t), np.from_dlpack(t), t.__dlpack__(), t.__dlpack__(max_version=(1, 0)), memoryview(t)]

    expected = make()[0].copy()
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 3):
        views = make()
        for i in order:
            views[i] = None
            for view in views[:4]:
                if view is not None:
                    assert np.array_equal(np.asarray(view), expected)


def test_ten_thousand_tensors_leave_nothing():
    def some(count):
        for _ in range(count):
            t = ens.as_tensor(np.zeros(25_000, np.float32))
            np.asarray(t), np.from_dlpack(t), t.__dlpack__()
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = some(1000)
    assert some(10_000) < before + 20_000  # kB; kept, they would be a million


def test_torch_shares_memory_both_ways():
    torch = peer("torch")
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3).requires_grad_()
    t = ens.as_tensor(x, copy=False)
    assert t.data_ptr == x.data_ptr()
    back = torch.from_dlpack(t)
    assert back.data_ptr() == x.data_ptr()
    with pytest.raises(BufferError):
        ens.as_tensor(x.T, copy=False)
    assert np.array_equal(np.asarray(ens.as_tensor(x.T)), x.detach().numpy().T)
    del x, t
    assert back.sum() == 15


def test_numpy_has_no_bfloat16_and_the_error_says_what_to_do():
    torch = peer("torch")
    t = ens.as_tensor(torch.tensor([1.5, 2.5], dtype=torch.bfloat16))
    assert t.dtype == "bfloat16"
    with pytest.raises(BufferError, match=r"\.float\(\)"):
        memoryview(t)
    assert np.asarray(t.float()).tolist() == [1.5, 2.5] == ens.as_array(t).tolist()


def test_a_capsule_is_consumed_once():
    class Once:
        def __init__(self, capsule):
            self.capsule = capsule

        def __dlpack__(self):
            return self.capsule

    t = ens.as_tensor(np.ones(3, np.float32))
    for capsule in (t.__dlpack__(), t.__dlpack__(max_version=(1, 0))):
        once = Once(capsule)
        assert np.asarray(_native.from_dlpack(once)).sum() == 3
        with pytest.raises(Exception):
            _native.from_dlpack(once)
