"""Bytes sealed with a key: AES-256-GCM (NIST SP 800-38D), bound to the name of their file."""

import hashlib
import secrets
from collections.abc import Sequence

from insa_anomaly.errors import ConfigError, ModelFileError, ModelStorageError

KEY_BYTES = 32
NO_KEY = (
    "{} is sealed by a key that models.encryption_key_file did not hold "
    "when this process began: restart it"
)
_NONCE_BYTES = 12  # drawn at random, for which NIST allows 2^32 files under one key


class Seal:
    """Keys of 32 bytes: the first seals, each opens what it has sealed, so keys can change."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        # Loaded here: the library takes 5 MB, and few plants seal.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self.key_id = _id(keys[0])

    @classmethod
    def of(cls, text: str) -> "Seal":
        """Read the text of a key file: 64 hexadecimal digits a line, the newest key first.

        Raises ConfigError, whose message does not show the digits.
        """
        lines = text.split()
        try:
            keys = [bytes.fromhex(line) for line in lines]
        except ValueError:
            keys = []
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ConfigError(
                "models.encryption_key_file must hold 64 hexadecimal digits a line, "
                "as `openssl rand -hex 32` prints them"
            )
        return cls(keys)

    @property
    def key_ids(self) -> frozenset[str]:
        """Ids of all keys."""
        return frozenset(self._ciphers)

    def close(self, name: str, data: bytes) -> bytes:
        """Seal data under a name; return the nonce, then the ciphertext with its tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[self.key_id].encrypt(nonce, data, name.encode())

    def open(self, name: str, data: bytes, key_id: str) -> bytes:
        """Return the data that the key of this id sealed under this name.

        Raises ModelStorageError where the key is missing, else ModelFileError.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise ModelStorageError(NO_KEY.format(name))
        try:
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a nonce
            raise ModelFileError(f"{name} was altered: its seal is broken") from error


def _id(key: bytes) -> str:
    """Return an id that tells keys apart and reveals no more of them."""
    return hashlib.sha256(b"insa-anomaly key id\0" + key).hexdigest()[:16]
