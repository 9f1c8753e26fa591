"""What stands where a secret must not be read: a mask in place of the value, `***` in place of its text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus

SHOWN = "***"
# A text that is shorter would be found all over, and what is left would tell where it had stood.
MIN_CHARS = 4
_MAX_DEPTH = 100


class Masked:
    """The mask: one object, that no checkpoint carries, so that no run goes on with it for a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return SHOWN

    def __reduce__(self) -> str:
        return "MASKED"


MASKED = Masked()


def redact(text: str, secrets: Iterable[object]) -> str:
    """Return the text without these values, or texts in them, in the forms that messages mostly have them in.

    A value that was computed from a secret, or a part of it, is not found.
    """
    forms = {form for secret in secrets for part in _parts(secret, 0) for form in _forms(part)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, SHOWN)
    return text


def _forms(part: str) -> Iterator[str]:
    if len(part) < MIN_CHARS:
        return
    # The second repr escapes single quotes, as that of a text around it may do.
    yield from (part, repr(part)[1:-1], repr(f'{part}"')[1:-2], ascii(part)[1:-1], json.dumps(part)[1:-1])
    readable = part.encode(errors="replace")
    yield from (quote(readable, safe=""), quote_plus(readable))


def _parts(value: object, depth: int) -> Iterator[str]:
    """The texts that a value is made of, with the lines of long ones."""
    if value is None or isinstance(value, bool | Masked) or depth > _MAX_DEPTH:
        return
    if isinstance(value, bytes | bytearray):
        value = bytes(value).decode(errors="backslashreplace")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _parts(item, depth + 1)
        return
    text = str(value)
    yield text
    yield from text.splitlines()
    fields = None if isinstance(value, str) else getattr(value, "__dict__", None)
    if fields:
        yield from _parts(fields, depth + 1)
