"""Errors of reading a damaged npz.

Its parts are read by zipfile, zlib, numpy and, for a damaged header, Python's own tokenizer.
"""

import struct
import zlib
from tokenize import TokenError
from zipfile import BadZipFile

DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    BadZipFile,
    TokenError,
    zlib.error,
    struct.error,
)
