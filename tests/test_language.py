"""The rules of the language are held by `scripts/words`: each rule finds its breach."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GOOD = '"""Widgets of the plant."""\n\n\nclass Widget:\n    """A thing."""\n'


def words(*paths: Path | str) -> subprocess.CompletedProcess[str]:
    """Run the script over some files."""
    argv = [sys.executable, str(ROOT / "scripts" / "words"), *map(str, paths)]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)


def test_the_code_keeps_the_rules() -> None:
    """Package, tests and scripts open no docstring vaguely and share no class name."""
    done = words()
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ('"""What is there."""\n', "opens vaguely"),
        ('"""With care."""\n', "opens vaguely"),
        ('"""It counts."""\n', "opens vaguely"),
        ('"""Count the one who says nothing."""\n', "vague word"),
        ("print(1, 2, 3, 4, 5, 6)\n", "arguments by place"),
        ("class Widget: ...\n\n\nclass _Widget: ...\n", "class Widget"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, source: str, finding: str) -> None:
    """A file that breaks a rule ends the script with 1 and names the place."""
    (tmp_path / "good.py").write_text(GOOD.replace("Widget", "Other"))
    (tmp_path / "breach.py").write_text(source)
    done = words(tmp_path)
    assert done.returncode == 1
    assert f"{finding}" in done.stdout
    assert str(tmp_path / "breach.py") in done.stdout


def test_names_in_backticks_are_no_words(tmp_path: Path) -> None:
    """A name of code is neither a vague word nor an opening."""
    (tmp_path / "good.py").write_text('"""`one` is the name of `what`."""\n')
    done = words(tmp_path)
    assert done.returncode == 0, done.stdout
