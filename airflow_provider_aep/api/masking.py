"""Which texts of a request are secret, and how Adobe's words are shown without them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

#: A shorter text is no secret worth the name, and would blot out harmless words.
_SHORTEST = 6


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with `***` for each secret, as it is and as JSON or a form quotes it."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            escaped = json.dumps(secret)[1:-1]
            for form in (secret, escaped, quote(secret), quote(secret, safe=""), quote_plus(secret)):
                text = text.replace(form, "***")
    return text


def logins_in(body: Any) -> Iterator[str]:
    """The texts of a login at a storage account, whether the body makes a base connection or patches one."""
    if isinstance(body, Mapping):
        yield from _texts(body.get("auth"))
    elif isinstance(body, list):
        for operation in body:
            if str(operation.get("path")).startswith("/auth"):
                yield from _texts(operation.get("value"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, str):
        yield value
