"""`mlxctl registry …`: the commands about the registry's file."""

from __future__ import annotations

from typing import Annotated

import typer

from mlxctl.ui.cli.edge import execute
from mlxctl.ui.cli.flags import Json

registry_app = typer.Typer(
    no_args_is_help=True, help="Check the registry's file, list its kept generations, restore one."
)
backup_app = typer.Typer(no_args_is_help=True, help="The kept generations of the registry.")
registry_app.add_typer(backup_app, name="backup")


@registry_app.command("validate")
def registry_validate(as_json: Json = False) -> int:
    """Check every field and invariant. Exit code 9 when something is wrong."""
    from mlxctl.control.commands.registry import validate

    return execute("registry validate", as_json, validate)


@backup_app.command("list")
def registry_backup_list(as_json: Json = False) -> int:
    """List the kept generations."""
    from mlxctl.control.commands.registry import backup_list

    return execute("registry backup list", as_json, backup_list)


@registry_app.command("restore")
def registry_restore(
    generation: Annotated[int | None, typer.Argument(help="Its number; without it, the newest.")] = None,
    as_json: Json = False,
) -> int:
    """Put a kept generation back. What is there now becomes a generation itself."""
    from mlxctl.control.commands.registry import restore

    return execute("registry restore", as_json, lambda site: restore(site, generation))
