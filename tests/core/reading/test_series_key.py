"""The key of a series."""

import pickle

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey

PUMP = SeriesKey("pump", "pressure")


class Asked(msgspec.Struct, array_like=True):
    """A struct that holds a key."""

    key: SeriesKey


def test_a_key_is_its_pair_of_names() -> None:
    """A key equals, hashes and is encoded as the tuple of its names."""
    pair = ("pump", "pressure")
    assert pair == PUMP
    assert {PUMP: 1}[pair] == 1
    assert msgspec.json.encode(PUMP) == b'["pump","pressure"]'


def test_a_key_comes_back_as_a_key() -> None:
    """A decoded or unpickled key has its attributes."""
    read = msgspec.json.decode(msgspec.json.encode(Asked(PUMP)), type=Asked).key
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode([PUMP]), type=list[SeriesKey])[0]
    for key in (read, packed, pickle.loads(pickle.dumps(PUMP))):  # noqa: S301 - our own
        assert (key.device_id, key.metric_name, key.is_device) == ("pump", "pressure", False)


def test_a_device_has_a_key_of_its_own() -> None:
    """The key of a device as a whole names the device and says what it is."""
    key = SeriesKey.of_device("pump")
    assert key == ("pump", "_device")
    assert key.is_device
