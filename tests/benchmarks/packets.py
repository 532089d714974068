"""PUBLISH packets by the hundred: a matrix of bytes with a row for each series.

Value, time and packet id are written into it by column.
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.reading.series_key import SeriesKey

Bytes = npt.NDArray[np.uint8]

_CONNECT, _PUBLISH_QOS_1 = 0x10, 0x32
# 123.4567 and microseconds since the epoch: places to be written to.
_VALUE, _TIME = b"########", b"@@@@@@@@@@@@@@@@"


class Packets:
    """Packets of QoS 1 and MQTT 3.1.1, with a metric in JSON and the device's own time."""

    def __init__(self, keys: Sequence[SeriesKey]) -> None:
        bodies = [_body(device, metric) for device, metric in keys]
        width = max(map(len, bodies))
        length = _variable(width)
        # JSON may end in spaces.
        packets = [bytes([_PUBLISH_QOS_1]) + length + body.ljust(width) for body in bodies]
        self._template = np.frombuffer(b"".join(packets), np.uint8).reshape(len(keys), -1)
        self._mid = np.array([1 + len(length) + 2 + len(_topic(device)) for device, _ in keys])[
            :, None
        ] + np.arange(2)
        self._value = np.array([packet.index(_VALUE) for packet in packets])[:, None] + np.arange(
            len(_VALUE)
        )
        self._time = np.array([packet.index(_TIME) for packet in packets])[:, None] + np.arange(
            len(_TIME)
        )

    def built(
        self, rows: slice, values: npt.NDArray[np.float64], now: int, first_mid: int
    ) -> bytes:
        """Return packets of these series.

        Values lie in [100, 1000), packet ids run from `first_mid` (0 to 65534) on.
        """
        packets = self._template[rows].copy()
        at = np.arange(len(packets))[:, None]
        packets[at, self._value[rows]] = _decimals(values)
        packets[at, self._time[rows]] = np.frombuffer(b"%016d" % now, np.uint8)
        mids = ((first_mid + np.arange(len(packets))) % 65535 + 1).astype(">u2")
        packets[at, self._mid[rows]] = mids.view(np.uint8).reshape(-1, 2)
        return packets.tobytes()


def _topic(device: str) -> bytes:
    return b"insa/iiot/telemetry/" + device.encode()


def _body(device: str, metric: str) -> bytes:
    topic = _topic(device)
    payload = b'{"metric_name":"%b","value":%b,"timestamp":%b}' % (metric.encode(), _VALUE, _TIME)
    return struct.pack(">H", len(topic)) + topic + b"\0\0" + payload


def _decimals(values: npt.NDArray[np.float64]) -> Bytes:
    """Return three digits, a point and four digits [n, 8]."""
    left = np.rint(values * 10_000).astype(np.int64)
    out = np.empty((len(values), len(_VALUE)), np.uint8)
    out[:, 3] = ord(".")
    for column in (7, 6, 5, 4, 2, 1, 0):
        left, digit = np.divmod(left, 10)
        out[:, column] = ord("0") + digit
    return out


def connect(client_id: str, user: str, password: str) -> bytes:
    """Return a CONNECT packet: a clean session with a keepalive of an hour."""
    fields = b"".join(
        struct.pack(">H", len(text)) + text
        for text in (client_id.encode(), user.encode(), password.encode())
    )
    body = struct.pack(">H", 4) + b"MQTT" + bytes([4, 0xC2]) + struct.pack(">H", 3600) + fields
    return bytes([_CONNECT]) + _variable(len(body)) + body


def _variable(length: int) -> bytes:
    out = bytearray()
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    return bytes([*out, length])
