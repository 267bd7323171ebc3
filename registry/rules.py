"""Business rules: expressions over a payload's fields that must hold, beside what the schema can say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.expressions import Expression, Scope, parse
from event_streaming_bus.registry.violations import Violation

Payload = Mapping[str, Any]


class BusinessRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as it is registered. A payload for which ``rule`` does not hold, or cannot be evaluated, breaks it."""

    name: str
    rule: str
    description: str = ""
    severity: str = "error"


class CompiledRule:
    """One rule, compiled. ``path`` is the place that its violations name: the first field that it reads."""

    def __init__(self, rule: BusinessRule, where: str) -> None:
        if rule.severity not in ("error", "warning"):
            raise SchemaError(f"{where}.severity: expected 'error' or 'warning', got {rule.severity!r}")
        self.rule = rule
        self.expression: Expression = parse(rule.rule, Scope.PAYLOAD, where=f"{where}.rule")
        self._holds: Callable[[Any], Any] = self.expression.compile()
        self.path = min((".".join(path) for path in self.expression.payload_paths if path), default="")

    def broken(self, payloads: Sequence[Payload]) -> list[int]:
        """The indexes of the payloads that break the rule."""
        holds = self._holds
        try:
            return [i for i, payload in enumerate(payloads) if not holds(payload)]
        except Exception:  # it cannot be evaluated for one of them
            return [i for i, payload in enumerate(payloads) if not self._is_kept_by(payload)]

    def _is_kept_by(self, payload: Payload) -> bool:
        try:
            return bool(self._holds(payload))
        except Exception:  # whatever went wrong is the payload's doing: rules cannot do anything else
            return False

    def violation(self, payload: Payload) -> Violation | None:
        """Why a payload breaks the rule; None if it does not."""
        try:
            if self._holds(payload):
                return None
            message = self.rule.description or f"does not hold: {self.rule.rule}"
        except Exception as error:
            message = f"cannot be evaluated: {self.expression.explain(error, payload)}"
        pointer = "".join(f"/{part}" for part in self.path.split(".")) if self.path else ""
        return Violation(self.path, pointer, self.rule.name, message, kind="rule", severity=self.rule.severity)


class RuleSet:
    """Compiled rules. ``where`` names their place for errors."""

    def __init__(self, rules: Sequence[BusinessRule], where: str = "validation_rules.business_rules") -> None:
        self.rules = [CompiledRule(rule, f"{where}[{i}]") for i, rule in enumerate(rules)]
        self._strict = [rule for rule in self.rules if rule.rule.severity == "error"]

    @property
    def fields(self) -> frozenset[str] | None:
        """The top-level fields that rules of severity ``error`` read; None if one reads the whole payload."""
        paths = [path for rule in self._strict for path in rule.expression.payload_paths]
        return frozenset(path[0] for path in paths) if all(paths) else None

    def broken(self, payloads: Sequence[Payload]) -> set[int]:
        """The indexes of the payloads that break a rule of severity ``error``. Quick; ``violations`` tells why."""
        return {i for rule in self._strict for i in rule.broken(payloads)}

    def violations(self, payload: Payload) -> list[Violation]:
        """The rules that do not hold, warnings included."""
        return [found for rule in self.rules if (found := rule.violation(payload)) is not None]
