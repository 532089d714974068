"""Bytes that nobody reads without a key: AES-256-GCM (NIST SP 800-38D), bound to the name of what they are."""

import hashlib
import secrets
from collections.abc import Sequence

from insa_anomaly.errors import ConfigError, ModelFileError, ModelStorageError

KEY_BYTES = 32
NO_KEY = "{} is sealed by a key that models.encryption_key_file did not hold when this process began: restart it"
_NONCE_BYTES = 12  # drawn at random, for which NIST allows 2^32 files under one key


class Seal:
    """The first of these keys (32 bytes each) seals; every one opens what it has sealed, so that keys can change."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 5 MB, for those who seal

        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self.key_id = _id(keys[0])

    @classmethod
    def of(cls, text: str) -> "Seal":
        """From the text of a key file: 64 hexadecimal digits a line, the newest first. Raises ConfigError, which does not show them."""
        lines = text.split()
        try:
            keys = [bytes.fromhex(line) for line in lines]
        except ValueError:
            keys = []
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ConfigError(
                "models.encryption_key_file must hold 64 hexadecimal digits a line, as `openssl rand -hex 32` prints them"
            )
        return cls(keys)

    @property
    def key_ids(self) -> frozenset[str]:
        """Of the keys that are there."""
        return frozenset(self._ciphers)

    def close(self, name: str, data: bytes) -> bytes:
        """Seal what goes by this name: nonce, then ciphertext with its tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[self.key_id].encrypt(nonce, data, name.encode())

    def open(self, name: str, data: bytes, key_id: str) -> bytes:
        """What was sealed under this name by the key of this id. Raises ModelFileError, where that key is missing ModelStorageError."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise ModelStorageError(NO_KEY.format(name))
        try:
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:  # the latter where it is too short to be anything
            raise ModelFileError(f"{name} was altered: its seal is broken") from error


def _id(key: bytes) -> str:
    """Tells keys apart, and nothing about them."""
    return hashlib.sha256(b"insa-anomaly key id\0" + key).hexdigest()[:16]
