"""Files that come with the program: units, dashboards, the manual, the broker's configuration."""

from pathlib import Path

_PACKED = Path(__file__).parent
_CLONE = _PACKED.parent.parent


def shipped(name: str) -> Path:
    """Return a file or folder by its name in the clone; a wheel holds it in the package."""
    beside = _CLONE / name
    return beside if (_CLONE / "pyproject.toml").is_file() and beside.exists() else _PACKED / name
