"""What a reply means: the value of a good one, or the error of a bad one; decided here and nowhere else.

Sources, by the names used below:
error catalogue: https://experienceleague.adobe.com/en/docs/experience-platform/sources/errors/flow-service-errors
troubleshooting guide: https://experienceleague.adobe.com/en/docs/experience-platform/landing/troubleshooting
destinations OpenAPI: https://developer.adobe.com/experience-platform-apis/references/destinations/
aepp: https://github.com/adobe/aepp, Adobe's own client
IMS guide: https://developer.adobe.com/developer-console/docs/guides/authentication/ServerToServerAuthentication/IMS
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_provider_aep.api.wire import EmptyList
from airflow_provider_aep.errors import (
    AccessDenied,
    AdhocRefused,
    EntityNotFound,
    NotReady,
    OutcomeUnknown,
    PlatformUnavailable,
    ReplyError,
    RequestRefused,
    RunExists,
    UnexpectedReply,
    VersionConflict,
    number_of,
)

if TYPE_CHECKING:
    from airflow_provider_aep.api.effects import Call

T = TypeVar("T")

_MOST_CHARACTERS = 1000
_NOT_JSON = object()

# Numbers of the error catalogue. States in transit, right after a creation or an action, pass by themselves.
_IN_TRANSIT = frozenset({1416, 1417, 1420, 1421, 1444, 1456, 1457, 1458})
_NOT_FOUND = 1439  # in print with status 404 and with 400
_NO_SANDBOX = frozenset({2100, 2101, 2103, 2106})
_NO_TOKEN = frozenset({2114, 2115})  # with status 400

# What IMS says, with 400 or 401, of a wrong credential. Source: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
_WRONG_CREDENTIAL = frozenset({"invalid_client", "unauthorized_client", "invalid_grant", "invalid_scope"})
# 401 and 403 are one case, since Adobe mixes them.
_REFUSALS: Mapping[int, type[RequestRefused]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: EntityNotFound,
    412: VersionConflict,
}
# The ad hoc call gives no code, only {"message": …}, with a status that is documented nowhere; so Adobe's words decide,
# in lower case. Source: aepp; destinations OpenAPI, POST adhocrun, for the second words of a run that is there already.
_IN_WORDS: Mapping[str, type[ReplyError]] = {
    "not ready for dataset export": NotReady,
    "run already exists": RunExists,
    "run already going on": RunExists,
    "adhoc run can not be executed for flow spec": AdhocRefused,
}


class Reply(NamedTuple):
    """A reply as it came; `headers` ignore letter case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def value_of(call: Call[T], reply: Reply, *, hide: Callable[[str], str] = str, sandbox_name: str = "") -> T:
    """What `call.read` makes of a success.

    `hide` cuts secrets out of Adobe's words; `sandbox_name` is added to an error about the sandbox that lacks it.

    Raises:
        ReplyError: it is no success; it cannot be read (OutcomeUnknown); it lacks what it must hold (UnexpectedReply).
    """
    error = error_of(str(call), reply, hide=hide, sandbox_name=sandbox_name)
    if error:
        raise error
    fields: dict[str, Any] = {"status": reply.status, "request_id": reply.headers.get("x-request-id", "")}
    unreadable = OutcomeUnknown(str(call), message="the reply is cut off or is not JSON", **fields)
    if call.read is None:
        if reply.body.strip() and not _plain_text(reply.body):
            raise unreadable
        return None  # type: ignore[return-value]  # a call without `read` is a Call[None]
    payload = _decoded(reply.body)
    if payload is _NOT_JSON:
        raise unreadable
    try:
        return call.read(payload)
    except EmptyList as empty:
        raise EntityNotFound(str(call), message=str(empty), **fields) from None
    except UnexpectedReply as unread:
        raise UnexpectedReply(str(call), message=f"{unread.request} {unread.message}", **fields) from unread
    except (LookupError, TypeError, ValueError, AttributeError) as missing:
        told = _error(str(call), reply, hide=hide, sandbox_name=sandbox_name)
        if type(told) in _IN_WORDS.values():  # a refusal with the status of a success
            raise told from None
        message = f"the reply lacks what it must hold ({type(missing).__name__}: {missing})"
        raise UnexpectedReply(str(call), message=message, **fields) from missing


def error_of(
    request: str, reply: Reply, *, hide: Callable[[str], str] = str, sandbox_name: str = ""
) -> ReplyError | None:
    """The error that a reply is, or None for a success (any 2xx). Parameters as of `value_of`."""
    if 200 <= reply.status < 300:
        return None
    request_id = reply.headers.get("x-request-id", "")
    if reply.status < 400:
        message = "a redirect; none is followed, since the token would go along"
        return UnexpectedReply(request, status=reply.status, message=message, request_id=request_id)
    return _error(request, reply, hide=hide, sandbox_name=sandbox_name)


def _error(request: str, reply: Reply, *, hide: Callable[[str], str], sandbox_name: str) -> ReplyError:
    request_id = reply.headers.get("x-request-id", "")
    problem = read_problem(reply.body, status=reply.status, request_id=request_id)
    message = shortened(hide(problem.message))
    number = number_of(problem.code)
    if number in _NO_SANDBOX and not re.search(rf"\b{re.escape(sandbox_name)}\b", message):
        message = f"{message} (sandbox {sandbox_name!r})"
    error = _type_of(reply.status, problem.code, number, message)(
        request,
        status=reply.status,
        code=shortened(problem.code),
        message=message,
        request_id=shortened(problem.request_id),
    )
    if isinstance(error, PlatformUnavailable):
        now = http_date(reply.headers.get("Date"))
        error.retry_after_seconds = retry_after_seconds(reply.headers.get("Retry-After"), now=now)
    return error


def _type_of(status: int, code: str, number: int | None, message: str) -> type[ReplyError]:
    for words, error in _IN_WORDS.items():
        if words in message.lower():
            return error
    if number in _IN_TRANSIT:
        return PlatformUnavailable
    if status in (408, 429) or status >= 500:
        # What stands between may answer 5xx, or even 429, after the service has done the work, so only a repeatable
        # call is sent again blindly; to look first costs one request.
        return OutcomeUnknown
    # IMS refuses an unknown client ID with 400, which is no less the administrator's move than a wrong secret.
    if code in _WRONG_CREDENTIAL or number in _NO_SANDBOX:
        return AccessDenied
    return EntityNotFound if number == _NOT_FOUND else _REFUSALS.get(status, RequestRefused)


def refuses_token(error: ReplyError) -> bool:
    """Whether the token has ended or is no good, so that a new one is worth a try: 401, or the Flow Service's own 400.

    Source: troubleshooting guide, "Request header errors" (401013); error catalogue, 2114 and 2115.
    """
    return error.status == 401 or error.number in _NO_TOKEN


class Problem(NamedTuple):
    """What an error reply says, whichever of Adobe's services wrote it; `shortened` makes it fit into a log."""

    code: str
    message: str
    request_id: str


def read_problem(body: bytes, *, status: int, request_id: str) -> Problem:
    """Read any of the error shapes: gateway, Flow Service old and new, problem+json, error chain, IMS, HTML, nothing.

    Source: destinations OpenAPI, responses 400 to 500; error catalogue; troubleshooting guide; IMS guide.
    """
    raw = _decoded(body)
    if not isinstance(raw, dict):
        return Problem("", _plain_text(body) or "no JSON in the reply", request_id)
    report = raw.get("report")
    report = report if isinstance(report, dict) else {}
    chain = raw.get("error-chain")
    chain = chain if isinstance(chain, list) and chain else [{}]
    type_uri = str(raw.get("type") or "")
    code = _first(
        raw.get("error_code"),
        type_uri.rpartition("/errors/")[2] if "/errors/" in type_uri else "",
        raw.get("errorCode"),
        raw.get("error"),
        chain[0].get("errorCode") if isinstance(chain[0], dict) else "",
        status,
    )
    message = _first(
        raw.get("message"),
        _joined([str(raw[name]) for name in ("errorMessage", "errorDetails") if raw.get(name)]),
        report.get("detailed-message"),
        raw.get("detail"),
        raw.get("title"),
        raw.get("error_description"),
    )
    return Problem(code, message, _first(report.get("request-id"), request_id))


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _joined(texts: Sequence[str]) -> str:
    """ "what: details", or only the longer of the two where it holds the other."""
    kept = [each for each in dict.fromkeys(texts) if not any(each in other for other in texts if other != each)]
    return ": ".join(kept)


def _first(*candidates: object) -> str:
    """The first that says something, on one line."""
    texts = (" ".join(str(candidate).split()) for candidate in candidates if candidate)
    return next((text for text in texts if text), "")


def _plain_text(body: bytes) -> str:
    """The text of a reply on one line; "" for none, and for the page of some proxy in between."""
    text = " ".join(body.decode("utf-8", "replace").split())
    return "" if text.startswith(("<", "\ufeff<")) else text


def shortened(text: str) -> str:
    """A length that a log can bear; to be cut only when secrets are out, or the half of one could stay."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


def retry_after_seconds(text: str | None, *, now: datetime | None = None) -> float | None:
    """`Retry-After` in seconds; None where it is absent or neither a number nor an HTTP date.

    A date counts from the reply's own `Date`, given as `now`, or from this machine's clock where there is none.
    Source: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    stripped = (text or "").strip()
    if stripped.isdecimal():
        return float(stripped)
    until = http_date(stripped)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds()) if until else None


def http_date(text: str | None) -> datetime | None:
    """An HTTP date, which is in UTC whatever zone it lacks; None where it is none."""
    try:
        date = parsedate_to_datetime(text or "")
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError, LookupError, TypeError):  # the standard library's parser fails in several ways
        return None
