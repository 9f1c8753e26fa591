"""How a secret stands in history: encrypted, by a cipher that the engine is given and knows nothing of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pocoflow.errors import SecretKeyError

# Begins the text of a value that is still encrypted; no JSON begins like that.
MARK = "!"
HOW = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'


class Cipher(Protocol):
    """Encrypts texts that history keeps; a token is printable ASCII without spaces."""

    def encrypt(self, text: str) -> str: ...

    def decrypt(self, token: str) -> str | None:
        """Return the text, or None for a token that no key here opens."""
        ...

    def digests(self, text: str) -> Sequence[str]:
        """Return what tells texts apart and tells nothing else: the current one, then those of older keys."""
        ...


class InClear:
    """For history that stays in the memory of this process."""

    def encrypt(self, text: str) -> str:
        return text

    def decrypt(self, token: str) -> str:
        return token

    def digests(self, text: str) -> Sequence[str]:
        return [text]


def encrypted(key: object, text: str, cipher: Cipher | None) -> str:
    """Return the token of a value; raises SecretKeyError without a cipher."""
    if text.startswith(MARK):
        return text[len(MARK) :]
    return needed(key, cipher).encrypt(text)


def decrypted(text: str, cipher: Cipher | None) -> str:
    """Return the text of a value, as it is if it cannot be decrypted here."""
    if cipher is None or not text.startswith(MARK):
        return text
    plain = cipher.decrypt(text[len(MARK) :])
    return text if plain is None else plain


def needed(key: object, cipher: Cipher | None) -> Cipher:
    """Return the cipher; raises SecretKeyError if there is none for this key of a store."""
    if cipher is None:
        raise SecretKeyError(
            f"store key {key!r} is secret, and a database keeps it encrypted only: set POCOFLOW_SECRET_KEY, "
            f"the same for the workers and for whoever starts runs, to a key made by: {HOW}"
        )
    return cipher


def wrong_key(key: object) -> SecretKeyError:
    """Return the error for a secret that no key of this process opens."""
    return SecretKeyError(
        f"store key {key!r} is secret, and no key in POCOFLOW_SECRET_KEY of this process opens it: add the "
        "key that the run was started with, after a comma"
    )
