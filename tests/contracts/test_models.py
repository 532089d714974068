"""The contract of every model index, and the promises of the index on disk.

The index on disk returns saved models only, and every process sees the same models.
"""

import errno
import io
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.adapters.disk.models import ModelFiles, safe_part
from insa_anomaly.core.device.detector import DeviceModel
from insa_anomaly.core.layout import LearntRows
from insa_anomaly.core.reading.series_key import DEVICE_METRIC, SeriesKey
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import Trained
from insa_anomaly.errors import ModelFileError, ModelStorageError
from insa_anomaly.files.sealing import Seal
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.testing.models import MemoryModels
from tests.core import device_rows
from tests.core.streams import trained

NOON = 1_761_671_100_000_000  # 2025-10-28 17:05:00 UTC
KEY = SeriesKey("DEVICE-001", "temperature")
HOSTILE = SeriesKey("../../etc", "a/b")
SEAL = Seal([bytes([1]) * 32])


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder for models, and the path of a key file beside the folder."""
    return tmp_path / "ml_models", tmp_path / "model.key"


@pytest.fixture
def files(place: tuple[Path, Path]) -> Iterator[ModelFiles]:
    """Yield an empty folder of models."""
    with ModelFiles(*place) as files:
        yield files


def made(files: ModelFiles, key: SeriesKey = KEY, trained_at: int = NOON) -> Trained:
    """Return the next version of a series' model."""
    version = files.next_version(key)
    one = trained(0)
    model = replace(
        one.model,
        id=f"{'-'.join(key)}-{version}",
        version=version,
        device_id=key.device_id,
        metric_name=key.metric_name,
    )
    learnt = LearntRows(one.model.learnt + trained_at - NOON)
    return replace(one, model=replace(model, learnt=learnt))


def saved(files: ModelFiles, key: SeriesKey = KEY, trained_at: int = NOON) -> ModelRow:
    """Save the next version of a series' model."""
    return files.save(made(files, key, trained_at), trained_at)


Save = Callable[[SeriesKey, int], ModelRow]


def on_disk(place: tuple[Path, Path], stack: ExitStack) -> tuple[ModelIndex, Save]:
    """Return an index on disk, and a function that saves into the index."""
    files = stack.enter_context(ModelFiles(*place))
    return files, lambda key, trained_at: saved(files, key, trained_at)


def in_memory(place: tuple[Path, Path], stack: ExitStack) -> tuple[ModelIndex, Save]:
    """Return the in-memory double, filled with rows that an index on disk made."""
    files, shelf = stack.enter_context(ModelFiles(*place)), MemoryModels()

    def save(key: SeriesKey, trained_at: int) -> ModelRow:
        row = saved(files, key, trained_at)
        shelf.put(row, files.scorer(row.id))
        return row

    return shelf, save


@pytest.fixture(params=[on_disk, in_memory])
def body(
    request: pytest.FixtureRequest, place: tuple[Path, Path]
) -> Iterator[tuple[ModelIndex, Save]]:
    """Yield every body of the port."""
    with ExitStack() as stack:
        yield request.param(place, stack)


def test_there_are_no_models_at_first(body: tuple[ModelIndex, Save]) -> None:
    """An empty index has no models, and a question for a model raises an error."""
    models, _ = body
    assert models.active() == {}
    assert models.rows() == []
    for ask in (models.row, models.scorer):
        with pytest.raises(ModelFileError, match="there is no model nowhere"):
            ask("nowhere")


def test_the_newest_version_is_active(body: tuple[ModelIndex, Save]) -> None:
    """The newest version of a series is active, older versions are archived.

    Rows are listed newest first, and each has its scorer.
    """
    models, save = body
    rows = [save(KEY, NOON + i * 1_000_000) for i in range(3)]
    other = save(HOSTILE, NOON - 1)
    assert models.active() == {KEY: rows[2].id, HOSTILE: other.id}
    assert [(row.version, row.status) for row in models.rows()] == [
        (3, "active"),
        (2, "archived"),
        (1, "archived"),
        (1, "active"),
    ]
    for row in models.rows():
        assert models.row(row.id) == row
        assert Model.from_bytes(models.scorer(row.id)).id == row.id


def test_the_revision_moves_with_every_change_and_with_nothing_else(
    body: tuple[ModelIndex, Save],
) -> None:
    """The revision changes with every save alone, and never repeats a value."""
    models, save = body
    seen = [models.revision]
    for number in range(3):
        save(KEY, NOON + number)
        assert models.revision not in seen
        seen.append(models.revision)
        models.active(), models.rows()
        assert models.revision == seen[-1]


def test_figures_are_those_of_the_models_that_serve(body: tuple[ModelIndex, Save]) -> None:
    """Figures list the active models in order of their series, with None for unknown figures."""
    models, save = body
    assert models.figures() == []
    for key in (KEY, KEY, HOSTILE):
        save(key, NOON)
    rows = sorted((row for row in models.rows() if row.status == "active"), key=lambda row: row.key)
    assert models.figures() == [
        (row.device_id, row.metric_name, row.accuracy, row.false_positive_rate) for row in rows
    ]
    assert len(rows) == 2


@pytest.mark.parametrize("key", [KEY, HOSTILE, SeriesKey("Ω" * 300, ""), SeriesKey("..", ".")])
def test_what_was_saved_is_read(files: ModelFiles, key: SeriesKey) -> None:
    """A saved model is read back bitwise, under any name of its series."""
    one = made(files, key)
    row = files.save(one, NOON)
    assert files.scorer(row.id) == one.model.to_bytes()
    assert Model.from_bytes(files.scorer(row.id)).device_id == key.device_id
    assert files.row(row.id) == row == files.rows()[0]
    assert files.active() == {key: row.id}
    assert (row.version, row.status, row.trained_at, row.training_samples) == (
        1,
        "active",
        NOON,
        400,
    )
    assert row.threshold == one.model.threshold
    assert row.parameters["n_estimators"] == 12


def test_the_files_lie_where_they_are_expected(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """Model files are named by device, metric and time.

    The pickles are readable by scikit-learn; the metadata names the versions that made them.
    """
    saved(files)
    folder = place[0] / "DEVICE-001" / "temperature"
    names = {
        "model_20251028_170500.pkl",
        "scaler_20251028_170500.pkl",
        "scorer_20251028_170500.npz",
        "metadata.json",
    }
    assert {path.name for path in folder.iterdir()} == names
    forest = joblib.load(folder / "model_20251028_170500.pkl")
    assert len(forest.estimators_) == 12
    about = msgspec.json.decode((folder / "metadata.json").read_bytes())
    assert about["versions"][0]["made_with"]["numpy"] == np.__version__
    assert set(about["versions"][0]["files"]) == {"model", "scaler", "scorer"}


def test_nobody_else_may_read(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """Folders have mode 0700, files and the key 0600."""
    saved(files)
    saved(files, HOSTILE)
    for path in [place[1], place[0], *place[0].rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_no_name_leads_out_of_the_folder(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """A device or metric name never leads out of the folder."""
    for key in (
        HOSTILE,
        SeriesKey("..", ".."),
        SeriesKey("/etc", "passwd"),
        SeriesKey("a\0b", "~"),
    ):
        saved(files, key)
    assert {path.name for path in place[0].parent.iterdir()} == {"ml_models", "model.key"}


@given(first=st.text(), second=st.text())
def test_law_different_names_are_different_parts_of_a_path(first: str, second: str) -> None:
    """Different names are different, plain and harmless parts of a path."""
    parts = [safe_part(name) for name in (first, second)]
    assert (parts[0] == parts[1]) == (first == second)
    for part in parts:
        assert part not in {"", ".", ".."}
        assert "/" not in part
        assert len(part) <= 80


def test_versions_of_the_same_second_do_not_meet(files: ModelFiles) -> None:
    """Versions saved in the same second have separate files."""
    rows = [saved(files) for _ in range(3)]
    assert len({row.model_path for row in rows}) == 3
    for row in rows:
        assert Model.from_bytes(files.scorer(row.id)).version == row.version


def test_long_replaced_versions_leave_their_rows(
    files: ModelFiles, place: tuple[Path, Path]
) -> None:
    """Files remain of the active version and the three before it.

    Older versions keep only a row, as deleted.
    """
    rows = [saved(files, trained_at=NOON + i * 1_000_000) for i in range(7)]
    assert [row.status for row in files.rows()] == ["active", *["archived"] * 3, *["deleted"] * 3]
    assert len(list(place[0].rglob("scorer_*.npz"))) == 4
    with pytest.raises(ModelFileError, match="cannot be read"):
        files.scorer(rows[0].id)
    with pytest.raises(ModelFileError, match="is deleted"):
        files.activate(rows[0].id)


def test_an_older_version_serves_again(files: ModelFiles) -> None:
    """An older version serves again by hand, or because the newer version failed."""
    first, second = saved(files), saved(files)
    assert files.activate(first.id).status == "active"
    assert files.active() == {KEY: first.id}
    files.activate(second.id)
    assert files.fall_back(second.id, "altered") == msgspec.structs.replace(
        first, status="active", reason="version 2 failed"
    )
    assert (files.row(second.id).status, files.row(second.id).reason) == ("failed", "altered")
    assert files.fall_back(first.id, "altered too") is None
    assert files.active() == {}


def test_a_model_that_is_put_aside_serves_no_more(files: ModelFiles) -> None:
    """A model put aside serves no more, keeps its files, and is replaced only by hand."""
    first, second = saved(files), saved(files)
    assert (
        files.put_aside(second.id, "disabled", "failed three times").reason == "failed three times"
    )
    assert (files.active(), files.disabled()) == ({}, {KEY})
    files.activate(first.id)
    assert (files.active(), files.disabled()) == ({KEY: first.id}, set())
    assert files.put_aside(first.id, "archived", "silent").status == "archived"
    assert (files.active(), files.disabled()) == ({}, {KEY})
    files.activate(second.id)
    assert (files.row(second.id).status, files.disabled()) == ("active", set())
    files.delete(first.id, "by hand")
    with pytest.raises(ModelFileError):
        files.put_aside(first.id, "archived", "silent")


def test_a_change_by_another_process_shows(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """A change by another process changes the revision, and reading does not."""
    with ModelFiles(*place) as other:
        before = other.revision
        assert files.next_version(KEY) == 1
        assert other.revision == before
        row = saved(files)
        assert other.revision != before
        assert other.active() == {KEY: row.id}
        assert other.scorer(row.id) == files.scorer(row.id)
        middle = other.revision
        files.activate(row.id)
        assert other.revision not in (before, middle)


def test_a_version_is_given_once(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """The second of two trainings of the same version is refused, and the first is unharmed."""
    with ModelFiles(*place) as other:
        mine, theirs = made(files), made(other)
        row = files.save(mine, NOON)
        before = set(place[0].rglob("*"))
        with pytest.raises(ModelFileError, match="cannot be written"):
            other.save(replace(theirs, model=replace(theirs.model, id="another")), NOON)
        assert set(place[0].rglob("*")) == before
        assert files.active() == {KEY: row.id}
        assert files.scorer(row.id) == mine.model.to_bytes()


@pytest.mark.parametrize("damage", ["altered", "truncated", "exchanged", "gone"])
def test_a_file_that_is_not_what_was_written_is_refused(
    files: ModelFiles, place: tuple[Path, Path], damage: str
) -> None:
    """An altered file is refused, even if it is the genuine file of another model.

    The name is part of the authenticated data.
    """
    row, other = saved(files), saved(files, SeriesKey("D", "other"))
    path = place[0] / row.model_path
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "altered": data[:-1] + b"x",
                "truncated": data[:-1],
                "exchanged": (place[0] / other.model_path).read_bytes(),
            }[damage]
        )
    with pytest.raises(ModelFileError, match=r"altered|cannot be read"):
        files.scorer(row.id)
    assert files.scorer(other.id)


def test_another_key_opens_nothing(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """Another key opens no model, because the key proves the origin."""
    row = saved(files)
    key = place[1].with_name("other.key")
    ModelFiles(place[0].with_name("elsewhere"), key).close()
    with ModelFiles(place[0], key) as other, pytest.raises(ModelFileError, match="altered"):
        other.scorer(row.id)


def test_a_key_that_is_lost_is_not_replaced(files: ModelFiles, place: tuple[Path, Path]) -> None:
    """A lost key is not replaced, because every model would look altered."""
    saved(files)
    place[1].unlink()
    with pytest.raises(ModelFileError, match="is missing.* restore it"):
        ModelFiles(*place)


def test_a_seal_hides_what_was_learnt(place: tuple[Path, Path]) -> None:
    """A sealed file contains no piece of the model, and the key opens the model bitwise.

    Handed-out files are readable by scikit-learn.
    """
    with ModelFiles(*place, SEAL) as files:
        one = made(files)
        row = files.save(one, NOON)
        sealed = sorted((place[0] / "DEVICE-001" / "temperature").glob("*.sealed"))
        assert [path.name.partition("_")[0] for path in sealed] == ["model", "scaler", "scorer"]
        assert row.model_path == f"DEVICE-001/temperature/{sealed[-1].name}"
        assert files.scorer(row.id) == one.model.to_bytes()
        contents = files.contents(row.id)
        for path in sealed:
            plain = contents[path.name.removesuffix(".sealed")]
            assert not any(
                plain[place : place + 16] in path.read_bytes()
                for place in range(0, len(plain) - 16, 16)
            )
    assert set(contents) == {
        "model_20251028_170500.pkl",
        "scaler_20251028_170500.pkl",
        "scorer_20251028_170500.npz",
    }
    assert len(joblib.load(io.BytesIO(contents["model_20251028_170500.pkl"])).estimators_) == 12


def test_without_its_key_nothing_sealed_is_put_aside(place: tuple[Path, Path]) -> None:
    """A folder with sealed models is refused without their key.

    The key is no longer needed once no model is sealed by it.
    """
    with ModelFiles(*place, SEAL) as files:
        row = saved(files)
    for other in (None, Seal([bytes(32)])):
        with pytest.raises(
            ModelFileError, match="sealed by a key that .* does not hold: restore it"
        ):
            ModelFiles(*place, other)
    with ModelFiles(*place, SEAL) as files:
        assert files.active() == {KEY: row.id}
        files.delete(row.id, "asked for")
    ModelFiles(*place).close()


def test_who_opened_the_folder_before_there_was_a_key_puts_nothing_aside(
    place: tuple[Path, Path],
) -> None:
    """A model sealed by another process raises `ModelStorageError`, and is not put aside."""
    with (
        ModelFiles(*place) as keyless,
        ModelFiles(*place, Seal([bytes(32)])) as other,
        ModelFiles(*place, SEAL) as files,
    ):
        row = saved(files)
        for early in (keyless, other):
            for ask in (early.scorer, early.contents):
                with pytest.raises(ModelStorageError, match="restart it"):
                    ask(row.id)


def test_seals_come_and_change_while_models_serve(place: tuple[Path, Path]) -> None:
    """Open and sealed models are read side by side, and the first key seals new models."""
    with ModelFiles(*place) as files:
        open_row = saved(files)
    with ModelFiles(*place, SEAL) as files:
        sealed_row = saved(files, trained_at=NOON + 1_000_000)
    both = Seal([bytes(32), bytes([1]) * 32])
    with ModelFiles(*place, both) as files:
        new_row = saved(files, trained_at=NOON + 2_000_000)
        for row in (open_row, sealed_row, new_row):
            assert Model.from_bytes(files.scorer(row.id)).id == row.id
        files.delete(sealed_row.id, "replaced")
    with ModelFiles(*place, Seal([bytes(32)])) as files:
        assert files.active() == {KEY: new_row.id}


def test_a_file_that_cannot_be_read_now_is_not_altered(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary read error raises `ModelStorageError`, and the model stays in service."""
    row = saved(files)

    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelStorageError, match="too many open files"):
        files.scorer(row.id)
    monkeypatch.undo()
    assert files.scorer(row.id)


def test_a_failed_model_gives_way_to_the_one_before_it(body: tuple[ModelIndex, Save]) -> None:
    """A failed model is replaced by the version before it, if there is a version."""
    models, save = body
    rows = [save(KEY, NOON), save(KEY, NOON + 1_000_000)]
    earlier = models.fall_back(rows[1].id, "altered")
    assert earlier is not None
    assert models.active() == {KEY: earlier.id} == {KEY: rows[0].id}
    assert (models.row(rows[1].id).status, models.row(rows[1].id).reason) == ("failed", "altered")
    assert models.fall_back(rows[0].id, "altered too") is None
    assert models.active() == {}


def test_a_key_that_is_no_secret_is_refused(place: tuple[Path, Path]) -> None:
    """A key that is readable by others, of the wrong size, or in the model folder is refused."""
    directory, key = place
    with pytest.raises(ModelFileError, match="lies in the folder"):
        ModelFiles(directory, directory / "key")
    key.write_bytes(bytes(32))
    key.chmod(0o644)
    with pytest.raises(ModelFileError, match="can be read by others"):
        ModelFiles(directory, key)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ModelFileError, match="5 bytes instead of 32"):
        ModelFiles(directory, key)


def test_a_folder_that_cannot_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file in place of the folder, or an invalid index, raises `ModelFileError`."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFileError, match="cannot be opened"):
        ModelFiles(tmp_path / "file", tmp_path / "key")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "models.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(ModelFileError, match="cannot be opened"):
        ModelFiles(tmp_path / "models", tmp_path / "key")


def test_a_device_has_a_folder_among_its_metrics(
    files: ModelFiles, place: tuple[Path, Path]
) -> None:
    """A device model is stored, listed and served like a series model, without a scaler file."""
    one = device_rows.trained(0)
    row = files.save(one, NOON)
    assert files.active() == {SeriesKey.of_device("D"): one.model.id}
    assert files.row(row.id) == row
    assert (row.metric_name, row.training_samples, row.figures["left_out"]) == (
        DEVICE_METRIC,
        400,
        None,
    )
    assert DeviceModel.from_bytes(files.scorer(row.id)).to_bytes() == one.model.to_bytes()
    kinds = sorted(path.name.split("_")[0] for path in (place[0] / "D" / DEVICE_METRIC).iterdir())
    assert kinds == ["metadata.json", "model", "scorer"]
