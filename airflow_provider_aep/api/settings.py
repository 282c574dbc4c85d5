"""Organisation, sandbox, credential, addresses and time limits: what every request to Adobe needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from airflow_provider_aep.errors import Hidden, InvalidArgument

GATEWAY = "https://platform.adobe.io"
IMS = "https://ims-na1.adobelogin.com"
# Source: Adobe developer console, OAuth server-to-server credential with the Experience Platform API.
SCOPES = "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext"
# Source: aepp, https://github.com/adobe/aepp; Adobe's published reference has the call for audiences only.
ADHOC_ACCEPT = "application/vnd.adobe.adhoc.dataset.activation+json; version=1"


@dataclass(frozen=True)
class Settings:
    """One credential in one sandbox of one organisation.

    Raises:
        InvalidArgument: a value cannot be sent as it is; the message never shows the client secret.
    """

    client_id: str
    client_secret: str = field(repr=False)
    org_id: str
    sandbox_name: str = "prod"
    gateway: str = GATEWAY
    ims: str = IMS
    scopes: str = SCOPES
    connect_seconds: float = 10
    read_seconds: float = 65  # Adobe's gateway cuts a call at about 60 s
    max_retry_after_seconds: float = 300
    attempts: int = 6
    # How long an entity may exist before lists show it. Adobe documents nothing; this is a generous guess.
    visibility_seconds: float = 10
    adhoc_accept: str = ADHOC_ACCEPT

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9A-Fa-f]{24}@AdobeOrg", self.org_id):
            # A secret may have been pasted into the wrong field.
            raise InvalidArgument("org_id", Hidden(len(self.org_id)), "must be 24 hexadecimal digits and @AdobeOrg")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,255}", self.sandbox_name):
            raise InvalidArgument(
                "sandbox_name", self.sandbox_name, "must be a sandbox's name: lower-case letters, digits and hyphens"
            )
        if not re.fullmatch(r"[!-~]+", self.client_id):
            raise InvalidArgument(
                "login (client ID)", Hidden(len(self.client_id)), "must be printable ASCII without blanks, not empty"
            )
        if not re.fullmatch(r"[!-~]+", self.client_secret):
            raise InvalidArgument(
                "password (client secret)", "***", "must be printable ASCII without blanks, not empty"
            )
        for name, address, example in (("host (gateway)", self.gateway, GATEWAY), ("ims_host", self.ims, IMS)):
            if not _is_address(address):
                # What stands before an @ may be a password.
                shown = "***" if "@" in address else address
                raise InvalidArgument(name, shown, f"must be an address such as {example}")
        for name, seconds in (
            ("connect_timeout", self.connect_seconds),
            ("read_timeout", self.read_seconds),
            ("max_retry_after", self.max_retry_after_seconds),
        ):
            if not 0 < seconds < 86_400:
                raise InvalidArgument(name, seconds, "must be seconds, more than 0 and less than a day")
        if not re.fullmatch(r"[!-~]+( [!-~]+)*", self.adhoc_accept):
            raise InvalidArgument("adhoc_accept", self.adhoc_accept, f"must be a media type such as {ADHOC_ACCEPT}")
        if not 0 <= self.visibility_seconds < 86_400:
            rule = "must be seconds, 0 or more and less than a day"
            raise InvalidArgument("visibility_seconds", self.visibility_seconds, rule)

    @property
    def who(self) -> tuple[str, str, str]:
        """Whom an access token stands for: address of IMS, client ID and scopes."""
        return (self.ims, self.client_id, self.scopes)

    @property
    def where(self) -> tuple[str, str, str, str]:
        """Whose flow runs a list holds: gateway, organisation, sandbox and client ID."""
        return (self.gateway, self.org_id, self.sandbox_name, self.client_id)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not close
        return False
    return bool(whole) and text.isascii() and text.isprintable() and not re.search(r"[\s?#@\\]", text)
