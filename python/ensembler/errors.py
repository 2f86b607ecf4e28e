# SPDX-License-Identifier: Apache-2.0
"""What can go wrong. Every error says what, where and what to try; none holds a secret."""
from __future__ import annotations

import errno
from typing import Any


class EnsemblerError(RuntimeError):
    """Something that could not be done.

    what: the problem; where: the file, field or operation; hint: the next thing to try. The latter
    two may be empty.
    """

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.hint:
            text += f"; {self.hint}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.what, self.where, self.hint))


class UsageError(EnsemblerError, ValueError):
    """Something impossible was asked for."""


class MissingFileError(EnsemblerError, FileNotFoundError):
    """A file is not there."""


class CloudError(EnsemblerError):
    """A request that a cloud did not fulfil. code: one of docs/protocol.md's, as text."""

    code = "INTERNAL"


class InvalidArgument(CloudError, ValueError):
    code = "INVALID_ARGUMENT"


class FingerprintMismatch(CloudError):
    code = "FINGERPRINT_MISMATCH"


class ResourceExhausted(CloudError):
    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(CloudError, TimeoutError):
    code = "DEADLINE_EXCEEDED"


class Unavailable(CloudError):
    code = "UNAVAILABLE"


class VersionMismatch(CloudError):
    code = "VERSION_MISMATCH"


class Internal(CloudError):
    code = "INTERNAL"


class Unauthenticated(CloudError, PermissionError):
    code = "UNAUTHENTICATED"


_BY_CODE: dict[str, type[CloudError]] = {
    kind.code: kind
    for kind in (InvalidArgument, FingerprintMismatch, ResourceExhausted, DeadlineExceeded, Unavailable,
                 VersionMismatch, Internal, Unauthenticated)
}


def from_error(usage: bool, what: str, where: str, hint: str) -> EnsemblerError:
    """Of an ens::Error; called by the native module."""
    if usage:
        return UsageError(what, where, hint)
    if what.endswith(("No such file or directory", "it is not there")):
        return MissingFileError(what, where, hint)
    return EnsemblerError(what, where, hint)


def from_os(number: int, what: str, where: str) -> EnsemblerError:
    """Of a std::filesystem::filesystem_error; called by the native module."""
    if number == errno.ENOENT:
        return MissingFileError(what, where)
    return EnsemblerError(what, where)


def from_status(code: str, message: str) -> CloudError:
    """Of an ens::Status; called by the native module."""
    return _BY_CODE[code](message)
