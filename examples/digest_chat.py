"""A client for chat endpoints that speak OpenAI's protocol, on the standard library.

The key goes into one request header and nowhere else: no message, no log line and no store holds it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

__all__ = ["Chat", "ChatError"]

_MAX_REPLY_BYTES = 1_000_000


class ChatError(RuntimeError):
    """The endpoint is set up wrongly, cannot be reached, or did not answer with a message."""


class _NoRedirect(HTTPRedirectHandler):
    """urllib would send the key on to wherever a redirect points."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Where to ask, and as whom."""

    base_url: str
    model: str
    key: str = field(repr=False)
    timeout_s: float = 60.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Chat | None":
        """Read OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL; None without a key.

        Raises:
            ChatError: The key cannot be sent, or the address is not one of HTTP.
        """
        key = environ.get("OPENAI_API_KEY", "").strip()
        if not key:
            return None
        base_url = environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
        if not (key.isascii() and key.isprintable()):
            raise ChatError("OPENAI_API_KEY holds characters that no header can carry: copy the key again")
        if not re.fullmatch(r"https?://[^/\s:]+(?::\d{1,5})?(?:/\S*)?", base_url):
            raise ChatError("OPENAI_BASE_URL must look like https://host:port/v1")
        model = environ.get("OPENAI_MODEL", "").strip() or "gpt-4o-mini"
        return cls(base_url=base_url.rstrip("/"), model=model, key=key)

    def ask(self, system: str, user: str) -> str:
        """Send one question and return the text of the answer, never empty.

        Raises:
            ChatError: There was none; the message tells why.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        reply = self._post({"model": self.model, "messages": messages})
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as exc:
            raise ChatError(f"{self._where()} sent no chat completion: {self._shown(reply)}") from exc
        if not isinstance(content, str) or not content.strip():
            raise ChatError(f"{self._where()} sent an empty message: ask another model than {self.model!r}")
        return content.strip()

    def _post(self, body: dict[str, Any]) -> bytes:
        request = Request(
            f"{self.base_url}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        try:
            with build_opener(_NoRedirect).open(request, timeout=self.timeout_s) as response:
                return bytes(response.read(_MAX_REPLY_BYTES))
        except HTTPError as exc:
            text = self._shown(exc.read(_MAX_REPLY_BYTES))
            raise ChatError(f"{self._where()} answered {exc.code}: {text}") from None
        except (OSError, HTTPException) as exc:  # URLError is an OSError, and so is a timeout
            reason = exc.reason if isinstance(exc, URLError) else exc
            raise ChatError(f"{self._where()} cannot be reached: {reason}") from None

    def _where(self) -> str:
        return f"chat endpoint {urlsplit(self.base_url).netloc}"

    def _shown(self, reply: bytes) -> str:
        text = " ".join(reply.decode(errors="replace").split())
        return text.replace(self.key, "***")[:200] or "(no text)"
