"""Save and load the arrays of a detector in a file that a caller named."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.npz import DAMAGE, packed
from insa_anomaly.errors import ModelFileError
from insa_anomaly.files.whole import write_whole

ANOTHER_FORM = "was saved by another version: its window has another form"


def write_arrays(path: Path, **arrays: npt.NDArray[np.generic] | bytes) -> None:
    """Write arrays and bytes under their names to a file, compressed. Raises ModelFileError."""
    held = {
        name: np.frombuffer(one, np.uint8) if isinstance(one, bytes) else one
        for name, one in arrays.items()
    }
    try:
        write_whole(path, packed(**held))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from error


def read_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Return the arrays of these names; bytes are arrays too. Raises ModelFileError."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as npz:
            return [npz[name] for name in names]
    except DAMAGE as error:
        raise ModelFileError(f"{path} cannot be read as a saved model: {error}") from error


def decoded(path: Path, json: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an object from an array of JSON. Raises ModelFileError."""
    try:
        return msgspec.json.decode(json.tobytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ModelFileError(f"{path} cannot be read as a saved model: {error}") from error
