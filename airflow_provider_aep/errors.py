"""What can go wrong, and whose move it is.

    AepError
    ├── InvalidArgument           the DAG asks for what Adobe does not offer       author
    ├── EntityExists              an entity of that name exists and differs        author
    ├── AmbiguousName             several entities have that name                  author
    ├── ExportChanged             the run may not hold what the task asked for     author
    ├── FlowRunFailed             the run failed, or ended partial or empty        whom its errors name
    ├── SyncFailed                some exports of a list failed                    whom each failure names
    └── ReplyError                a request went wrong
        ├── RequestRefused        Adobe said no                                    author
        │   ├── AccessDenied      credential, organisation, sandbox, permission    administrator
        │   ├── EntityNotFound    no such entity                                   author
        │   ├── VersionConflict   somebody else changed it first                   nobody: retry
        │   ├── RunExists         an ad hoc run, and there is one already          nobody: take that one
        │   └── AdhocRefused      Adobe runs this storage by schedule only         Adobe
        ├── NotReady              an ad hoc run of a dataflow that is too new      nobody: wait
        ├── PlatformUnavailable   Adobe is down or refuses for now                 nobody: retry
        │   └── OutcomeUnknown    the request may have been done                   nobody: look, then retry
        └── UnexpectedReply       Adobe's reply is not as documented               this package's developers

`api.replies` decides which reply is which error.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_aep.api.entities import FlowRun

__all__ = [
    "AccessDenied",
    "AdhocRefused",
    "AepError",
    "AmbiguousName",
    "EntityExists",
    "EntityNotFound",
    "ExportChanged",
    "FlowRunFailed",
    "InvalidArgument",
    "NotReady",
    "OutcomeUnknown",
    "PlatformUnavailable",
    "RequestRefused",
    "RunExists",
    "SyncFailed",
    "UnexpectedReply",
    "VersionConflict",
]


class AepError(Exception):
    """Anything that this package raises on purpose; no instance holds a secret, a header or a body."""

    #: A retry cannot help: somebody has to change something first.
    is_final: ClassVar[bool] = True


class InvalidArgument(AepError, ValueError):
    """The DAG or an Airflow connection asks for something that Adobe does not offer; nothing was sent.

    The author changes the argument or the connection.
    """

    def __init__(self, argument: str, value: object, rule: str) -> None:
        super().__init__(f"{argument} = {value!r}: {rule}")
        self.argument = argument
        self.value = value
        self.rule = rule

    def __reduce__(self) -> tuple[type[InvalidArgument], tuple[str, object, str]]:
        return type(self), (self.argument, self.value, self.rule)


class Hidden(NamedTuple):
    """Stands for a value that an error must not show."""

    length: int

    def __repr__(self) -> str:
        if not self.length:
            return "<empty>"
        return f"<hidden, {self.length} character{'' if self.length == 1 else 's'}>"


class EntityExists(AepError):
    """An entity of this name exists and differs from what the DAG asks for; nothing was changed.

    The author picks another name or `if_exists`, or changes the entity at Adobe.
    """


class AmbiguousName(AepError):
    """Several entities have one name, so it is unknown which is meant. The author deletes or renames all but one."""


class ExportChanged(AepError):
    """A flow run has ended, but it may not hold what the task asked for, since the export was changed meanwhile.

    The author checks the files, or waits for a later run.
    """


class ReplyError(AepError):
    """A request went wrong: what was asked, what Adobe said, and the request ID that Adobe's support will ask for.

    `code` is Adobe's, of whichever service, and `number` the number in it, as the Flow Service error catalogue lists it
    (https://experienceleague.adobe.com/en/docs/experience-platform/sources/errors/flow-service-errors); None if none.
    """

    is_final = False
    #: What the reader may do about it, where Adobe's own words do not say.
    advice: ClassVar[str] = ""

    def __init__(
        self,
        request: str,
        *,
        status: int = 0,
        code: str = "",
        message: str = "",
        request_id: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        self.request = request
        self.status = status
        self.code = code
        self.number = number_of(code)
        self.message = message
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self._text())

    def _text(self) -> str:
        parts = [f"{self.request}:"]
        if self.status:
            parts.append(f"HTTP {self.status}")
        if self.code and self.code not in (str(self.status), self.message):
            parts.append(self.code)
        parts.append(self.message or "no message")
        text = " ".join(parts)
        if self.advice:
            text = f"{text.rstrip('.')}. {self.advice}"
        return f"{text} (Adobe request {self.request_id})" if self.request_id else text

    @classmethod
    def like(cls, error: ReplyError, **changes: Any) -> Self:
        """The same reply as an error of this type."""
        return cls(error.request, **{**error._fields(), **changes})

    def _fields(self) -> dict[str, Any]:
        names = ("status", "code", "message", "request_id", "retry_after_seconds")
        return {name: getattr(self, name) for name in names}

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), self.request, **self._fields()), ()

    def as_event(self) -> dict[str, Any]:
        """The error as plain JSON, to cross from a trigger to a task; `from_event` reads it."""
        fields = {name: getattr(self, name) for name in _EVENT_FIELDS}
        return {"kind": type(self).__name__, "request": self.request, **fields}

    @staticmethod
    def from_event(event: Mapping[str, Any]) -> ReplyError:
        """Raises LookupError if the event is not one of `as_event`."""
        types = {each.__name__: each for each in _with_subtypes(ReplyError)}
        return types[event["kind"]](event["request"], **{name: event[name] for name in _EVENT_FIELDS})


_EVENT_FIELDS = ("status", "code", "message", "request_id")


def _with_subtypes(error: type[ReplyError]) -> list[type[ReplyError]]:
    return [error, *(each for child in error.__subclasses__() for each in _with_subtypes(child))]


def number_of(code: str) -> int | None:
    """1433 for the Flow Service's "FLOW-1433-400", "1433-400" and "1433", 401013 for the gateway's "401013"."""
    found = re.fullmatch(r"(?:FLOW-)?(\d{4}|\d{6})(?:-\d{3})?", code, re.ASCII)
    return int(found[1]) if found else None


class RequestRefused(ReplyError):
    """Adobe understood and said no (4xx but 408 and 429), and will again. The author changes the DAG."""

    is_final = True


class AccessDenied(RequestRefused):
    """Credential, organisation, sandbox or permission is wrong (401, 403). The administrator corrects it."""

    advice = "Check the Airflow connection, the sandbox name, and the technical account's role and permissions"


class EntityNotFound(RequestRefused):
    """Adobe knows no such entity, or an access label hides it (404). The author corrects the ID or the label."""

    advice = "It was deleted, lies in another sandbox, or an access label hides it"


class VersionConflict(RequestRefused):
    """Somebody else changed the entity between our reading and our writing (412). Nobody's move: a retry is safe."""

    is_final = False
    advice = "Somebody else changed it at the same time; trying again is safe"


class RunExists(RequestRefused):
    """Adobe starts no ad hoc run, since the dataflow has one already. Nobody's move: that one is taken instead."""


class AdhocRefused(RequestRefused):
    """Adobe has not allow-listed this kind of storage for ad hoc runs in the organisation. Adobe's move."""

    advice = (
        "Adobe has not allow-listed this storage for ad hoc runs in your organisation, and only Adobe can: ask "
        "your Adobe contact; scheduled runs are not concerned"
    )


class NotReady(ReplyError):
    """No ad hoc run can start yet, mostly since the dataflow is too new, and nothing was started.

    Nobody's move: another try is worth while after `retry_after_seconds`.
    """


class PlatformUnavailable(ReplyError):
    """Adobe, or the way to it, is down or refuses for now; nothing was done. Nobody's move: a retry is safe."""


class OutcomeUnknown(PlatformUnavailable):
    """The request left this machine and no reply to trust came back, so it may have been done.

    Nobody's move: a creation is looked for before it is sent again.
    """


class UnexpectedReply(ReplyError):
    """Adobe answered what its documents do not describe. This package's developers have to look."""

    advice = "Adobe's API may have changed; please report this with the request ID"


class FlowRunFailed(AepError):
    """The run failed, or ended partial or empty where the task does not accept that.

    Its errors say whose move it is; often the storage's administrator's.
    """

    def __init__(self, run: FlowRun, why: str) -> None:
        self.run = run
        self.why = why
        super().__init__(
            f"flow run {run.id} of dataflow {run.dataflow_id} {why} (status {run.raw_status!r}, records read: "
            f"{_count(run.input_records)}, written: {_count(run.output_records)}, failed: "
            f"{_count(run.failed_records)}): {run.problems or 'Adobe gave no error'}"
        )

    def __reduce__(self) -> tuple[type[FlowRunFailed], tuple[FlowRun, str]]:
        return type(self), (self.run, self.why)


class SyncFailed(AepError):
    """Some exports of a list could not be made true; the others are. A retry takes up those that a retry may help."""

    is_final = False


def _count(number: int | None) -> str:
    return "not given" if number is None else str(number)


def first_of(errors: Sequence[BaseException]) -> BaseException:
    """The failure to raise, of several that happened side by side: a refusal says more than an outage."""
    return next((error for error in errors if isinstance(error, RequestRefused)), errors[0])
