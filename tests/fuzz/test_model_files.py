"""Model files altered by an intruder: flipped, cut, malicious; none is loaded, no code is run."""

import os
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.detector import Model
from insa_anomaly.errors import ModelFileError
from tests.core.streams import trained

NOON = 1_761_671_100_000_000
KEY = SeriesKey("DEVICE-001", "temperature")
FLIPS, CUTS, PICKLES = 1000, 100, 50


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model."""
    folder = tmp_path_factory.mktemp("models")
    one = trained(0)
    model = replace(
        one.model, id="a-model", version=1, device_id=KEY.device_id, metric_name=KEY.metric_name
    )
    with ModelFiles(folder / "ml_models", folder / "model.key") as files:
        files.save(replace(one, model=model), NOON)
    return folder


@pytest.fixture
def files(place: Path) -> Iterator[ModelFiles]:
    """Open the models of the folder."""
    with ModelFiles(place / "ml_models", place / "model.key") as files:
        yield files


def refused(files: ModelFiles, path: Path, bodies: Iterator[bytes]) -> int:
    """Put each body in the place of a file; return how many are refused. The file is restored."""
    whole, count = path.read_bytes(), 0
    try:
        for body in bodies:
            path.write_bytes(body)
            with pytest.raises(ModelFileError):
                files.scorer("a-model")
            count += 1
    finally:
        path.write_bytes(whole)
    assert Model.from_bytes(files.scorer("a-model")).id == "a-model"
    return count


def test_no_bit_may_be_another(files: ModelFiles, place: Path) -> None:
    """A flipped bit or a cut, anywhere in the file that the stream loads, is refused."""
    path = place / "ml_models" / files.row("a-model").model_path
    whole, chance = path.read_bytes(), random.Random(1)

    def flipped() -> Iterator[bytes]:
        for _ in range(FLIPS):
            body = bytearray(whole)
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            yield bytes(body)

    assert refused(files, path, flipped()) == FLIPS
    assert (
        refused(files, path, (whole[: chance.randrange(len(whole))] for _ in range(CUTS))) == CUTS
    )


def test_damage_that_nobody_authenticates_is_one_error(files: ModelFiles) -> None:
    """Damaged bytes without authentication are refused, or are the same model; no other exception.

    A program that loads a model passes the bytes by itself.
    """
    whole, chance = files.scorer("a-model"), random.Random(2)
    for number in range(FLIPS):
        body = bytearray(whole)
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        try:
            Model.from_bytes(
                bytes(body[: chance.randrange(len(body))] if number % 10 == 0 else body)
            )
        except ModelFileError:
            continue


class Malicious:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self._mark),)


def test_no_pickle_of_somebody_else_is_opened(files: ModelFiles, place: Path) -> None:
    """A foreign pickle is never opened, by any protocol.

    It lies in the place of the file that is loaded, and in the place of the pickles beside it,
    which no part of the daemon opens.
    """
    mark = place / "mark"
    bodies = [
        pickle.dumps(Malicious(mark), protocol) + bytes(number)
        for number in range(PICKLES // 5)
        for protocol in range(1, 6)
    ]
    path = place / "ml_models" / files.row("a-model").model_path
    assert refused(files, path, iter(bodies)) == PICKLES
    for beside in path.parent.glob("*.pkl"):
        beside.write_bytes(bodies[0])
    assert Model.from_bytes(files.scorer("a-model")).id == "a-model"
    for body in bodies:
        with pytest.raises(ModelFileError):
            Model.from_bytes(body)
    assert not mark.exists()
