"""How a secret stands in history: encrypted, by a cipher that the engine is given and knows nothing of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from pocoflow import codec
from pocoflow.errors import SecretKeyError
from pocoflow.masked import MASKED
from pocoflow.store import Store

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


def encrypted(name: str, text: str, cipher: Cipher | None) -> str:
    """Return the token of a value; raises SecretKeyError without a cipher."""
    if text.startswith(MARK):
        return text[len(MARK) :]
    return needed(name, cipher).encrypt(json.dumps(name) + text)


def decrypted(name: str, text: str, cipher: Cipher | None) -> str:
    """Return the text of a value, as it is if it cannot be decrypted here, or is that of another name."""
    if cipher is None or not text.startswith(MARK):
        return text
    # With its name inside: who can write to the database shall not have a node show it as a prompt.
    plain, begins = cipher.decrypt(text[len(MARK) :]), json.dumps(name)
    return plain[len(begins) :] if plain is not None and plain.startswith(begins) else text


def load_values(texts: Mapping[str, str]) -> dict[Any, Any]:
    """Return the values of these texts, with masks for those that are still encrypted."""
    closed = [name for name, text in texts.items() if text.startswith(MARK)]
    if not closed:
        return codec.load_values(texts)
    data = codec.load_values({**texts, **dict.fromkeys(closed, "null")})
    return {**data, **{codec.key_of(name): MASKED for name in closed}}


def blinded(
    texts: Mapping[str, str], secret: Iterable[str], cipher: Cipher | None
) -> list[Mapping[str, str]]:
    """Return the texts with what tells secrets apart in their place: by each key, the current one first."""
    digests = {name: _digests(name, texts[name], cipher) for name in secret if name in texts}
    number = max(map(len, digests.values()), default=1)
    return [
        {**texts, **{name: json.dumps(some[turn % len(some)]) for name, some in digests.items()}}
        for turn in range(number)
    ]


def _digests(name: str, text: str, cipher: Cipher | None) -> Sequence[str]:
    if text.startswith(MARK):
        return [text]  # a fork that cannot read it, and takes it as it is
    return needed(name, cipher).digests(text)


def refuse_to_keep(store: Store, cipher: Cipher | None) -> None:
    """Raise SecretKeyError for a new run whose secrets could not be kept, or are but masks."""
    for key, value in store.items():
        if value is MASKED:
            raise SecretKeyError(
                f"store key {key!r} holds a mask in place of a secret that could not be read: "
                "set its value first"
            )
    for key in sorted(store.secret):
        needed(codec.name_of(key), cipher)


def needed(name: str, cipher: Cipher | None) -> Cipher:
    """Return the cipher; raises SecretKeyError if there is none for the value of this name."""
    if cipher is None:
        raise SecretKeyError(
            f"store key {codec.key_of(name)!r} is secret, and a database keeps it encrypted only: set "
            f"POCOFLOW_SECRET_KEY, the same for workers and for whoever starts runs, to a key made by: {HOW}"
        )
    return cipher


def wrong_key(name: str) -> SecretKeyError:
    """Return the error for a secret that no key of this process opens."""
    return SecretKeyError(
        f"store key {codec.key_of(name)!r} is secret, and no key in POCOFLOW_SECRET_KEY of this process "
        "opens it: add the key that the run was started with, after a comma"
    )
