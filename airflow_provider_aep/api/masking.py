"""Which texts of a request are secret, and how Adobe's words are shown without them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from html.entities import codepoint2name
from typing import Any

#: A shorter text is hidden only where it stands alone: within words it would blot out harmless ones.
_SHORTEST_WITHIN = 6
#: A line of a key that is worth hiding by itself; the lines around it only name the type of key.
_SHORTEST_LINE = 16
_BACKSLASHES = r"(?:\\|%(?:25)*5[cC]|&#0*92;)+"
# A reply's blanks may have been put together, so one stands for several, in whatever way each is written.
_BLANKS = rf"\s|\+|{_BACKSLASHES}[nrtfv]"


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with `***` for each secret, however often JSON, an address, a form or HTML has quoted it."""
    for secret in sorted({each.strip() for each in secrets}, key=len, reverse=True):  # the whole before its parts
        if secret:
            pattern = "".join(map(_pattern, re.split(r"(\s+|\\+)", secret)))
            if len(secret) < _SHORTEST_WITHIN:
                pattern = rf"(?<![0-9A-Za-z]){pattern}(?![0-9A-Za-z])"
            text = re.sub(pattern, "***", text)
    return text


def _pattern(piece: str) -> str:
    """A pattern for blanks, for backslashes, which are quoted by more of them, or for what is between."""
    if piece.isspace():
        return f"(?:{'|'.join([_BLANKS, *map(_form, sorted({*piece, ' '}))])})+"
    return _BACKSLASHES if piece.startswith("\\") else "".join(map(_form, piece))


def _form(sign: str) -> str:
    """A pattern for a character as it may be quoted and as it is; nobody quotes an ASCII letter or digit.

    The quoted forms come first: `%` and `&` each begin their own.
    """
    if sign.isascii() and sign.isalnum():
        return sign
    octets = "".join(f"%(?:25)*{octet:02x}" for octet in sign.encode(errors="replace"))
    raw = sign.encode("utf-16-be", "surrogatepass")
    units = "".join(rf"{_BACKSLASHES}u{raw[at]:02x}{raw[at + 1]:02x}" for at in range(0, len(raw), 2))
    python = rf"{_BACKSLASHES}(?:x{ord(sign):02x}|U{ord(sign):08x})"
    names = [f"#0*{ord(sign)}", f"#x0*{ord(sign):x}", codepoint2name.get(ord(sign))]
    entity = f"&(?:amp;)*(?:{'|'.join(filter(None, names))});"
    letter = rf"|{_BACKSLASHES}b" if sign == "\b" else ""
    return rf"(?:(?:{_BACKSLASHES})?(?:(?i:{entity}|{octets})|{re.escape(sign)})|(?i:{units}|{python}){letter})"


def logins_in(body: Any) -> Iterator[str]:
    """The texts of a login at a storage account, whether the body makes a base connection or patches one.

    Of a key in Base64 what it holds, too, and of a connection string each part of it that is a key.
    """
    if isinstance(body, Mapping):
        auth = body.get("auth")
        yield from _texts(auth.get("params") if isinstance(auth, Mapping) else None)
    elif isinstance(body, list):
        for operation in body:
            if str(operation.get("path")).startswith("/auth"):
                yield from _texts(operation.get("value"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            if name != "specName":  # names the way of logging in; Adobe's words about it must stay readable
                yield from _texts(member)
    elif isinstance(value, str):
        yield value
        yield from parts_of(value)


def parts_of(secret: str) -> Iterator[str]:
    """What of a secret could be shown alone: the keys in a connection string, a decoded private key and its lines."""
    for part in secret.split(";"):
        name, is_pair, value = part.partition("=")
        if is_pair and name.strip().lower().endswith(("key", "signature", "password")):
            yield value.strip()
    try:
        decoded = base64.b64decode(secret, validate=True).decode(errors="replace")
    except ValueError:  # not Base64
        decoded = ""
    for text in (secret, decoded):
        if "\n" in text.strip():
            yield text
            yield from (line for line in text.splitlines() if len(line) >= _SHORTEST_LINE and "-----" not in line)
