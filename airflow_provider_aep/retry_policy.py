"""A `retry_policy` for your own tasks that use `AepHook`: it retries only what a retry can cure."""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_aep.errors import (
    AmbiguousName,
    EntityExists,
    ExportChanged,
    FlowRunFailed,
    InvalidArgument,
    NotReady,
    PlatformUnavailable,
    RequestRefused,
    SyncFailed,
    UnexpectedReply,
    VersionConflict,
)

try:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
except ImportError:
    raise ImportError(
        "airflow_provider_aep.retry_policy needs Airflow 3.3 or later, the first with retry policies; operators and "
        "sensor need none: on every version they retry only what a retry can cure"
    ) from None

__all__ = ["AEP_RETRY_POLICY"]

#: Decides as the operators do by themselves, by whose move it is; the first rule that fits counts. An error that is not
#: this provider's is left to the task's `retries`, which also says how often the others are tried again.
AEP_RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(VersionConflict, RetryAction.RETRY, reason="somebody else changed it at the same time"),
        RetryRule(
            [RequestRefused, InvalidArgument, EntityExists, AmbiguousName, ExportChanged, FlowRunFailed],
            RetryAction.FAIL,
            reason="another try would end the same",
        ),
        # Adobe asks for ten minutes, which a dataflow takes at first. Source: see `api.runs.adhoc`.
        RetryRule(NotReady, RetryAction.RETRY, retry_delay=timedelta(minutes=10), reason="the dataflow is too new"),
        RetryRule(PlatformUnavailable, RetryAction.RETRY, reason="Adobe is down or refuses for now"),
        RetryRule(SyncFailed, RetryAction.RETRY, reason="an outage kept some exports of the list from being set up"),
        RetryRule(UnexpectedReply, RetryAction.RETRY, reason="Adobe's reply is not as documented"),
    ]
)
