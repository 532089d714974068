"""Model files by whoever can write to their folder: flipped, cut, malicious. None is loaded, nothing of them is run."""

import os
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.core.series.detector import Model
from insa_anomaly.errors import ModelFileError
from tests.core.streams import trained

NOON = 1_761_671_100_000_000
KEY = ("DEVICE-001", "temperature")
FLIPS, CUTS, PICKLES = 1000, 100, 50


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model."""
    folder = tmp_path_factory.mktemp("models")
    one = trained(0)
    model = replace(one.model, id="a-model", version=1, device_id=KEY[0], metric_name=KEY[1])
    with ModelFiles(folder / "ml_models", folder / "model.key") as files:
        files.save(replace(one, model=model), NOON)
    return folder


@pytest.fixture
def files(place: Path) -> Iterator[ModelFiles]:
    """The models there."""
    with ModelFiles(place / "ml_models", place / "model.key") as files:
        yield files


def refused(files: ModelFiles, path: Path, bodies: Iterator[bytes]) -> int:
    """How many of these, in the place of a file, are refused; the file is put back."""
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
    """A thousand of them, anywhere in the file that the stream loads; and a hundred cuts."""
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
    """Where the bytes are handed over by themselves, as by a program that loads a model: refused, or the same model; no other exception."""
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
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self._mark),)


def test_no_pickle_of_somebody_else_is_opened(files: ModelFiles, place: Path) -> None:
    """In the place of the file that is loaded, by every protocol; and in that of the pickles beside it, which nobody here opens."""
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
