"""The service on a machine: account, folders, configuration, key, units.

Steps are named first and done on demand; done again, they change no state.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from insa_anomaly.errors import InstallationFailed
from insa_anomaly.shipped import shipped

ACCOUNT = "insa-anomaly"
KEY_BYTES = 32
_UNITS = ("insa-anomaly.service", "insa-anomaly@.service")
_PROGRAM = "/opt/insa-anomaly/bin/insa-anomaly"  # in the units as shipped
_CONFIG = """# The settings of this plant; every other setting keeps its default.
# manual.yaml beside this file lists and explains all settings.
broker:
  host: 127.0.0.1
  # username: insa-anomaly
  # password_file: broker-password    # a file in /etc/insa-anomaly/secrets

"""
_EMBEDDED = """database:
  # null: an embedded server in /var/lib/insa-anomaly. For a server of yours:
  # `insa-anomaly install --database`
  url: null
"""
_DATABASE = """database:
  url: {url}
  roles: true
  # password_file: database-password  # where the login has one; a file in /etc/insa-anomaly/secrets
"""
_INSTANCE = """# One line or area, {name}: folders, a port and a name at the broker of its own.
broker: {{client_id: insa-anomaly-{name}}}
storage: {{directory: /var/lib/insa-anomaly/{name}}}
models:
  directory: /var/lib/insa-iiot/ml_models/{name}
  key_file: /var/lib/insa-anomaly/{name}/model.key
http: {{port: {port}}}
readings: {{subscriptions: [{{topic: "insa/iiot/telemetry/{name}/{{device_id}}", format: auto}}]}}
"""
_HOMES = (Path("/root"), Path("/home"), Path("/tmp"))  # noqa: S108 - the units hide these
_FIRST_PORT = 8788  # of an instance; 8787 is the default's


@dataclass(frozen=True)
class InstallStep:
    """A state that the machine must be in: whether it is, and how it gets there."""

    what: str
    done: Callable[[], bool]
    do: Callable[[], None]


@dataclass(frozen=True)
class Site:
    """The target of an installation.

    `root` is the machine's own root folder or a scratch folder; `program` is the command that the
    units start.
    """

    root: Path
    program: Path

    def path(self, name: str) -> Path:
        """Return a path of the system, below the root."""
        return self.root / name.lstrip("/")

    @property
    def real(self) -> bool:
        """Whether the target is this machine's own root."""
        return self.root == Path("/")

    @property
    def ids(self) -> tuple[int, int] | None:
        """User and group of the account.

        None if there is no account, or ownership cannot be given.
        """
        passwd = self.path("/etc/passwd")
        if os.geteuid() != 0 or not passwd.exists():
            return None
        lines = passwd.read_text("utf-8").splitlines()
        found = next((line.split(":") for line in lines if line.startswith(f"{ACCOUNT}:")), None)
        return None if found is None else (int(found[2]), int(found[3]))


def install(site: Site, instances: Sequence[str], database: str | None = None) -> list[InstallStep]:
    """Return the steps, in order, that make the service run.

    New configurations name this `database`; None: an embedded database each. Raises
    InstallationFailed where the units could not start the program.
    """
    homes = filter(site.program.resolve().is_relative_to, _HOMES)
    if site.real and (home := next(homes, None)):
        raise InstallationFailed(
            f"{site.program} lies below {home}, where a service may not look: install the "
            "program below /opt"
        )
    if site.real and os.geteuid() != 0:
        raise InstallationFailed("only root can install a service: sudo, or --root for a trial")
    return [
        *_account(site),
        *_folders(site),
        *_configuration(site, instances, database),
        *_key(site, instances),
        *_units(site),
        *_shared(site),
    ]


def unnamed(site: Site, instances: Sequence[str], database: str) -> list[Path]:
    """Return the configurations that were there before and do not name this database."""
    paths = [site.path(f"/etc/insa-anomaly/{name}.yaml") for name in ("config", *instances)]
    url = json.dumps(database)
    return [path for path in paths if path.exists() and url not in path.read_text("utf-8")]


def uninstall(site: Site) -> list[InstallStep]:
    """Return the steps that remove units, command and shared files; data and account stay."""
    paths = [site.path(f"/etc/systemd/system/{name}") for name in _UNITS]
    gone = [site.path("/usr/local/bin/insa-anomaly"), site.path("/usr/local/share/insa-anomaly")]
    steps = [
        InstallStep(f"remove {path}", partial(_absent, path), partial(_remove, path))
        for path in (*paths, *gone)
    ]
    stop = _systemctl(site, "disable", "--now", _UNITS[0]) if paths[0].exists() else []
    return [*stop, *steps]


def pending(steps: Sequence[InstallStep]) -> list[InstallStep]:
    """Return the steps that are still to be done."""
    return [step for step in steps if not _is_done(step)]


def apply(steps: Sequence[InstallStep]) -> Iterator[str]:
    """Do the pending steps in order; yield each when it is done. Raises InstallationFailed."""
    for step in steps:
        if not _is_done(step):
            with _told(step):
                step.do()
            yield step.what


def _is_done(step: InstallStep) -> bool:
    with _told(step):
        return step.done()


@contextmanager
def _told(step: InstallStep) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise InstallationFailed(f"{step.what}: {str(reason).strip()}") from error


# -------------------------------------------------------------------------------- what is done
def _account(site: Site) -> Iterator[InstallStep]:
    if os.geteuid() != 0:
        return  # into a scratch root; there nothing is given away either
    prefix = [] if site.real else ["--prefix", str(site.root)]
    argv = ["/usr/sbin/useradd", *prefix, "--system", "--user-group", "--no-create-home"]
    argv += ["--home-dir", "/var/lib/insa-anomaly", "--shell", "/usr/sbin/nologin", ACCOUNT]
    what = f"make the account {ACCOUNT}"
    yield InstallStep(what, lambda: site.ids is not None, partial(_run, argv))


def _folders(site: Site) -> Iterator[InstallStep]:
    yield _folder(site, "/etc/insa-anomaly", 0o750, "group")
    yield _folder(site, "/etc/insa-anomaly/secrets", 0o750, "group")
    yield _folder(site, "/var/lib/insa-anomaly", 0o700, "owner")
    yield _folder(site, "/var/lib/insa-iiot", 0o755, "root")
    yield _folder(site, "/var/lib/insa-iiot/ml_models", 0o700, "owner")


def _configuration(
    site: Site, instances: Sequence[str], database: str | None
) -> Iterator[InstallStep]:
    """Write the plant's own file once and never change it; the manual follows the program."""
    yield _file(site, "/etc/insa-anomaly/manual.yaml", shipped("config.yaml").read_bytes())
    named = "" if database is None else _DATABASE.format(url=json.dumps(database))
    texts = {"config": _CONFIG + (named or _EMBEDDED)}
    for port, name in enumerate(instances, _FIRST_PORT):
        texts[name] = _INSTANCE.format(name=name, port=port) + named
    for name, text in texts.items():
        path = site.path(f"/etc/insa-anomaly/{name}.yaml")
        write = partial(_write, site, path, text.encode(), 0o640, whose="group")
        yield InstallStep(f"write {path}", path.exists, write)


def _key(site: Site, instances: Sequence[str]) -> Iterator[InstallStep]:
    """Make the key of the models once: with another key every model would look altered."""
    for name in ("", *instances):
        folder = f"/var/lib/insa-anomaly/{name}".rstrip("/")
        if name:
            yield _folder(site, folder, 0o700, "owner")
            yield _folder(site, f"/var/lib/insa-iiot/ml_models/{name}", 0o700, "owner")
        path = site.path(f"{folder}/model.key")
        write = partial(_write, site, path, secrets.token_bytes(KEY_BYTES), 0o600, whose="owner")
        yield InstallStep(f"make the key {path}", path.exists, write)


def _units(site: Site) -> Iterator[InstallStep]:
    changed = False
    for name in _UNITS:
        text = (shipped("systemd") / name).read_text("utf-8")
        text = text.replace(_PROGRAM, str(site.program))
        step = _file(site, f"/etc/systemd/system/{name}", text.encode())
        changed |= not step.done()
        yield step
    if changed:
        yield from _systemctl(site, "daemon-reload")


def _shared(site: Site) -> Iterator[InstallStep]:
    """Share the command on PATH, the broker's configuration and the dashboards."""
    link = site.path("/usr/local/bin/insa-anomaly")
    linked = link.is_symlink() and link.readlink() == site.program
    if site.program.parent != Path("/usr/local/bin"):
        do = partial(_link, link, site.program)
        yield InstallStep(f"link {link} to {site.program}", lambda: linked, do)
    for name in ("mosquitto", "dashboards"):
        for source in sorted(path for path in shipped(name).rglob("*") if path.is_file()):
            target = f"/usr/local/share/insa-anomaly/{name}/{source.relative_to(shipped(name))}"
            yield _file(site, target, source.read_bytes())


# -------------------------------------------------------------------------------- how it is done
def _folder(site: Site, name: str, mode: int, whose: str) -> InstallStep:
    path = site.path(name)
    make = partial(_make_folder, site, path, mode, whose)
    done = partial(_is, site, path, mode, whose)
    return InstallStep(f"make the folder {path}, {mode:04o}", done, make)


def _file(site: Site, name: str, data: bytes) -> InstallStep:
    """Keep a file of root, for all to read, as the program ships it."""
    path = site.path(name)

    def same() -> bool:
        return path.exists() and path.read_bytes() == data and _is(site, path, 0o644, "root")

    write = partial(_write, site, path, data, 0o644, whose="root")
    return InstallStep(f"write {path}", same, write)


def _is(site: Site, path: Path, mode: int, whose: str) -> bool:
    if not path.exists():
        return False
    status = path.stat()
    owners = {None, (status.st_uid, status.st_gid)}
    return status.st_mode & 0o777 == mode and _ids(site, whose) in owners


def _ids(site: Site, whose: str) -> tuple[int, int] | None:
    """Return the ids of the account, of root with the account's group, or of root alone."""
    ids = site.ids
    return ids and {"owner": ids, "group": (0, ids[1]), "root": (0, 0)}[whose]


def _make_folder(site: Site, path: Path, mode: int, whose: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    _give(site, path, mode, whose)


def _give(site: Site, path: Path, mode: int, whose: str) -> None:
    if ids := _ids(site, whose):
        os.chown(path, *ids)
    path.chmod(mode)


def _write(site: Site, path: Path, data: bytes, mode: int, whose: str) -> None:
    """Write a file that is visible only once it is whole and its owner's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_bytes(data)
    _give(site, new, mode, whose)
    new.replace(path)


def _link(link: Path, program: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(program)


def _absent(path: Path) -> bool:
    return not path.exists() and not path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _systemctl(site: Site, *words: str) -> list[InstallStep]:
    """Return the steps of systemctl, where systemd runs."""
    if not site.real or not Path("/run/systemd/system").is_dir():
        return []
    asked: list[bool] = []

    def do() -> None:
        asked.append(True)
        _run(["systemctl", *words])

    return [InstallStep(f"systemctl {' '.join(words)}", lambda: bool(asked), do)]


def _run(argv: Sequence[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
