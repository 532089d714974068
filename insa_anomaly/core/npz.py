"""Arrays as the bytes of an npz, and the errors of reading a damaged npz.

Its parts are read by zipfile, zlib, numpy and, for a damaged header, Python's own tokenizer.
"""

import io
import struct
import zlib
from collections.abc import Callable
from tokenize import TokenError
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from insa_anomaly.errors import ModelFileError

Arrays = dict[str, npt.NDArray[Any]]
T = TypeVar("T")

DAMAGE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OSError, SyntaxError),
    *(RuntimeError, MemoryError, BadZipFile, TokenError, zlib.error, struct.error),
)


def packed(**arrays: Any) -> bytes:  # noqa: ANN401 - as numpy takes them
    """Return an npz, compressed, that needs no pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpacked(data: bytes, make: Callable[[Arrays], T], refusal: str) -> T:
    """Return the object that `make` makes of the arrays in an npz. Raises ModelFileError."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as npz:
            return make({name: npz[name] for name in npz.files})
    except DAMAGE as error:
        raise ModelFileError(refusal) from error
