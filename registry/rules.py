"""Business rules: expressions over a payload's fields that must hold, beside what the schema can say."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.expressions import Expression, Scope, parse
from event_streaming_bus.registry.violations import Violation


class BusinessRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as it is registered. A payload for which ``rule`` does not hold, or cannot be evaluated, breaks it."""

    name: str
    rule: str
    description: str = ""
    severity: str = "error"


class RuleSet:
    """Compiled rules. ``where`` names their place for errors."""

    def __init__(self, rules: Sequence[BusinessRule], where: str = "validation_rules.business_rules") -> None:
        self._rules: list[tuple[BusinessRule, Expression]] = []
        for i, rule in enumerate(rules):
            if rule.severity not in ("error", "warning"):
                raise SchemaError(f"{where}[{i}].severity: expected 'error' or 'warning', got {rule.severity!r}")
            self._rules.append((rule, parse(rule.rule, Scope.PAYLOAD, where=f"{where}[{i}].rule")))
        self._holds = [expression.compile() for rule, expression in self._rules if rule.severity == "error"]

    def hold(self, payload: Mapping[str, Any]) -> bool:
        """Whether every rule of severity ``error`` holds. Quick; ``violations`` tells why not."""
        try:
            return all(holds(payload) for holds in self._holds)
        except Exception:  # a rule that cannot be evaluated does not hold
            return False

    def violations(self, payload: Mapping[str, Any]) -> list[Violation]:
        """The rules that do not hold, warnings included."""
        found = []
        for rule, expression in self._rules:
            try:
                if expression.compile()(payload):
                    continue
                message = rule.description or f"does not hold: {rule.rule}"
            except Exception as error:  # whatever went wrong is the payload's doing: rules cannot do anything else
                message = f"cannot be evaluated: {expression.explain(error, payload)}"
            path = min((".".join(p) for p in expression.payload_paths if p), default="")
            pointer = "".join(f"/{part}" for part in path.split(".")) if path else ""
            found.append(Violation(path, pointer, rule.name, message, kind="rule", severity=rule.severity))
        return found
