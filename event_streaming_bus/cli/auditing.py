"""Recording commands in the audit: those that manage a data folder, by whom, and how they ended.

Which commands these are is said here and not beside each of them, so that one page shows what is recorded, and what is not: every
command is in one of the two tables.
"""

import functools
import os
import pwd
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import click

from event_streaming_bus.errors import BusError, StorageError


class Audited(NamedTuple):
    """A command's name in the audit, and which of its parameters names what it is about: all that were given, without one, and
    what the command returns, for ``RESULT``. ``only_with``: it manages something only if this parameter is given."""

    action: str
    target: str | None = None
    only_with: str | None = None


RESULT: Final = "(result)"
AUDITED: Final[Mapping[tuple[str, ...], Audited]] = {
    ("aggregates", "archive"): Audited("aggregate.archive", "aggregate_ids"),
    ("aggregates", "delete"): Audited("aggregate.delete", "aggregate_id"),
    ("aggregates", "restore"): Audited("aggregate.restore", "aggregate_ids"),
    ("aggregates", "retention"): Audited("aggregate.set-retention", "aggregate_type"),
    ("aggregates", "scavenge"): Audited("aggregate.scavenge", "aggregate_type"),
    ("backup",): Audited("backup.create", "target"),
    ("dead-letters", "drop"): Audited("dead-letter.drop"),
    ("dead-letters", "retry"): Audited("dead-letter.retry"),
    ("erase",): Audited("erasure.create", RESULT),  # its subject is to be forgotten here too
    ("erasures", "reapply"): Audited("erasure.reapply"),
    ("groups", "create"): Audited("group.create", "name"),
    ("groups", "delete"): Audited("group.delete", "group"),
    ("groups", "pause"): Audited("group.pause", "group"),
    ("groups", "rebalance"): Audited("group.rebalance", "group"),
    ("groups", "reset"): Audited("group.reset-offsets", "group"),
    ("groups", "resume"): Audited("group.resume", "group"),
    ("history", "rebuild"): Audited("history.rebuild"),
    ("history", "roll-off"): Audited("history.roll-off"),
    ("projections", "apply"): Audited("projection.apply", "file"),
    ("projections", "delete"): Audited("projection.delete", "name"),
    ("projections", "pause"): Audited("projection.pause", "name"),
    ("projections", "rebuild"): Audited("projection.rebuild", "name"),
    ("projections", "resume"): Audited("projection.resume", "name"),
    ("routes", "apply"): Audited("route.apply", "file"),
    ("routes", "remove"): Audited("route.delete", "name"),
    ("routes", "set"): Audited("route.set", "name"),
    ("run",): Audited("flow.start", "file"),
    ("scheduled", "cancel"): Audited("scheduled-event.delete", "event_ids"),
    ("schemas", "activate"): Audited("schema.activate", "reference"),
    ("schemas", "apply"): Audited("schema.apply", "folder"),
    ("schemas", "deactivate"): Audited("schema.deactivate", "reference"),
    ("schemas", "delete"): Audited("schema.delete", "reference"),
    ("schemas", "deprecate"): Audited("schema.deprecate", "reference"),
    ("schemas", "level"): Audited("schema.set-level", "words"),
    ("schemas", "register"): Audited("schema.register", "files"),
    ("settings", "reset"): Audited("setting.delete", "name"),
    ("settings", "set"): Audited("setting.set", "name"),
    ("sql",): Audited("saved-query.set", "save_as", only_with="save_as"),
    ("stream", "create"): Audited("stream.create", "name"),
    ("stream", "drop"): Audited("stream.delete", "name"),
    ("stream", "grow"): Audited("stream.grow", "name"),
    ("tokens", "create"): Audited("token.create", "principal"),
    ("tokens", "revoke"): Audited("token.revoke", "token"),
}
UNTOLD: Final = frozenset(
    {
        # Questions.
        *(("aggregates", name) for name in ("events", "list", "show", "verify")),
        *(("audit", name) for name in ("checkpoint", "export", "key", "list", "verify")),
        *(("dead-letters", name) for name in ("list", "show")),
        *(("erasures", name) for name in ("list", "report", "verify")),
        *(("groups", name) for name in ("describe", "lag", "list", "members")),
        ("history", "status"),
        *(("plan", name) for name in ("diff", "show")),
        *(("projections", name) for name in ("list", "rows", "show", "skipped", "sql")),
        *(("routes", name) for name in ("list", "show", "try")),
        ("scheduled", "list"),
        ("settings", "list"),
        *(("schemas", name) for name in ("check", "diff", "export", "list", "show", "try", "validate")),
        *(("stream", name) for name in ("describe", "list")),
        ("tokens", "list"),
        *(("check",), ("dry-run",), ("graph",), ("read",), ("test",), ("trace",), ("version",), ("why",)),
        # What publishes and appends is in the log itself.
        *(("aggregates", "append"), ("publish",)),
        # They record themselves: in the audit of the log that is carried to, and of the folder that was repaired or restored.
        *(("doctor",), ("migrate",), ("restore",)),
        # The audit lies in the database itself, and before these there is none; it tells by itself when it was upgraded.
        *(("db", name) for name in ("import", "status", "upgrade")),
        # Servers record what is asked of them; what keeps read models up to date changes nothing that somebody has set.
        *(("projections", "run"), ("registry",), ("serve",)),
    }
)
"""The commands that leave nothing in the audit."""
_QUESTIONS: Final = ("yes", "as_json")
_BEGUN: Final = "event_streaming_bus.audit.begun"


def audited(name: str, command: click.Command) -> click.Command:
    """The command, or group of them, recorded in the audit where it manages something."""
    for path, inner in commands_of(name, command):
        what = AUDITED.get(path)
        if what is not None and inner.callback is not None and not hasattr(inner.callback, "audited"):
            inner.callback = _recorded(what, inner.callback)
    return command


def commands_of(name: str, command: click.Command) -> list[tuple[tuple[str, ...], click.Command]]:
    """The command, or those of a group, each with the words that call it."""
    if isinstance(command, click.Group):
        return [((name, sub), inner) for sub, inner in command.commands.items()]
    return [((name,), command)]


def begun() -> None:
    """Record the command that runs as done now, and not when it ends: what goes on for days is to be seen meanwhile."""
    record: Callable[[], None] | None = click.get_current_context().meta.pop(_BEGUN, None)
    if record is not None:
        record()


def os_user() -> str:
    """Who runs this process, as the system has it: not as the environment says, which anybody can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _recorded(what: Audited, callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*args: Any, **given: Any) -> Any:
        if _is_question(what, given):
            return callback(*args, **given)
        noun, target = what.action.partition(".")[0], _target(what, given)
        before = _describe(noun, target)
        waiting = click.get_current_context().meta
        waiting[_BEGUN] = lambda: _record(what.action, target, outcome="DONE", before=before, after=_describe(noun, target))
        try:
            result = callback(*args, **given)
        except BaseException as error:
            if waiting.pop(_BEGUN, None) is not None:
                _record(what.action, target, outcome=_outcome(error), reason=_reason(error))
            raise
        if what.target == RESULT:
            target = _told(result)
        begun()
        return result

    run.audited = True  # type: ignore[attr-defined]
    return run


def _is_question(what: Audited, given: Mapping[str, Any]) -> bool:
    """Whether a command that can manage something is called so that it does not."""
    if given.get("dry_run") or (what.only_with is not None and given.get(what.only_with) is None):
        return True
    return what.action == "schema.set-level" and len(given.get("words") or ()) == _asks_level(given)


def _asks_level(given: Mapping[str, Any]) -> int:
    """How many words ``esb schemas level`` has when it only asks."""
    return 0 if given.get("every") else 1


def _target(what: Audited, given: Mapping[str, Any]) -> str:
    if what.target is None:
        chosen = {name: value for name, value in given.items() if value and name not in _QUESTIONS}
        return ", ".join(f"{name}={_told(value)}" for name, value in chosen.items())
    return "" if what.target == RESULT else _told(given[what.target])


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str("" if value is None else value)


def _outcome(error: BaseException) -> str:
    refused = isinstance(error, BusError) and not isinstance(error, StorageError)
    return "REFUSED" if refused or isinstance(error, click.UsageError) else "FAILED"


def _reason(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error) or type(error).__name__


def _describe(noun: str, target: str) -> Any:
    from event_streaming_bus.audit.describing import describe

    settings = click.get_current_context().obj
    storage = _existing()
    return None if storage is None else describe(storage, noun, settings.tenant, target)


def _record(action: str, target: str, **how: Any) -> None:
    from event_streaming_bus.audit.service import AuditService
    from event_streaming_bus.store.audit_entries import Outcome

    storage = _existing()
    if storage is None:
        return  # nothing was made: there is nothing whose audit it would be in
    audit = AuditService(storage)
    try:
        how["outcome"] = Outcome(how["outcome"])
        audit.record(action, tenant_id=click.get_current_context().obj.tenant, actor=f"cli:{os_user()}", target=target, **how)
    finally:
        audit.close()


def _existing() -> Any:
    from event_streaming_bus.store.storage import data_folder, open_storage

    data = click.get_current_context().obj.data
    return open_storage(data) if (data_folder(data) / "log.db").exists() else None
