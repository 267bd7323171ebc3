"""``esb backup`` and ``esb restore``: a copy of the data folder while it is in use, and a folder made of one."""

from pathlib import Path

import click

from event_streaming_bus.cli.auditing import os_user
from event_streaming_bus.cli.doctor import local_folder, shown, tell
from event_streaming_bus.cli.main import EXIT_ERROR, Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.tables import printable
from event_streaming_bus.errors import BusError
from event_streaming_bus.models import rfc3339


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--without-keys", is_flag=True, help="Leave out keys.db, master.key, audit.key and admin.token.")
@click.pass_obj
def backup(settings: Settings, target: Path, without_keys: bool) -> None:
    """Copy the data folder to TARGET, a new folder or a file NAME.tar.zst or NAME.tar.gz, while it is in use."""
    from event_streaming_bus.backup.making import make_backup

    with progress_bar("backing up") as bar:
        made = make_backup(local_folder(settings.data), target, with_keys=not without_keys, progress=shown(bar))
    for left_out in made.left_out:
        click.echo(printable(f"left out: {left_out}"), err=True)
    keys = "with its keys: keep it as safe as the folder" if made.has_keys else "without its keys"
    click.echo(f"{len(made.files):,} files, {made.size:,} bytes, as of {rfc3339(made.made_at_ms)}, {keys}", err=True)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def restore(settings: Settings, source: Path, folder: Path) -> int:
    """Make the data folder FOLDER, which must not be there or be empty, of the backup SOURCE, and check it as `esb doctor` does.

    Exits with 1 if something is wrong with what was restored.
    """
    from event_streaming_bus.backup.restoring import restore_backup
    from event_streaming_bus.doctor.examine import examine

    with progress_bar("restoring") as bar:
        made = restore_backup(source, folder, shown(bar))
    click.echo(f"restored {len(made.files):,} files, {made.size:,} bytes, as of {rfc3339(made.made_at_ms)}", err=True)
    folder = folder.expanduser().resolve()
    with progress_bar("examining") as bar:
        report = examine(folder, shown(bar))
    tell(report)
    if made.has_keys:
        _record(folder, str(source), settings.tenant)
        click.echo("next: `esb erasures reapply` destroys keys again that were destroyed since", err=True)
    else:
        click.echo("next: put keys.db, master.key and audit.key beside it, before anything else is done with it", err=True)
    return 0 if report.is_sound else EXIT_ERROR


def _record(folder: Path, source: str, tenant_id: str) -> None:
    """Note it in the audit of the folder that was made. Not where the key is missing: another one would be made for it."""
    from event_streaming_bus.audit.service import AuditService
    from event_streaming_bus.store.storage import open_storage

    try:
        storage = open_storage(folder)
        try:
            audit = AuditService(storage)
            audit.record("backup.restore", tenant_id=tenant_id, actor=f"cli:{os_user()}", target=source)
            audit.close()
        finally:
            storage.close()
    except BusError as error:
        click.echo(f"esb: the restore is not in the audit: {error.message}", err=True)
