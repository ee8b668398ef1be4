"""`nnconv completion SHELL`: the script that lets a shell complete verbs, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nnconv.cli import options
from nnconv.cli.options import verb

SHELLS = ("bash", "zsh", "fish")


@verb(
    ('eval "$(nnconv completion bash)"', "bash, from now on in this shell"),
    ("nnconv completion fish > ~/.config/fish/completions/nnconv.fish", "fish, for good"),
)
@click.argument("shell", metavar="SHELL", type=options.OneOf(*SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    SHELL is bash, zsh or fish.
    """
    from nnconv.cli.main import COMPLETE, cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "nnconv", COMPLETE).source())
