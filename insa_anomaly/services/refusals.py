"""Refused callers: each address waits longer for its next refusal, and fills no log."""

from collections import OrderedDict
from dataclasses import dataclass

from insa_anomaly.ports.clock import Clock

FREE = 10  # refusals of an address that are answered at once: a typing error is no attack
FIRST_DELAY_S, DELAY_MOST_S = 0.1, 2.0
FORGOTTEN_S = 60.0  # without a refusal; and between two lines of the log about an address
ADDRESSES_MOST = 1000  # the address that was refused longest ago is forgotten first


@dataclass
class _Address:
    refusals: int = 0
    refused_at: float = 0.0
    logged_at: float | None = None
    unlogged: int = 0


class Refusals:
    """Refusals by the address of the caller. Not for more than one thread at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def add(self, origin: str) -> tuple[float, int]:
        """Count a refusal of this address.

        Returns the seconds to wait before the answer, and the count of refusals that a line of the
        log must tell now; 0 if the last line is less than a minute old.
        """
        now = self._clock.monotonic()
        address = self._address(origin, now)
        address.refusals += 1
        address.unlogged += 1
        address.refused_at = now
        return _delay_s(address.refusals), self._untold(address, now)

    def _address(self, origin: str, now: float) -> _Address:
        address = self._addresses.setdefault(origin, _Address(refused_at=now))
        self._addresses.move_to_end(origin)
        if len(self._addresses) > ADDRESSES_MOST:
            self._addresses.popitem(last=False)
        if now - address.refused_at >= FORGOTTEN_S:
            address.refusals = 0
        return address

    def _untold(self, address: _Address, now: float) -> int:
        if address.logged_at is not None and now - address.logged_at < FORGOTTEN_S:
            return 0
        address.logged_at = now
        count, address.unlogged = address.unlogged, 0
        return count


def _delay_s(refusals: int) -> float:
    if refusals <= FREE:
        return 0.0
    # The exponent is bounded, because a float has no 2 ** 2000.
    return min(DELAY_MOST_S, FIRST_DELAY_S * 2.0 ** min(refusals - FREE - 1, 10))
