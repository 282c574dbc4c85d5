"""What can go wrong, named by whose move it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_aep.api.entities import FlowRun, RunError

__all__ = [
    "AccessDenied",
    "AepError",
    "AmbiguousName",
    "EntityExists",
    "EntityNotFound",
    "ExportChanged",
    "FlowRunFailed",
    "InvalidArgument",
    "OutcomeUnknown",
    "PlatformUnavailable",
    "RequestRefused",
    "UnexpectedReply",
    "VersionConflict",
]


class AepError(Exception):
    """Anything that this package raises on purpose; no instance holds a secret, a header or a body."""

    #: Trying the same again cannot help: somebody has to change something first.
    is_final: ClassVar[bool] = True


class InvalidArgument(AepError, ValueError):
    """The DAG asks for something that Adobe does not offer. The author's move; nothing was sent."""

    def __init__(self, argument: str, value: object, rule: str) -> None:
        super().__init__(f"{argument} = {value!r}: {rule}")
        self.argument = argument
        self.value = value
        self.rule = rule

    def __reduce__(self) -> tuple[type[InvalidArgument], tuple[str, object, str]]:
        return type(self), (self.argument, self.value, self.rule)


class EntityExists(AepError):
    """An entity of this name exists, and it may not be used or cannot be changed as asked.

    The author's move: another name, another `if_exists`, or a change of the entity. Nothing was changed.
    """


class AmbiguousName(AepError):
    """Several entities bear one name, and which is meant cannot be known. Somebody has to delete or rename one."""


class ReplyError(AepError):
    """A request that ended badly: what was asked, what Adobe said, and the ID to give to Adobe's support."""

    is_final = False
    retry_after_seconds: float | None = None

    def __init__(
        self, request: str, *, status: int = 0, code: str = "", message: str = "", request_id: str = ""
    ) -> None:
        self.request = request
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id
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

    #: What the reader may do about it, where Adobe's own words do not say.
    advice: ClassVar[str] = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.request, self.status, self.code, self.message, self.request_id)

    def as_event(self) -> dict[str, Any]:
        """The error as plain JSON, to cross from a trigger to a task; `from_event` reads it."""
        fields = {name: getattr(self, name) for name in ("request", "status", "code", "message", "request_id")}
        return {"kind": type(self).__name__, **fields}

    @staticmethod
    def from_event(event: Mapping[str, Any]) -> ReplyError:
        """Raises LookupError where the event is not what `as_event` makes."""
        kind = {each.__name__: each for each in _kinds(ReplyError)}[event["kind"]]
        return _rebuilt(kind, *(event[name] for name in ("request", "status", "code", "message", "request_id")))


def _kinds(kind: type[ReplyError]) -> list[type[ReplyError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _kinds(child))]


def _rebuilt(kind: type[ReplyError], request: str, status: int, code: str, message: str, request_id: str) -> ReplyError:
    return kind(request, status=status, code=code, message=message, request_id=request_id)


class RequestRefused(ReplyError):
    """Adobe understood and said no (4xx but 408 and 429): sending it again will not help, a DAG must change."""

    is_final = True


class AccessDenied(RequestRefused):
    """Credential, organisation, sandbox or permission is wrong (401, 403, IMS's 400). The administrator's move."""

    advice = "Check the Airflow connection, the sandbox name, and the technical account's role and permissions"


class EntityNotFound(RequestRefused):
    """Adobe knows no such entity, or an access label hides it (404; FLOW-1439-404 means either)."""

    advice = "It was deleted, lies in another sandbox, or an access label hides it"


class VersionConflict(RequestRefused):
    """The entity changed between reading and writing it (412)."""

    is_final = False
    advice = "Somebody else changed it at the same time; trying again is safe"


class PlatformUnavailable(ReplyError):
    """Adobe or the way to it is down or refuses for now. Nobody's move: trying later is safe."""


class OutcomeUnknown(PlatformUnavailable):
    """The request left this machine and no trustworthy reply came: it may have been done.

    It is never sent again without looking for what it may have made.
    """


class UnexpectedReply(ReplyError):
    """Adobe answered something that its documents do not describe. The developers' move."""

    advice = "Adobe's API may have changed; please report this with the request ID"


class ExportChanged(AepError):
    """A flow run has ended, and it cannot be told that it exported what its task asked for. The author's move."""


class FlowRunFailed(AepError):
    """The run ended, and not as the user wants it: failed, partial or empty."""

    def __init__(self, run: FlowRun, why: str) -> None:
        self.run = run
        self.why = why
        problems = "; ".join(filter(None, map(_problem, run.errors))) or "Adobe gave no error"
        super().__init__(
            f"flow run {run.id} of dataflow {run.dataflow_id} {why} (status {run.raw_status!r}, records read: "
            f"{_told(run.input_records)}, written: {_told(run.output_records)}, failed: {_told(run.failed_records)}): "
            f"{problems}"
        )

    def __reduce__(self) -> tuple[type[FlowRunFailed], tuple[FlowRun, str]]:
        return type(self), (self.run, self.why)


def _told(number: int | None) -> str:
    """A number of Adobe's, which may not have given it."""
    return "not given" if number is None else str(number)


def _problem(problem: RunError) -> str:
    """Code and message, either of which may be missing or be part of the other."""
    if problem.code in problem.message:
        return problem.message
    return f"{problem.code}: {problem.message}" if problem.message else problem.code


# What IMS says, with 400 or 401, of a credential that is wrong. Source: RFC 6749, 5.2; Adobe IMS guide.
_WRONG_CREDENTIAL = frozenset({"invalid_client", "unauthorized_client", "invalid_grant", "invalid_scope"})
# "Resource not found", in print with status 404 and with 400. Source: Flow Service error catalogue, 1439.
_NOT_FOUND = frozenset({"FLOW-1439-404", "FLOW-1439-400", "1439-404", "1439-400"})
# "Sandbox not found", all with status 404. Source: Flow Service error catalogue.
_NO_SANDBOX = frozenset({"2100", "2101", "2103", "2106"})


def is_about_sandbox(code: str) -> bool:
    """Whether Adobe says that it knows no such sandbox."""
    return code.removeprefix("FLOW-").partition("-")[0] in _NO_SANDBOX


def refusal(request: str, status: int, *, code: str, message: str, request_id: str) -> RequestRefused:
    """The refusal that belongs to an HTTP status; 401 and 403 are one case, since Adobe mixes them.

    IMS refuses an unknown client ID with 400, which is no less the administrator's move than a wrong secret.
    """
    kinds: Mapping[int, type[RequestRefused]] = {
        401: AccessDenied,
        403: AccessDenied,
        404: EntityNotFound,
        412: VersionConflict,
    }
    kind = kinds.get(status, RequestRefused)
    if code in _WRONG_CREDENTIAL or is_about_sandbox(code):
        kind = AccessDenied
    elif code in _NOT_FOUND:
        kind = EntityNotFound
    return kind(request, status=status, code=code, message=message, request_id=request_id)


def first_of(errors: Sequence[BaseException]) -> BaseException:
    """Of failures that happened side by side, the one to raise: a refusal says more than an outage."""
    return next((error for error in errors if isinstance(error, RequestRefused)), errors[0])
