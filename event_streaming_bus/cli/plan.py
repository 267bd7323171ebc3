"""``esb plan``: what a flow holds, and what a change of it does to what it holds."""

from pathlib import Path
from typing import Final

import click
import msgspec

from event_streaming_bus.cli.main import Settings
from event_streaming_bus.cli.tables import print_table, printable
from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.graph import graph_of
from event_streaming_bus.flows.kept_flow import kept_flow
from event_streaming_bus.flows.plan_diff import Allowed, Step, diff, exit_code
from event_streaming_bus.flows.processors import has_state
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, load_flow

_WAYS: Final = {
    0: "all state is kept",
    1: "state would be lost: esb run refuses this flow",
    3: "some state must be rebuilt: esb run wants --rebuild NAME, and writes all of the flow's output again",
}


@click.group()
def plan() -> None:
    """Say what a flow holds, and what a changed one does to its state. Nothing is run or made."""


@plan.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per processor.")
def show(file: str, as_json: bool) -> None:
    """Show what each processor of the flow in FILE reads, does, holds and writes."""
    spec = load_flow(file)
    summaries = {node.name: node.summary for node in graph_of(spec).nodes}
    rows = [_shown(processor, summaries[processor.processor_name]) for processor in spec.processors]
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    print_table(list(rows[0]), [list(row.values()) for row in rows])


def _shown(processor: ProcessorSpec, summary: str) -> dict[str, str | None]:
    return {
        "processor": processor.processor_name,
        "type": processor.processor_type.value,
        "reads": ", ".join(processor.sources.values()),
        "does": summary,
        "state": processor.state_name if has_state(processor) else None,
        "writes": processor.target_stream_id,
    }


@plan.command(name="diff")
@click.argument("files", metavar="[OLD] NEW", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--drop-state", metavar="NAME", multiple=True, help="The state of NAME may be given up.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per processor.")
@click.pass_obj
def diff_(settings: Settings, files: tuple[str, ...], drop_state: tuple[str, ...], as_json: bool) -> int:
    """Say for every processor what becomes of its state when the flow in NEW takes the place of the one in OLD.

    Without OLD: of the flow as it last ran, by the data folder.

    Exit code 0: all state is kept; 3: some must be rebuilt; 1: some would be lost.
    """
    if len(files) > 2:
        raise click.UsageError(f"expected one or two files, got {len(files)}")
    new = load_flow(files[-1])
    old = load_flow(files[0]) if len(files) == 2 else _kept(settings, new)
    if old is None:
        click.echo(f"{Path(files[-1]).name}: the flow {new.name} has not run yet, so it has no state to lose", err=True)
        return 0
    steps = diff(old, new)
    for step in steps:
        click.echo(msgspec.json.encode(step).decode() if as_json else _told(step))
    code = exit_code(steps, Allowed(drop=frozenset(drop_state)))
    click.echo(f"{new.name}: {_WAYS[code]}", err=True)
    return code


def _kept(settings: Settings, new: FlowSpec) -> FlowSpec | None:
    storage = settings.open_existing()
    if storage is None:
        raise FlowError("there is no data folder to compare the flow with; name the old file too: esb plan diff OLD NEW")
    return kept_flow(storage, new.tenant_id, new.name)


def _told(step: Step) -> str:
    name = step.name if step.renamed_from is None else f"{step.name} (was {step.renamed_from})"
    lines = [f"{step.verdict.value:<12}  {name}"]
    lines += [f"{'':<14}{each}" for each in step.reasons]
    lines += [f"{'':<14}note: {each}" for each in step.notes]
    return "\n".join(printable(line) for line in lines)
