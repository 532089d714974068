"""Files that are whole, whatever happens while they are written, and that nobody but their owner can read."""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.damage import DAMAGE
from insa_anomaly.errors import ModelFileError


def write_whole(path: Path, data: bytes) -> None:
    """Either the old file or all of the new one is there, also after a power cut; only its owner may read it. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_private(path: Path) -> None:
    """Make the file for its owner alone before SQLite sees it: what SQLite puts beside it follows its mode.

    Its name stays after a power cut. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """What was renamed or linked in this folder stays so after a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_arrays(path: Path, **arrays: npt.NDArray[np.generic] | bytes) -> None:
    """Keep arrays and bytes under their names in a file, compressed. Raises ModelFileError."""
    buffer = io.BytesIO()
    held = {
        name: np.frombuffer(one, np.uint8) if isinstance(one, bytes) else one
        for name, one in arrays.items()
    }
    np.savez_compressed(buffer, allow_pickle=False, **held)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from error


def read_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """What was kept under these names; bytes come as arrays of them. Raises ModelFileError."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as npz:
            return [npz[name] for name in names]
    except DAMAGE as error:
        raise ModelFileError(f"{path} cannot be read as a saved model: {error}") from error


def decoded(path: Path, json: npt.NDArray[Any]) -> dict[str, Any]:
    """An object that was kept as bytes of JSON. Raises ModelFileError."""
    try:
        return msgspec.json.decode(json.tobytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ModelFileError(f"{path} cannot be read as a saved model: {error}") from error
