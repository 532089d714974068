"""Sealed data is read with its key, under its name, whole, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.errors import ConfigError, ModelFileError, ModelStorageError
from insa_anomaly.files.sealing import KEY_BYTES, Seal

KEYS = [bytes([number]) * KEY_BYTES for number in range(3)]
SEAL = Seal(KEYS[:1])


@given(data=st.binary(max_size=1000), name=st.text(max_size=50))
def test_what_was_sealed_is_read(data: bytes, name: str) -> None:
    """Opened data equals the sealed data, and sealing twice gives different bytes."""
    sealed = SEAL.close(name, data)
    assert SEAL.open(name, sealed, SEAL.key_id) == data
    assert len(sealed) == len(data) + 28
    assert sealed[:12] != SEAL.close(name, data)[:12]


@given(
    data=st.binary(max_size=1000),
    place=st.integers(min_value=0),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_what_was_altered_is_not(data: bytes, place: int, bit: int, cut: bool) -> None:
    """A changed bit, a cut end or another name breaks the seal."""
    sealed = bytearray(SEAL.close("a", data))
    with pytest.raises(ModelFileError, match="b was altered"):
        SEAL.open("b", bytes(sealed), SEAL.key_id)
    place %= len(sealed)
    sealed[place] ^= 1 << bit
    with pytest.raises(ModelFileError, match="a was altered"):
        SEAL.open("a", bytes(sealed[:place] if cut else sealed), SEAL.key_id)


def test_the_first_key_seals_and_each_opens() -> None:
    """A new key goes before the old key; data of a missing key is refused by name."""
    old, both, other = Seal(KEYS[:1]), Seal([KEYS[1], KEYS[0]]), Seal(KEYS[2:])
    assert both.open("a", old.close("a", b"data"), old.key_id) == b"data"
    assert both.key_id == Seal(KEYS[1:2]).key_id != old.key_id
    assert both.key_ids == {old.key_id, both.key_id}
    with pytest.raises(
        ModelStorageError,
        match=r"a is sealed by a key that models\.encryption_key_file did not hold",
    ):
        other.open("a", both.close("a", b"data"), both.key_id)


def test_keys_are_read_from_text() -> None:
    """A key file has a key a line; blanks and line ends do not count."""
    assert (
        Seal.of(f" {KEYS[0].hex()}\r\n\n{KEYS[1].hex().upper()}\n").key_ids
        == Seal(KEYS[:2]).key_ids
    )


@pytest.mark.parametrize(
    "text",
    ["", "\n", "00" * 31, "00" * 33, "zz" * 32, f"{KEYS[0].hex()}\nshort", KEYS[0].hex()[:32]],
)
def test_what_is_no_key_is_refused_and_not_shown(text: str) -> None:
    """A wrong key file is refused with the command that makes a right key."""
    with pytest.raises(ConfigError, match="openssl rand -hex 32") as refusal:
        Seal.of(text)
    assert not text.strip() or text.strip() not in str(refusal.value)
