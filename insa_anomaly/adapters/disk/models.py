"""The models on disk: a folder of files a series, and an index that works without the database.

    DEVICE-001/temperature/
        model_20251028_170500.pkl    scikit-learn's IsolationForest, for export and inspection
        scaler_20251028_170500.pkl   its StandardScaler
        scorer_20251028_170500.npz   the file that the stream loads; holds no pickle
        metadata.json                versions, digests, parameters, figures, library versions
    DEVICE-001/_device/              the same files, without a scaler, for the model of all metrics
    models.db                        the index

Every file is written whole (temporary, fsync, rename, fsync of the folder) and authenticated by
HMAC-SHA256 over its name and its bytes; the key lies outside the folder. With a `Seal` the files
of a model are sealed as well, and their names end in ".sealed"; index and metadata stay readable.
The bytes that are loaded are exactly the bytes that were verified. Pickles are only written here,
never read. Several processes may have the folder open.
"""

import hashlib
import hmac
import io
import os
import re
import secrets
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from insa_anomaly.adapters.disk.sqlite_file import bring_up
from insa_anomaly.core.device.detector import DeviceModel
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.detector import Model
from insa_anomaly.errors import ModelFileError, ModelStorageError
from insa_anomaly.files.sealing import NO_KEY, Seal
from insa_anomaly.files.sqlite import connected, transaction, write_ahead
from insa_anomaly.files.whole import create_private, sync_folder, write_whole
from insa_anomaly.ports.closing import Closing
from insa_anomaly.ports.models import ModelAccuracy, ModelRow

if TYPE_CHECKING:
    from insa_anomaly.core.device.training import TrainedDevice
    from insa_anomaly.core.series.training import Trained


_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WAIT = 10.0  # seconds to wait for another process's lock
_KEY_BYTES = 32
_SEALED = ".sealed"  # ends the names of files that only their key opens
# Versions of a series beside the active version: the files of older versions are removed.
_VERSIONS_KEPT = 3
# Rows of a series: the index deletes older rows, the database keeps every row.
_ROWS_KEPT = 50

_SCHEMA = """
    CREATE TABLE revision (number INTEGER NOT NULL);
    INSERT INTO revision VALUES (0);
    CREATE TABLE models (
        id TEXT PRIMARY KEY, device_id TEXT NOT NULL, metric_name TEXT NOT NULL,
        version INTEGER NOT NULL, status TEXT NOT NULL, row BLOB NOT NULL, files BLOB NOT NULL,
        UNIQUE (device_id, metric_name, version)
    );
    CREATE UNIQUE INDEX one_active ON models (device_id, metric_name) WHERE status = 'active';
"""
_OF_SERIES = "SELECT row FROM models WHERE device_id = ? AND metric_name = ? ORDER BY version DESC"


class StoredFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a model: its name below the folder, its digests, the id of the key that sealed it.

    An empty `sealed_by` means that the file is not sealed.
    """

    name: str
    sha256: str
    hmac: str
    sealed_by: str = ""


class _Scorer(msgspec.Struct):
    """The part of a model's files that the stream needs."""

    scorer: StoredFile


class _Judged(msgspec.Struct):
    """The part of a row that the stream needs: decoding it alone is quick."""

    set_threshold: float | None = None
    accuracy: float | None = None
    false_positive_rate: float | None = None


class _Described(msgspec.Struct, frozen=True):
    """A version in metadata.json."""

    model: ModelRow
    files: dict[str, StoredFile]
    made_with: dict[str, str]


class _Metadata(msgspec.Struct):
    """The part of metadata.json that is read."""

    versions: list[_Described] = []


_row = msgspec.json.Decoder(ModelRow).decode
_judged = msgspec.json.Decoder(_Judged).decode
_stored_files = msgspec.json.Decoder(dict[str, StoredFile]).decode


class ModelFiles(Closing):
    """The port `Models` on a folder, and its writing side.

    Any thread may call; any call may raise ModelFileError.
    """

    def __init__(self, directory: Path, key_file: Path, seal: Seal | None = None) -> None:
        self._directory = directory
        self._seal = seal
        self._lock = threading.Lock()
        with _faults(f"the models in {directory} cannot be opened"):
            _make_private(directory)
            if key_file.resolve().is_relative_to(directory.resolve()):
                place = "the folder that it is to protect"
                raise ModelFileError(f"the key file {key_file} lies in {place}")
            create_private(directory / "models.db")
            self._index = connected(directory / "models.db", _WAIT)
            try:
                self._prepare()
                self._key = self._key_of(key_file)
                self._check_seals()
            except BaseException:
                self._index.close()
                raise

    def _prepare(self) -> None:
        write_ahead(self._index)
        with self._transaction():
            bring_up(self._index, [_SCHEMA], f"{self._directory} holds models", ModelFileError)

    def _key_of(self, key_file: Path) -> bytes:
        """Return the authentication key; create it only while no model is stored.

        A lost key is not replaced: with another key every stored model would look altered.
        """
        if not key_file.exists() and self._query("SELECT count(*) FROM models")[0][0]:
            raise ModelFileError(
                f"the key file {key_file} is missing, without which no model in"
                f" {self._directory} can be used: restore it"
            )
        return _key(key_file)

    def _check_seals(self) -> None:
        """Raise ModelFileError if a model is sealed by a key that is not at hand.

        Without its key every such model would look altered and be put aside.
        """
        found = self._query("SELECT files FROM models WHERE status != 'deleted'")
        needed = {msgspec.json.decode(files, type=_Scorer).scorer.sealed_by for (files,) in found}
        if needed - {""} - (self._seal.key_ids if self._seal else frozenset()):
            raise ModelFileError(
                f"models in {self._directory} are sealed by a key that models.encryption_key_file"
                " does not hold: restore it, as a line of that file;"
                f" or move {self._directory} away, and all is learnt anew"
            )

    # -------------------------------------------------------------------------------------- reading
    @property
    def revision(self) -> object:
        """Value that differs from every earlier value once a process has changed the index."""
        return self._query("SELECT number FROM revision")[0][0]

    def active(self) -> dict[SeriesKey, str]:
        """Return the id of the active model of every series that has an active model."""
        return self._ids("SELECT device_id, metric_name, id FROM models WHERE status = 'active'")

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds that operators set on active models, by model id."""
        found = self._query("SELECT id, row FROM models WHERE status = 'active'")
        read = ((model_id, _judged(body).set_threshold) for model_id, body in found)
        return {model_id: threshold for model_id, threshold in read if threshold is not None}

    def figures(self) -> list[ModelAccuracy]:
        """Return the figures of every active model, in the order of their series."""
        found = self._query(
            "SELECT device_id, metric_name, row FROM models WHERE status = 'active'"
            " ORDER BY device_id, metric_name"
        )
        known = ((device_id, metric_name, _judged(body)) for device_id, metric_name, body in found)
        return [
            ModelAccuracy(device_id, metric_name, model.accuracy, model.false_positive_rate)
            for device_id, metric_name, model in known
        ]

    def shadows(self) -> dict[SeriesKey, str]:
        """Return the id of the shadow version of every series that has a shadow."""
        return self._ids("SELECT device_id, metric_name, id FROM models WHERE status = 'shadow'")

    def _ids(self, query: str) -> dict[SeriesKey, str]:
        return {SeriesKey(*key): model_id for *key, model_id in self._query(query)}

    def disabled(self) -> set[SeriesKey]:
        """Return the series that have a disabled model and no active model."""
        found = self._query(
            "SELECT DISTINCT device_id, metric_name FROM models AS m"
            " WHERE status = 'disabled' AND NOT EXISTS (SELECT 1 FROM models AS a"
            " WHERE a.device_id = m.device_id AND a.metric_name = m.metric_name"
            " AND a.status = 'active')"
        )
        return {SeriesKey(*row) for row in found}

    def rows(self) -> list[ModelRow]:
        """Return every model, newest first."""
        rows = [_row(body) for (body,) in self._query("SELECT row FROM models")]
        return sorted(rows, key=lambda row: (row.trained_at, row.version), reverse=True)

    def of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the models of a series, newest first."""
        return [_row(body) for (body,) in self._query(_OF_SERIES, *key)]

    def row(self, model_id: str) -> ModelRow:
        """Return a model by its id. Raises ModelFileError."""
        return _row(self._of_model(model_id)[0])

    def scorer(self, model_id: str) -> bytes:
        """Return the model's verified scorer file, for `core.series.detector.Model.from_bytes`.

        Raises ModelFileError.
        """
        return self._content(model_id, self._files(model_id)["scorer"])

    def contents(self, model_id: str) -> dict[str, bytes]:
        """Return the model's verified files, unsealed, by their plain names.

        The contents may be passed to scikit-learn. Raises ModelFileError.
        """
        files = self._files(model_id).values()
        return {
            Path(stored.name).name.removesuffix(_SEALED): self._content(model_id, stored)
            for stored in files
        }

    def _files(self, model_id: str) -> dict[str, StoredFile]:
        return _stored_files(self._of_model(model_id)[1])

    def _of_model(self, model_id: str) -> tuple[bytes, bytes]:
        """Return row and files of a model, encoded. Raises ModelFileError."""
        found = self._query("SELECT row, files FROM models WHERE id = ?", model_id)
        if not found:
            raise ModelFileError(f"there is no model {model_id}")
        row, files = found[0]
        return row, files

    def _content(self, model_id: str, stored: StoredFile) -> bytes:
        with _faults(f"{stored.name} of model {model_id} cannot be read"):
            try:
                data = (self._directory / stored.name).read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                said = f"{stored.name} of model {model_id} cannot be read now: {error}"
                raise ModelStorageError(said) from error
        if not hmac.compare_digest(stored.hmac, self._authentication(stored.name, data)):
            raise ModelFileError(f"{stored.name} was altered: its authentication fails")
        if not stored.sealed_by:
            return data
        if self._seal is None:  # another process has a key, so the model is not to be put aside
            raise ModelStorageError(NO_KEY.format(stored.name))
        return self._seal.open(stored.name, data, stored.sealed_by)

    def serving(self, key: SeriesKey) -> Model | DeviceModel | None:
        """Return the active model of a series or device.

        None if there is none or its file is unreadable. Raises ModelFileError.
        """
        found = self._query(
            "SELECT id FROM models WHERE device_id = ? AND metric_name = ? AND status = 'active'",
            *key,
        )
        from_bytes = DeviceModel.from_bytes if key.is_device else Model.from_bytes
        try:
            return from_bytes(self.scorer(found[0][0])) if found else None
        except ModelFileError:
            # Training cannot continue from an unreadable model; the stream that serves it reports
            # the fault.
            return None

    def next_version(self, key: SeriesKey) -> int:
        """Return the version number that the next model of the series gets."""
        query = "SELECT max(version) FROM models WHERE device_id = ? AND metric_name = ?"
        return int(self._query(query, *key)[0][0] or 0) + 1

    # -------------------------------------------------------------------------------------- writing
    def save(
        self, trained: "Trained | TrainedDevice", trained_at: int, refusal: str = ""
    ) -> ModelRow:
        """Store the model and activate it for its series, unless it is refused.

        `trained_at` is in microseconds since the epoch. The files of versions long replaced are
        removed. A threshold that an operator set on the version before holds for the new version
        too. Raises ModelFileError; the index is then unchanged.
        """
        model = trained.model
        key = SeriesKey(model.device_id, model.metric_name)
        folder = self._series_folder(key)
        stamp = f"{datetime.fromtimestamp(trained_at // 1_000_000, UTC):%Y%m%d_%H%M%S}"
        end = _SEALED if self._seal else ""
        if (folder / f"scorer_{stamp}.npz{end}").exists():
            stamp = f"{stamp}_v{model.version}"
        contents = {
            kind: (folder / f"{kind}_{stamp}.pkl{end}", _pickled(one))
            for kind, one in trained.estimators.items()
        }
        contents["scorer"] = (folder / f"scorer_{stamp}.npz{end}", model.to_bytes())
        try:
            files = {
                kind: self._write(path, data, self._seal) for kind, (path, data) in contents.items()
            }
            row = self._as_set(_new_row(trained, files["scorer"], trained_at, refusal))
            self._enter(row, files)
        except ModelFileError:
            for path, _ in contents.values():
                path.unlink(missing_ok=True)
            raise
        self._describe(key, trained.made_with)
        return row

    def activate(self, model_id: str) -> ModelRow:
        """Activate this stored version in place of the active version. Raises ModelFileError."""
        row = self.row(model_id)
        if row.status in {"deleted", "failed"}:
            raise ModelFileError(f"model {model_id} is {row.status}")
        return self._install(row, "active", "")

    def shadow(self, model_id: str) -> ModelRow:
        """Make this archived version the shadow in place of any other. Raises ModelFileError."""
        row = self.row(model_id)
        if row.status not in {"archived", "shadow"}:
            raise ModelFileError(f"model {model_id} is {row.status}")
        return self._install(row, "shadow", row.reason)

    def _install(self, row: ModelRow, status: str, reason: str) -> ModelRow:
        """Give the version a status that its series has once."""
        with self._transaction():
            self._retire(row.key, status)
            row = self._set_status(row, status, reason)
        self._describe_again(row.key)
        return row

    def end_shadow(self, model_id: str) -> ModelRow:
        """Archive the shadow version of this model's series. Raises ModelFileError."""
        row = self.row(model_id)
        with self._transaction():
            self._retire(row.key, "shadow")
        self._describe_again(row.key)
        return self.row(model_id)

    def set_threshold(self, model_id: str, threshold: float) -> ModelRow:
        """Replace the model's trained threshold. Raises ModelFileError."""
        with self._transaction():
            row = self._store(_with_threshold(self._stored(model_id), threshold))
        self._describe_again(row.key)
        return row

    def put_aside(
        self, model_id: str, status: Literal["archived", "disabled"], reason: str
    ) -> ModelRow:
        """Stop the model from serving, without a replacement; its files stay.

        Raises ModelFileError.
        """
        with self._transaction():
            row = self._set_status(self._stored(model_id), status, reason)
        self._describe_again(row.key)
        return row

    def delete(self, model_id: str, reason: str) -> ModelRow:
        """Remove the model's files; its row stays. A series loses its model if it was active.

        Raises ModelFileError.
        """
        with self._transaction():
            row = self._set_status(self._stored(model_id), "deleted", reason)
        self._remove_files(model_id)
        self._describe_again(row.key)
        return row

    def _stored(self, model_id: str) -> ModelRow:
        """Return the row of a model that has files; within a transaction."""
        query = "SELECT row FROM models WHERE id = ? AND status != 'deleted'"
        found = self._index.execute(query, (model_id,)).fetchone()
        if found is None:
            raise ModelFileError(f"there is no model {model_id}, or it is deleted")
        return _row(found[0])

    def _as_set(self, row: ModelRow) -> ModelRow:
        for old in self.of_series(row.key):
            if old.status == "active" and old.set_threshold is not None:
                return _with_threshold(row, old.set_threshold)
        return row

    def fall_back(self, model_id: str, reason: str) -> ModelRow | None:
        """Mark this model as failed; activate and return the newest earlier version archived.

        Returns None if no version is archived or this model was not active.
        """
        row = self.row(model_id)
        with self._transaction():
            self._set_status(row, "failed", reason)
            others = self._of_series(row.key) if row.status == "active" else []
            for other in others:
                if other.status == "archived" and other.version < row.version:
                    return self._set_status(other, "active", f"version {row.version} failed")
        return None

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    # ------------------------------------------------------------------------------------ the files
    def _series_folder(self, key: SeriesKey) -> Path:
        folder = self._directory / safe_part(key.device_id) / safe_part(key.metric_name)
        with _faults(f"the folder {folder} cannot be made"):
            _make_private(folder.parent)
            _make_private(folder)
        return folder

    def _write(self, path: Path, data: bytes, seal: Seal | None = None) -> StoredFile:
        name = path.relative_to(self._directory).as_posix()
        data = seal.close(name, data) if seal else data
        with _faults(f"{path} cannot be written"):
            write_whole(path, data)
        digests = (hashlib.sha256(data).hexdigest(), self._authentication(name, data))
        return StoredFile(name, *digests, seal.key_id if seal else "")

    def _authentication(self, name: str, data: bytes) -> str:
        return hmac.new(self._key, name.encode() + b"\0" + data, hashlib.sha256).hexdigest()

    def _describe(self, key: SeriesKey, made_with: dict[str, str]) -> None:
        """Write metadata.json anew from the index; `made_with` belongs to the newest version."""
        found = self._query(
            "SELECT row, files FROM models WHERE device_id = ? AND metric_name = ?"
            " AND status != 'deleted' ORDER BY version DESC",
            *key,
        )
        versions = [
            _Described(_row(body), _stored_files(files), made_with if i == 0 else {})
            for i, (body, files) in enumerate(found)
        ]
        text = msgspec.json.encode({**key._asdict(), "versions": versions})
        path = self._series_folder(key) / "metadata.json"
        self._write(path, msgspec.json.format(text, indent=2))

    def _describe_again(self, key: SeriesKey) -> None:
        """Write metadata.json anew after a change of a stored version.

        The library versions are taken from the metadata written before.
        """
        with _faults(f"the metadata of {'/'.join(key)} cannot be read"):
            path = self._series_folder(key) / "metadata.json"
            text = path.read_bytes() if path.exists() else b"{}"
            before = msgspec.json.decode(text, type=_Metadata)
        self._describe(key, before.versions[0].made_with if before.versions else {})

    # ------------------------------------------------------------------------------------ the index
    def _enter(self, row: ModelRow, files: dict[str, StoredFile]) -> None:
        """Add the new row and delete versions long replaced.

        A row that is to serve replaces the active row.
        """
        key = row.key
        with self._transaction():
            if row.status == "active":
                self._retire(key, "active")
            about = (row.id, *key, row.version, row.status)
            values = (*about, msgspec.json.encode(row), msgspec.json.encode(files))
            self._index.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            self._index.execute(
                "DELETE FROM models WHERE device_id = ? AND metric_name = ? AND version <= ?"
                " AND status = 'deleted'",
                (*key, row.version - _ROWS_KEPT),
            )
            archived = [old for old in self._of_series(key) if old.status == "archived"]
            superfluous = archived[_VERSIONS_KEPT:]
            for old in superfluous:
                self._set_status(old, "deleted", "replaced long ago")
        for old in superfluous:
            self._remove_files(old.id)

    def _retire(self, key: SeriesKey, status: str) -> None:
        """Archive the version that has this status; within a transaction."""
        for old in self._of_series(key):
            if old.status == status:
                self._set_status(old, "archived", old.reason)

    def _of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the rows of a series, newest version first; within a transaction."""
        return [_row(body) for (body,) in self._index.execute(_OF_SERIES, key)]

    def _set_status(self, row: ModelRow, status: str, reason: str) -> ModelRow:
        return self._store(replace(row, status=status, reason=reason))

    def _store(self, row: ModelRow) -> ModelRow:
        values = (row.status, msgspec.json.encode(row), row.id)
        self._index.execute("UPDATE models SET status = ?, row = ? WHERE id = ?", values)
        return row

    def _remove_files(self, model_id: str) -> None:
        with _faults(f"the files of model {model_id} cannot be removed"):
            for stored in self._files(model_id).values():
                (self._directory / stored.name).unlink(missing_ok=True)

    def _query(self, text: str, *values: object) -> list[Any]:
        with self._lock, _faults("the index of models cannot be read"):
            return self._index.execute(text, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit the block whole or not at all; the revision moves with it."""
        with self._lock, _faults("the index of models cannot be written"), transaction(self._index):
            yield
            if self._index.execute("PRAGMA user_version").fetchone()[0]:
                self._index.execute("UPDATE revision SET number = number + 1")


def safe_part(name: str) -> str:
    """Return the part of a path that stands for a device or metric.

    A plain name stands for itself. For any other name it is a digest, which no plain name equals.
    """
    return name if _PLAIN.fullmatch(name) else f"sha256.{hashlib.sha256(name.encode()).hexdigest()}"


def _new_row(
    trained: "Trained | TrainedDevice", scorer: StoredFile, trained_at: int, refusal: str
) -> ModelRow:
    model = trained.model
    return ModelRow(
        id=model.id,
        device_id=model.device_id,
        metric_name=model.metric_name,
        version=model.version,
        status="archived" if refusal else "active",
        model_path=scorer.name,
        trained_at=trained_at,
        training_samples=trained.samples,
        threshold=model.threshold,
        parameters=asdict(trained.parameters),
        figures=dict(trained.figures),
        sha256=scorer.sha256,
        accuracy=_number(trained.figures["accuracy"]),
        false_positive_rate=_number(trained.figures["false_positive_rate"]),
        reason=refusal,
    )


def _number(figure: object) -> float | None:
    return float(figure) if isinstance(figure, int | float) else None


def _with_threshold(row: ModelRow, threshold: float) -> ModelRow:
    return replace(row, threshold=threshold, set_threshold=threshold)


def _pickled(estimator: object) -> bytes:
    import joblib  # noqa: PLC0415 - needed only by training: the stream shall not load it

    buffer = io.BytesIO()
    joblib.dump(estimator, buffer, compress=1)  # 3 saves 8 % more, and takes three times as long
    return buffer.getvalue()


def _key(path: Path) -> bytes:
    """Return the key in the file, created if it is missing.

    Of two processes that create it, the second uses the key of the first.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # 0600
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(file.name, path)
                sync_folder(path.parent)
    if path.stat().st_mode & 0o077:
        raise ModelFileError(f"the key file {path} can be read by others: chmod 600 {path}")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ModelFileError(f"the key file {path} holds {len(key)} bytes instead of {_KEY_BYTES}")
    return key


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Turn errors of the disk, of SQLite and of decoding into ModelFileError."""
    try:
        yield
    except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
        raise ModelFileError(f"{what}: {error}") from error
