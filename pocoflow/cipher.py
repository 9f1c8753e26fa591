"""Secrets under Fernet keys: what is written is encrypted by the first key, what is read by any of them."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from hashlib import sha256

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class FernetCipher:
    """See `engine.secrecy.Cipher`.

    Args:
        keys: Each 32 bytes in URL-safe Base64; the current one first.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        # Keys of their own: one key is not to serve two algorithms.
        self._digest_keys = [sha256(b"pocoflow digest" + urlsafe_b64decode(key)).digest() for key in keys]

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode("ascii")).decode("ascii")

    def decrypt(self, token: str) -> str | None:
        try:
            return self._fernet.decrypt(token).decode("ascii")
        except InvalidToken:
            return None

    def digests(self, text: str) -> Sequence[str]:
        return [hmac.new(key, text.encode("ascii"), sha256).hexdigest() for key in self._digest_keys]
