"""Which call may be sent again, after which failure, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from airflow_provider_aep.errors import OutcomeUnknown, PlatformUnavailable, ReplyError

if TYPE_CHECKING:
    from airflow_provider_aep.api.effects import Call
    from airflow_provider_aep.api.settings import Settings

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
