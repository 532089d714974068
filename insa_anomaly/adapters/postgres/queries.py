"""The named queries of `sql/queries.sql`: SQL stays SQL, with a line of why above each."""

from collections.abc import Mapping
from importlib import resources

_MARK = "-- name: "


def load() -> Mapping[str, bytes]:
    """Return every query by its name, without its comments."""
    file = resources.files(__package__).joinpath("sql", "queries.sql")
    return parse(file.read_text(encoding="utf-8"))


def parse(text: str) -> Mapping[str, bytes]:
    """Return the queries of a file in which each begins with `-- name: <name>`."""
    queries: dict[str, bytes] = {}
    for block in text.split(_MARK)[1:]:
        name, _, body = block.partition("\n")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        queries[name.strip()] = "\n".join(lines).strip().encode()
    return queries
