"""`nnconv completion SHELL`: the script that lets a shell complete verbs, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nnconv.cli.base import Command

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    examples=[
        ('eval "$(nnconv completion bash)"', "bash, from now on in this shell"),
        ("nnconv completion fish > ~/.config/fish/completions/nnconv.fish", "fish, for good"),
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    from nnconv.cli.main import COMPLETE, cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "nnconv", COMPLETE).source())
