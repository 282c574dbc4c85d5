"""How each of Adobe's services words a refusal: status, code and body.

Source of the shapes and codes: Adobe's pages "Flow Service API errors" and "Platform troubleshooting guide", and the
error examples of the destinations OpenAPI.
"""

from __future__ import annotations

from typing import Any

ERRORS = "https://ns.adobe.com/aep/errors/"


class Refusal(Exception):
    """An answer that ends a request: `body` is sent as JSON with `status`; no body, no content."""

    def __init__(self, status: int, body: dict[str, Any] | None, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.headers = headers or {}


def gateway_error(status: int, code: str, message: str) -> Refusal:
    """The API gateway refuses before any service sees the request."""
    return Refusal(status, {"error_code": code, "message": message})


def flow_error(code: int, status: int, text: str, title: str = "Bad request", message: str | None = None) -> Refusal:
    """Flow Service refuses with a code of its catalogue, `FLOW-{code}-{status}`.

    `message` is the extra member that some of its 400s carry.
    """
    code_type = f"{ERRORS}FLOW-{code}-{status}"
    body: dict[str, Any] = {
        "type": code_type,
        "title": title,
        "status": status,
        "report": {"detailed-message": text, "id": f"FLOW-{code}-{status}", "type": code_type},
        "errorMessage": text,
        "errorDetails": text,
    }
    if message is not None:
        body["message"] = message
    return Refusal(status, body)


def invalid(text: str) -> Refusal:
    """A body breaks the schema of its spec: a pattern, a type, an unknown value."""
    return flow_error(1425, 400, text, "Schema validation failed")


def missing(text: str) -> Refusal:
    """A body lacks a required member: 422 in the destinations OpenAPI, in Flow Service's older shape."""
    return Refusal(422, {"errorMessage": text, "errorDetails": text, "report": {"detailed-message": text}})


def too_many(limit: int, sandbox: str) -> Refusal:
    """A sandbox has as many destinations as it may; Adobe documents the limit, and no code for it."""
    text = f"The limit of {limit} destinations is reached in sandbox [{sandbox}]"
    return Refusal(400, {"errorMessage": text, "errorDetails": text, "report": {"detailed-message": text}})


def not_found(collection: str, entity_id: str, *, in_path: bool) -> Refusal:
    """An ID that no entity of this sandbox has; 404 in the path, 400 in a body."""
    text = f"{collection} not found with id = [{entity_id}]"
    return flow_error(1439, 404 if in_path else 400, text, "Resource not found")


def version_mismatch(supplied: str, current: str) -> Refusal:
    text = f"Supplied version=[{supplied}] does not match the current version on entity=[{current}]"
    return flow_error(1404, 412, text, "Precondition failed")


def bad_parameter(text: str, status: int = 400) -> Refusal:
    """The activation service refuses in one sentence."""
    return Refusal(status, {"message": f"Invalid parameter: {text}"})


def problem(status: int, title: str, detail: str) -> Refusal:
    """Any other part of the platform, as a problem document."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Refusal(status, body, {"Content-Type": "application/problem+json"})


def ims_error(status: int, error: str, description: str) -> Refusal:
    return Refusal(status, {"error": error, "error_description": description})
