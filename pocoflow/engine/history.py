"""What a step leaves of the store: what it has changed, and no more.

A checkpoint either tells of the whole store or changes the one before it, and each so many steps it is the
whole, so that to load one never takes many rows. Large values, and long lists in parts, lie in blobs that
are kept once: no step writes again what is only there. See `lines` for how it is written down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pocoflow import codec
from pocoflow.engine.lines import BLOB_CHARS, Draft, Line, parse, small
from pocoflow.engine.secrecy import (
    MARK,
    Cipher,
    blinded,
    decrypted,
    encrypted,
    load_values,
    needed,
    refuse_to_keep,
    wrong_key,
)
from pocoflow.errors import StoreSerializationError
from pocoflow.schema import Schema, secret_keys
from pocoflow.store import Store

# So many checkpoints at most build on one that tells of the whole store.
MAX_DEPTH = 31
# A whole store that is no longer than this is written each time: one row is quicker to read than two.
SMALL_CHARS = 1024
# So much of blobs that count no more may have to be read to load a checkpoint.
STALE_CHARS = 1 << 16
# So many parts of a list, of about one size, become one.
MERGED_PARTS = 32
SAME_SIZE = 8
_REFERENCE_CHARS = 72


@dataclass(slots=True)
class Checkpoint:
    """The store after a step, as a ledger keeps it.

    Attributes:
        text: The lines.
        depth: How many checkpoints before this one it builds on; 0 if it tells of the whole store.
        blobs: Digests of the blobs that its lines name.
        new_blobs: Those that this run has not named before; with their text if it may not be kept yet.
    """

    text: str
    depth: int = 0
    blobs: tuple[str, ...] = ()
    new_blobs: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """A store as a ledger gives it back.

    Attributes:
        texts: The checkpoint after those that it builds on.
        blobs: What they name, by digest.
        schema: That of the store, as text; None if it has none.
        cipher: That of the ledger; None where secrets stay closed.
    """

    texts: Sequence[str]
    blobs: Mapping[str, str] = field(default_factory=dict)
    schema: str | None = None
    cipher: Cipher | None = field(default=None, compare=False, repr=False)


class _Part(NamedTuple):
    """A blob that holds a whole value, or the next items of a list."""

    digest: str
    chars: int


@dataclass(slots=True)
class _Value:
    """A value as JSON text, and the blobs that hold its beginning."""

    text: str
    parts: tuple[_Part, ...] = ()

    @property
    def tail(self) -> str:
        """What lies in no blob: all of it, the last items as a list, or nothing."""
        return self.from_part(len(self.parts))

    def from_part(self, first: int) -> str:
        """What is left of the value without so many of its parts."""
        # Each part closes with a bracket where the whole has a comma.
        skipped = sum(part.chars for part in self.parts[:first]) - max(first - 1, 0)
        if skipped == len(self.text):
            return ""
        return f"[{self.text[skipped:]}" if first else self.text

    @property
    def blob_chars(self) -> int:
        return sum([part.chars for part in self.parts]) if self.parts else 0

    @property
    def inline_chars(self) -> int:
        """About how long its lines are in a checkpoint of the whole store."""
        in_lines = len(self.text) - self.blob_chars
        return min(in_lines, BLOB_CHARS) + _REFERENCE_CHARS * len(self.parts)


class Trail:
    """Follows the store of one run from checkpoint to checkpoint.

    Args:
        secret: Keys of values that are written encrypted, and whole.
        cipher: What encrypts them.
    """

    __slots__ = ("_cipher", "_depth", "_known", "_schema", "_secret", "_stale_chars", "_values")

    def __init__(self, secret: Iterable[str] = (), cipher: Cipher | None = None) -> None:
        self._values: dict[str, _Value] = {}
        self._secret = set(map(codec.name_of, secret))
        self._cipher = cipher
        self._known: set[str] = set()
        self._schema: str | None = None
        self._depth = -1
        self._stale_chars = 0

    @classmethod
    def begin(cls, store: Store, cipher: Cipher | None) -> Trail:
        """Return the trail of a new run; raises SecretKeyError if its secrets could not be kept."""
        refuse_to_keep(store, cipher)
        return cls(store.secret, cipher)

    @classmethod
    def load(cls, saved: Saved) -> Trail:
        """Return the trail up to a checkpoint; secrets that cannot be decrypted here stay as they are.

        Raises:
            StoreSerializationError: The texts are none of a checkpoint, or a blob is missing.
        """
        trail = cls(cipher=saved.cipher)
        trail._schema = saved.schema
        try:
            if saved.schema is not None:
                trail._secret.update(map(codec.name_of, secret_keys(saved.schema)))
            trail._read(saved)
        except StoreSerializationError:
            raise
        except (ValueError, LookupError) as exc:
            raise StoreSerializationError(f"checkpoint cannot be read back: {exc!r}") from exc
        return trail

    def fork(self) -> None:
        """Go on as the trail of another run, which has named no blob yet."""
        self._known.clear()

    def store(self, name: str, *, lenient: bool = False) -> Store:
        """Return the store as it is here, with its types.

        Args:
            lenient: Do not check keys whose class is not registered here, and mask secrets that cannot be
                decrypted, instead of raising.

        Raises:
            UnregisteredTypeError: A class in it is not registered here.
            SecretKeyError: No key here opens a secret in it, or can encrypt one that is yet to come.
            StoreSerializationError: A value cannot be read.
        """
        if not lenient:
            self._refuse_what_is_closed()
        secret = list(map(codec.key_of, self._secret))
        return Store(self.data(), schema=self._types(lenient=lenient), name=name, secret=secret)

    def empty(self, name: str) -> Store:
        """Return a store without content that takes what this one takes, as far as that is known here."""
        return Store(schema=self._types(lenient=True), name=name)

    def _types(self, *, lenient: bool) -> Schema | None:
        return None if self._schema is None else Schema.loads(self._schema, lenient=lenient)

    @property
    def texts(self) -> dict[str, str]:
        """The values as JSON texts, by name; a secret that cannot be decrypted here as it is in history."""
        return {name: value.text for name, value in self._values.items()}

    def data(self) -> dict[Any, Any]:
        """Return the content of the store, with masks for secrets that cannot be decrypted here.

        Raises as `store` does for the other reasons.
        """
        return load_values(self.texts)

    def next(self, texts: Mapping[str, str], *, whole: bool = False) -> Checkpoint:
        """Return the checkpoint that leads to these values; the trail then stands there.

        Args:
            texts: As `codec.dump_values` gives them.
            whole: Whether it must tell of the whole store.
        """
        if sum(map(len, texts.values())) <= SMALL_CHARS:
            return self._small(texts)
        changed = {name: text for name, text in texts.items() if not self._has(name, text)}
        whole = whole or self._must_be_whole(changed, texts)
        draft = Draft()
        for name in [name for name in self._values if name not in texts]:
            self._stale_chars += self._values.pop(name).blob_chars
            draft.remove(name)
        for name, text in changed.items():
            self._change(name, text, draft)
        self._depth += 1
        if whole or self._stale_chars > STALE_CHARS or self._whole_chars() <= max(SMALL_CHARS, draft.chars):
            self._values = {name: self._values[name] for name in texts}
            draft = self._whole(draft.blobs)
        return self._checkpoint(draft)

    def blinded(self, texts: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Return the texts of a store with what tells secrets apart in their place, once for each key."""
        return blinded(texts, self._secret, self._cipher)

    def _refuse_what_is_closed(self) -> None:
        for name in sorted(self._secret):
            needed(name, self._cipher)
            if name in self._values and self._values[name].text.startswith(MARK):
                raise wrong_key(name)

    def _has(self, name: str, text: str) -> bool:
        value = self._values.get(name)
        return value is not None and value.text == text

    def _must_be_whole(self, changed: Iterable[str], texts: Iterable[str]) -> bool:
        if not 0 <= self._depth < MAX_DEPTH:
            return True
        # No line says that a key has moved; a new one comes last.
        stayed = [name for name in self._values if name in texts]
        return [*stayed, *(name for name in changed if name not in self._values)] != list(texts)

    def _change(self, name: str, text: str, draft: Draft) -> None:
        value = self._values.setdefault(name, _Value(""))
        if name in self._secret:
            self._hide(name, text, draft)
        elif _grows(value.text, text):
            items, follows = f"[{text[len(value.text) :]}", not value.tail
            digest = draft.put(name, "+", items)
            if digest is not None and follows:
                value.parts += (_Part(digest, len(items)),)
        else:
            self._stale_chars += value.blob_chars
            digest = draft.put(name, "=", text)
            value.parts = () if digest is None else (_Part(digest, len(text)),)
        value.text = text

    def _small(self, texts: Mapping[str, str]) -> Checkpoint:
        self._values = {name: _Value(text) for name, text in texts.items()}
        if self._secret:
            return Checkpoint(self._whole({}).text)
        self._depth = self._stale_chars = 0
        return Checkpoint(small(texts))

    def _hide(self, name: str, text: str, draft: Draft) -> None:
        draft.hide(name, encrypted(name, text, self._cipher))

    def _whole_chars(self) -> int:
        """About how long a checkpoint of the whole store would be."""
        return sum([len(name) + value.inline_chars for name, value in self._values.items()])

    def _whole(self, blobs: dict[str, str]) -> Draft:
        draft = Draft(blobs)
        for name, value in self._values.items():
            if name in self._secret:
                self._hide(name, value.text, draft)
                continue
            if len(value.tail) > BLOB_CHARS:
                _seal(value, draft)
            for number, part in enumerate(value.parts):
                draft.refer(name, "+" if number else "=", part.digest)
            if value.tail:
                draft.put(name, "+" if value.parts else "=", value.tail)
        self._depth = self._stale_chars = 0
        return draft

    def _checkpoint(self, draft: Draft) -> Checkpoint:
        blobs = tuple(draft.digests)
        new = {digest: draft.blobs.get(digest) for digest in blobs if digest not in self._known}
        self._known.update(blobs)
        return Checkpoint(draft.text, self._depth, blobs, new)

    def _read(self, saved: Saved) -> None:
        pieces: dict[str, list[str]] = {}
        for text in saved.texts:
            self._depth += 1
            if text.startswith("{"):  # the whole store as one object, as PocoFlow 0.2 wrote it
                pieces = {name: [value] for name, value in codec.dump_values(codec.loads(text)).items()}
                self._values = {name: _Value("") for name in pieces}
                continue
            for line in parse(text):
                self._follow(line, pieces, saved.blobs)
        for name, value in self._values.items():
            value.text = decrypted(name, _joined(pieces[name]), self._cipher)

    def _follow(self, line: Line, pieces: dict[str, list[str]], blobs: Mapping[str, str]) -> None:
        """Collect the pieces that a value is made of."""
        if line.sign == "-":
            self._stale_chars += self._values.pop(line.name).blob_chars
            return
        payload = blobs[line.payload] if line.in_blob else line.payload
        if line.is_secret:
            self._secret.add(line.name)
            payload = f"{MARK}{payload}"
        if line.sign.startswith("="):
            value = self._values.setdefault(line.name, _Value(""))
            self._stale_chars += value.blob_chars
            value.parts, pieces[line.name] = (), []
        value, before = self._values[line.name], pieces[line.name]
        if line.in_blob:
            self._known.add(line.payload)
            if len(before) == len(value.parts):
                value.parts += (_Part(line.payload, len(payload)),)
        before.append(payload)


def _grows(before: str, text: str) -> bool:
    """Whether it is the same list with more items; one that was empty counts as another."""
    end = len(before) - 1
    return end > 1 and before[0] == "[" and text[end : end + 1] == "," and text.startswith(before[:-1])


def _joined(pieces: Sequence[str]) -> str:
    """One list of several."""
    return pieces[0] if len(pieces) == 1 else f"[{','.join(piece[1:-1] for piece in pieces)}]"


def _seal(value: _Value, draft: Draft) -> None:
    """Put what lies in no blob into one, with the parts before if there are many of its size."""
    newest = len(value.tail)
    first = len(value.parts)
    while first and value.parts[first - 1].chars < SAME_SIZE * newest:
        first -= 1
    if len(value.parts) - first < MERGED_PARTS - 1:
        first = len(value.parts)
    text = value.from_part(first)
    value.parts = (*value.parts[:first], _Part(draft.keep(text), len(text)))
