# SPDX-License-Identifier: Apache-2.0
from .config import Config as Config
from .data import Dataset as Dataset
from .edge import AsyncEdgeClient as AsyncEdgeClient, Classified as Classified, EdgeClient as EdgeClient
from .errors import (
    CloudError as CloudError, DeadlineExceeded as DeadlineExceeded, EnsemblerError as EnsemblerError,
    FingerprintMismatch as FingerprintMismatch, Internal as Internal, InvalidArgument as InvalidArgument,
    MissingFileError as MissingFileError, ResourceExhausted as ResourceExhausted, Unauthenticated as Unauthenticated,
    Unavailable as Unavailable, UsageError as UsageError, VersionMismatch as VersionMismatch,
)
from .nets import Net as Net
from .results import Result as Result, Results as Results
from .runs import (
    Cell as Cell, Run as Run, Table as Table, attack as attack, attack_features as attack_features, cells as cells,
    ensemble as ensemble, report as report, sweep as sweep, table as table, train as train,
)
from .tensors import Tensor as Tensor, as_array as as_array, as_tensor as as_tensor

__version__: str
