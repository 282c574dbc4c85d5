"""Who may call: access tokens as IMS issues them, and the headers that Adobe's API gateway requires.

Source: Adobe's guide "Server to server authentication", and "Platform troubleshooting guide" on required headers.
"""

from __future__ import annotations

import email.message
import email.policy
import math
import secrets
import time
from urllib.parse import parse_qsl

import httpx

from airflow_provider_aep.emulator.errors import flow_error, gateway_error, ims_error, problem
from airflow_provider_aep.emulator.flow_service.store import Sandbox, Store
from airflow_provider_aep.emulator.options import Options

# What Adobe's developer console offers to a server-to-server credential of Experience Platform.
_SCOPES = {"openid", "session", "AdobeID", "read_organizations", "profile", "email", "adobeio_api",
           "additional_info", "additional_info.projectedProductContext", "additional_info.roles",
           "additional_info.job_function", "additional_info.optionalAgreements", "ent_dataservices_sdk",
           "acp.foundation", "acp.foundation.accessControl", "acp.foundation.catalog"}  # fmt: skip


class Gateway:
    """Issues tokens and checks requests. Tokens live on real time, whatever the emulated clock does."""

    def __init__(self, options: Options, store: Store) -> None:
        self._options, self._store = options, store
        self._tokens: dict[str, float] = {}
        self.client_secrets = options.client_secrets
        """Those that IMS takes now."""
        self.issued = 0
        """How many tokens have been issued."""

    def token(self, request: httpx.Request) -> dict[str, object]:
        """POST /ims/token/v2 or v3: the fields in a form body or in the query.

        Raises:
            Refusal: invalid_request, unsupported_grant_type, invalid_client or invalid_scope.
        """
        given = dict(request.url.params.multi_items()) | dict(_form(request))
        for name in ("grant_type", "client_id", "client_secret"):
            if not given.get(name):
                raise ims_error(400, "invalid_request", f"{name} is missing")
        if given["grant_type"] != "client_credentials":
            raise ims_error(400, "unsupported_grant_type", f"grant_type {given['grant_type']} is not supported")
        if given["client_id"] != self._options.client_id:
            raise ims_error(400, "invalid_client", "invalid client_id parameter")
        if given["client_secret"] not in self.client_secrets:
            raise ims_error(401, "invalid_client", "invalid client_secret parameter")
        scopes = {one for one in given.get("scope", "").replace(",", " ").split() if one}
        if not scopes or not scopes <= _SCOPES:
            wrong = ", ".join(sorted(scopes - _SCOPES)) or "none was given"
            raise ims_error(400, "invalid_scope", f"Invalid scope: {wrong}")
        token = f"eyJhbGciOiJSUzI1NiJ9.{secrets.token_urlsafe(48)}.{secrets.token_urlsafe(24)}"
        self._tokens[token] = time.monotonic() + self._options.token_seconds
        self.issued += 1
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": math.floor(self._options.token_seconds),
        }

    def expire_tokens(self) -> None:
        """Invalidate every token issued so far."""
        self._tokens.clear()

    def check_caller(self, request: httpx.Request) -> None:
        """Token, API key, organisation and content type, in the order in which the gateway looks at them.

        Raises:
            Refusal: 403010, 401013, 403000, 403003, 400003, FLOW-2000-401, FLOW-2002-401 or BadRequestError.
        """
        headers = request.headers
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not token:
            raise gateway_error(403, "403010", "Oauth token is missing")
        if scheme.lower() != "bearer" or self._tokens.get(token.strip(), -math.inf) <= time.monotonic():
            raise gateway_error(401, "401013", "Oauth token is not valid")
        if not headers.get("x-api-key"):
            raise gateway_error(403, "403000", "Api Key is required")
        if headers["x-api-key"] != self._options.client_id:
            raise gateway_error(403, "403003", "Api Key is invalid")
        if "x-gw-ims-org-id" not in headers:
            raise gateway_error(400, "400003", "Header x-gw-ims-org-id is required")
        if not headers["x-gw-ims-org-id"]:
            raise flow_error(2001, 401, "The header x-gw-ims-org-id is empty", "Unauthorized")
        if headers["x-gw-ims-org-id"] != self._options.org_id:
            text = f"The token has no access to the organization [{headers['x-gw-ims-org-id']}]"
            raise flow_error(2000, 401, text, "Unauthorized")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.content and not (kind == "application/json" or kind.endswith("+json")):
            raise problem(400, "BadRequestError", "A valid Content-Type is required: application/json")

    def sandbox(self, request: httpx.Request) -> Sandbox:
        """The sandbox that the headers name.

        Raises:
            Refusal: FLOW-2105-400, FLOW-2111-403, FLOW-2100-404 or FLOW-2110-400.
        """
        name = request.headers.get("x-sandbox-name")
        if not name:
            raise flow_error(2105, 400, "The header x-sandbox-name is missing")
        if name == "*":
            raise flow_error(2111, 403, "The wildcard sandbox header is not allowed", "Forbidden")
        found = self._store.sandboxes.get(name)
        if found is None:
            raise flow_error(2100, 404, f"Sandbox [{name}] not found", "Sandbox not found")
        if request.headers.get("x-sandbox-id", found.id) != found.id:
            raise flow_error(2110, 400, "The header x-sandbox-id is not for user tokens")
        return found


def _text(content: object) -> str:
    return content.decode("utf-8", "replace").strip() if isinstance(content, bytes) else ""


def _form(request: httpx.Request) -> list[tuple[str, str]]:
    """The fields of a form body: URL-encoded as Adobe documents it, or multipart as Postman's form-data sends it."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/form-data"):
        parser = email.message_from_bytes(
            f"Content-Type: {kind}\r\n\r\n".encode() + request.content, policy=email.policy.HTTP
        )
        fields = []
        for part in parser.iter_parts():
            name = part.get_param("name", header="content-disposition")
            if isinstance(part, email.message.EmailMessage) and isinstance(name, str):
                fields.append((name, _text(part.get_payload(decode=True))))
        return fields
    return parse_qsl(request.content.decode("utf-8", "replace"), keep_blank_values=True)
