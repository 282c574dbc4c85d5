"""Which call may be sent again, after which failure, and when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from airflow_provider_aep.errors import OutcomeUnknown, PlatformUnavailable, ReplyError, refusal

if TYPE_CHECKING:
    from airflow_provider_aep.api.effects import Call
    from airflow_provider_aep.api.settings import Settings
    from airflow_provider_aep.api.wire import Problem

# States in transit right after a creation or an action, which pass by themselves.
# Source: Flow Service error catalogue, 1416, 1417, 1420, 1421, 1444, 1456 to 1458.
_PASSING = frozenset({"1416", "1417", "1420", "1421", "1444", "1456", "1457", "1458"})
_AMBIGUOUS = frozenset({408, 429})
_backoff = wait_exponential_jitter(initial=1, max=30, jitter=1)


def policy(call: Call[Any], settings: Settings) -> dict[str, Any]:
    """Arguments for tenacity's `Retrying` and `AsyncRetrying`.

    A request that never left this machine, or that an entity in transit refused, may always be sent again. One that may
    have been done may be sent again only if doing it twice is doing it once.
    """

    def may_be_sent_again(error: BaseException) -> bool:
        if isinstance(error, OutcomeUnknown):
            return call.repeatable
        return isinstance(error, PlatformUnavailable)

    def wait_seconds(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_seconds if isinstance(error, ReplyError) else None
        if not asked:  # 0 as well, or a date gone by: all attempts would be over in an instant
            return _backoff(state)
        return min(asked, settings.max_retry_after_seconds)

    return {
        "retry": retry_if_exception(may_be_sent_again),
        "wait": wait_seconds,
        "stop": stop_after_attempt(settings.attempts),
        "reraise": True,
    }


def failure_of(
    call: Call[Any], *, status: int, problem: Problem, headers: Mapping[str, str], now: datetime | None = None
) -> ReplyError:
    """What an error reply means for the call that drew it.

    A `Retry-After` that is a date counts from the reply's own `Date`, or from this machine's clock where there is none.
    """
    fields: dict[str, Any] = {
        "status": status,
        "code": problem.code,
        "message": problem.message,
        "request_id": problem.request_id,
    }
    number = problem.code.removeprefix("FLOW-").partition("-")[0]
    error: ReplyError
    if number in _PASSING:
        error = PlatformUnavailable(str(call), **fields)
    elif status in _AMBIGUOUS or status >= 500:
        # What stands between may answer 5xx, or even 429, after the service has done the work, so only a repeatable
        # call is sent again blindly; to look first costs one request.
        error = OutcomeUnknown(str(call), **fields)
    else:
        return refusal(str(call), **fields)
    error.retry_after_seconds = retry_after_seconds(headers.get("Retry-After"), now=now or moment(headers.get("Date")))
    return error


def retry_after_seconds(text: str | None, *, now: datetime | None = None) -> float | None:
    """`Retry-After` as seconds or as an HTTP date; None where it is absent or neither. Source: RFC 9110, 10.2.3."""
    given = (text or "").strip()
    if given.isdecimal():
        return float(given)
    until = moment(given)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds()) if until else None


def moment(text: str | None) -> datetime | None:
    """An HTTP date, which is in UTC whatever zone it lacks; None where it is none."""
    try:
        date = parsedate_to_datetime(text or "")
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError, LookupError, TypeError):  # the standard library's parser fails in several ways
        return None
