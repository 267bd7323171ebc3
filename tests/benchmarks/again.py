"""A report of which some figures were measured again: what a change is about need not wait for hours of everything else."""

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]


def check_fits(last: Report, mode: str, machine: Report) -> None:
    """Raise ``ValueError`` unless what is measured now stands beside what ``last`` has: in the same way, on the same machine."""
    before = last["mode"], last["machine"]["processor"], last["machine"]["cores"]
    if before != (mode, machine["processor"], machine["cores"]):
        raise ValueError(
            f"The last report is a {before[0]} one of {before[1]} with {before[2]} cores, this one a {mode} one of "
            f"{machine['processor']} with {machine['cores']}: measure everything again."
        )


def replaced(last: Report, new: Report) -> dict[str, Any]:
    """``last`` with what ``new`` has measured in the place of what it had, which it says.

    Each ratio, and each target, is of figures of one session: of ``new`` if that has measured all that it takes, else of
    ``last``.
    """
    names = [figure["name"] for figure in new["figures"]]
    laws = [name for name, law in new["laws"].items() if law["points"]]
    about = {
        "measured_at": new["machine"]["measured_at"],
        "load_before": new["machine"]["load_before"],
        "versions": new["machine"]["versions"],
        "names": [*names, *laws],
    }
    by_name = {figure["name"]: figure for figure in [*last["figures"], *new["figures"]]}
    known = {target["name"]: target for target in new["targets"] if target["value"] is not None}
    before = [target["name"] for target in last["targets"]]
    return {
        **last,
        "figures": list(by_name.values()),
        "laws": {**last["laws"], **{name: new["laws"][name] for name in laws}},
        "targets": [known.get(target["name"], target) for target in last["targets"]]
        + [target for target in new["targets"] if target["name"] not in before],
        "left_out": list(
            dict.fromkeys([*(line for line in last["left_out"] if not _is_of(line, about["names"])), *new["left_out"]])
        ),
        "again": [*last.get("again", []), about],
    }


def _is_of(line: str, names: list[str]) -> bool:
    """Whether a line about what was left out is about one of these figures, whose names may have a colon."""
    return any(line.startswith(f"{name}: ") for name in names)
