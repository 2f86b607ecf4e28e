# SPDX-License-Identifier: Apache-2.0
"""Arrays of other frameworks as tensors, and back."""
from __future__ import annotations

from typing import Any, Optional

import numpy as np

from . import _native
from .errors import UsageError

Tensor = _native.Tensor


def as_tensor(x: Any, *, copy: Optional[bool] = None) -> Tensor:
    """A tensor over the memory of `x`: a numpy array, a torch tensor, whatever has the buffer protocol or DLPack.

    Nothing is copied unless it must be: float64 becomes float32, int64 int32, what is not contiguous is laid out anew,
    and what is read-only stays as it is. copy=False: BufferError instead; copy=True: always.
    """
    if isinstance(x, Tensor):
        return as_tensor(np.array(x)) if copy else x
    if hasattr(x, "detach"):  # torch: what needs gradients is not exported
        x = x.detach()
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        if copy is not True:
            try:
                return _native.from_dlpack(x)
            except (BufferError, TypeError):
                if copy is False:
                    raise
        x = x.cpu().numpy() if hasattr(x, "cpu") else np.from_dlpack(x)
    array = np.asarray(x)
    wanted = {"d": np.float32, "l": np.int32, "q": np.int32, "?": np.uint8}.get(array.dtype.char, array.dtype)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"an array of dtype {array.dtype} holds no numbers that a tensor could")
    if wanted == np.int32 and array.dtype != np.int32 and array.size:
        if array.min() < -2**31 or array.max() >= 2**31:
            raise TypeError("integers beyond 32 bits")
    if copy is False and (array.dtype != wanted or not array.flags.c_contiguous):
        raise BufferError(f"a {array.dtype} array with strides {array.strides} cannot be shared without a copy")
    if copy is False and not array.flags.writeable:
        raise BufferError("a read-only array cannot be shared: tensors can be written")
    contiguous = np.array(array, dtype=wanted, order="C", copy=True) if copy else \
        np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)
    return _native.from_buffer(contiguous if contiguous.flags.writeable else contiguous.copy())


def as_array(x: Any) -> "np.ndarray[Any, Any]":
    """A numpy array over the memory of `x`, or of a copy on the CPU where that is needed."""
    if isinstance(x, Tensor):
        t = x.cpu().plain()
        return np.asarray(t if t.dtype not in ("bfloat16", "float8") else t.float())
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        return np.asarray(x.float() if str(x.dtype) == "torch.bfloat16" else x)
    return np.asarray(x)


def as_images(x: Any, layout: Optional[str] = None, name: str = "images") -> "np.ndarray[Any, Any]":
    """Images [N, channels, H, W], as uint8 or as float32 in [0, 1].

    `x`: [N, H, W] grey, [N, channels, H, W] (layout="NCHW") or [N, H, W, channels] ("NHWC") with 1 or 3 channels, of
    uint8 or of floats in [0, 1]. Where both layouts fit, `layout` must say which it is.
    """
    a = as_array(x)
    if a.ndim == 3:
        a = a[:, None]
    elif a.ndim != 4:
        raise UsageError(f"an array of shape {a.shape}", name, "give [N, channels, H, W] or [N, H, W, channels]")
    else:
        fits = [order for order, channels in (("NCHW", a.shape[1]), ("NHWC", a.shape[3])) if channels in (1, 3)]
        if layout is None and len(fits) == 2:
            raise UsageError(f"shape {a.shape} may be NCHW or NHWC", name, 'say which: layout="NCHW"')
        layout = layout or (fits[0] if fits else None)
        if layout not in ("NCHW", "NHWC") or layout not in fits:
            raise UsageError(f"shape {a.shape} is no images of 1 or 3 channels" +
                             (f" as {layout}" if layout else ""), name,
                             "give [N, channels, H, W] or [N, H, W, channels]")
        if layout == "NHWC":
            a = a.transpose(0, 3, 1, 2)
    if 0 in a.shape:
        raise UsageError(f"no images in an array of shape {a.shape}", name)
    if a.dtype == np.uint8:
        return np.ascontiguousarray(a)
    if a.dtype.kind != "f":
        raise UsageError(f"images of dtype {a.dtype}", name, "give uint8, or floats in [0, 1]")
    a = np.ascontiguousarray(a, dtype=np.float32)
    if not (a.min() >= 0 and a.max() <= 1):  # NaN is neither
        raise UsageError("pixels outside [0, 1], or not finite", name,
                         "give uint8, or floats in [0, 1] that are not normalised yet")
    return a


def as_bytes(images: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """as_images() as uint8."""
    return images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)


def as_floats(images: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """as_images() as float32 in [0, 1]."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
