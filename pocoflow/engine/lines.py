"""The lines that a checkpoint is written in, one for each change, with JSON as `codec` writes it.

    query = "ducks"             the key has this value
    messages + [{"n":7}]        its list has grown by these items
    draft -                     the key is gone
    page =@ 9f86d0...           the value lies in a blob, a text that is kept once under its SHA-256
    messages +@ 60303a...       the list has grown by the items in a blob
    api_key =! gAAAAAB...       the key has this value, which is secret, and encrypted

Keys are percent-encoded, so that a key has no space and a line no break.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote, unquote

# What is longer goes into a blob.
BLOB_CHARS = 4096
_LEGIBLE = "!\"#$&'()*+,-./:;<=>?@[]^_`|~"


class Line(NamedTuple):
    """One change; `payload` is JSON, or the digest of a blob for a sign with "@", or a token for "=!"."""

    name: str
    sign: str
    payload: str

    @property
    def in_blob(self) -> bool:
        return self.sign.endswith("@")

    @property
    def is_secret(self) -> bool:
        return self.sign == "=!"


def parse(text: str) -> Iterator[Line]:
    """Yield the lines; raises ValueError for a text that has others."""
    for line in text.splitlines():
        quoted, sign, *rest = line.split(" ", 2)
        if (sign, len(rest)) not in _FORMS:
            raise ValueError(f"no line of a checkpoint: {line[:80]!r}")
        yield Line(unquote(quoted, errors="surrogatepass"), sign, rest[0] if rest else "")


_FORMS = {("=", 1), ("+", 1), ("-", 0), ("=@", 1), ("+@", 1), ("=!", 1)}


class Draft:
    """Lines that are being written.

    Attributes:
        chars: How long the text is by now.
        digests: Of the blobs that the lines name, in their order.
        blobs: Texts that were put into blobs, by digest.
    """

    def __init__(self, blobs: dict[str, str] | None = None) -> None:
        self.chars = 0
        self.digests: dict[str, None] = {}
        self.blobs: dict[str, str] = {} if blobs is None else blobs
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self._lines)

    def put(self, name: str, sign: str, payload: str) -> str | None:
        """Write a payload, into a blob if it is large; returns the digest of that."""
        if len(payload) <= BLOB_CHARS:
            self._write(f"{_quoted(name)} {sign} {payload}")
            return None
        digest = self.keep(payload)
        self.refer(name, sign, digest)
        return digest

    def hide(self, name: str, token: str) -> None:
        """Write a secret; no blob holds one, which others could have too."""
        self._write(f"{_quoted(name)} =! {token}")

    def keep(self, text: str) -> str:
        """Put a text into a blob; returns its digest."""
        digest = sha256(text.encode("ascii")).hexdigest()
        self.blobs[digest] = text
        return digest

    def refer(self, name: str, sign: str, digest: str) -> None:
        """Name a blob."""
        self.digests[digest] = None
        self._write(f"{_quoted(name)} {sign}@ {digest}")

    def remove(self, name: str) -> None:
        self._write(f"{_quoted(name)} -")

    def _write(self, line: str) -> None:
        self.chars += len(line) + 1
        self._lines.append(line)


def small(texts: Mapping[str, str]) -> str:
    """Return the lines of a whole store in which nothing is large."""
    return "\n".join([f"{_quoted(name)} = {text}" for name, text in texts.items()])


@lru_cache(maxsize=1024)
def _quoted(name: str) -> str:
    return quote(name, safe=_LEGIBLE, errors="surrogatepass")
