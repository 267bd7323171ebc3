"""Query parameters that a route does not know: refused by name, so that a slip of the pen is no filter that is left out. And
integers that no store could hold."""

import difflib
import re
from typing import Any, Final

from litestar import Request

from event_streaming_bus.errors import InvalidInputError

API: Final = "/api/"
_INTEGER: Final = re.compile(r"\bint\b")
_LONG: Final = re.compile(r"\s*[-+]?[0-9_.]{19,}\s*")
# The tenant of a connection that cannot set headers, and what administrators of all tenants ask with.
_EVERYWHERE: Final = frozenset({"tenant_id"})
_NOT_QUERY: Final = frozenset({"self", "request", "services", "scope", "state", "headers", "cookies", "body", "data", "return"})


def check_query(request: Request[Any, Any, Any]) -> None:
    """Raise ``InvalidInputError`` for a query parameter that the request's route does not have."""
    given = request.query_params.keys()
    if not given or not request.scope.get("path_template", "").startswith(API):
        return
    known = _known(request)
    for name in given:
        if name in _EVERYWHERE:
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f" (accepted: {', '.join(sorted(known)) or 'none'})"
            raise InvalidInputError(f"{name[:100]}: this address has no such query parameter{hint}", path=name[:100])
        if known[name] and any(_LONG.fullmatch(value) for value in request.query_params.getall(name)):
            raise InvalidInputError(f"{name}: expected an integer of at most 18 digits", path=name)


def _known(request: Request[Any, Any, Any]) -> dict[str, bool]:
    """The parameters of the request's route: whether they are integers."""
    handler: Any = request.route_handler
    known = {}
    for name, field in handler.parsed_fn_signature.parameters.items():
        if name not in _NOT_QUERY and name not in request.path_params:
            known[getattr(field.kwarg_definition, "name", None) or name] = _INTEGER.search(str(field.annotation)) is not None
    return known
