"""What all commands share: lazy loading, help with examples, and `--debug` before or after the
verb.

Only click is imported here: `nnconv --help` has to answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from nnconv.schemas.errors import InputError, did_you_mean

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verb(NamedTuple):
    """Where a verb lives (a module of this package) and its line in `nnconv --help`."""

    module: str
    help: str


class Command(click.Command):
    """A verb. `examples` are (command line, what it does) and stand at the end of its help."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", CONTEXT)
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.params.append(debug_option())

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        files = [word for word in args if word[:1] == "-" and os.path.exists(word)]  # noqa: PTH110
        try:
            left = super().parse_args(context, args)
        except click.UsageError as error:
            if files:
                raise _taken_for_option(context, files[0]) from error
            error.ctx = error.ctx or context
            raise
        for parameter in self.params:
            given = context.params.get(parameter.name or "")
            typed = context.get_parameter_source(parameter.name or "")
            if typed is ParameterSource.COMMANDLINE and given in ("", ("",)):
                raise InputError(f"{called(parameter)}: the text given for it is empty")
        return left

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports the module of the one that is used."""

    def __init__(
        self,
        *args: Any,
        verbs: dict[str, Verb],
        examples: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs
        self.examples = examples

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.verbs:
            return None
        command: click.Command = getattr(
            import_module(f"nnconv.cli.{self.verbs[name].module}"), name.replace("-", "_")
        )
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb; a file in its place is looked at; anything else is refused with the nearest
        verbs.
        """
        name = args[0]
        if name in self.verbs or (name.startswith("-") and name != "-"):
            return super().resolve_command(context, args)
        if _means_file(name):
            from nnconv.cli.whatis import whatis

            return "whatis", whatis, args
        hint = did_you_mean(name, self.verbs) or "nnconv --help lists the commands"
        raise InputError(f"no command or file is called '{name}'", hint=hint)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]]) -> None:
    """The examples of a command, each with the command line on a line of its own, never broken."""
    if not examples:
        return
    with formatter.section("Examples"):
        for line, what in examples:
            formatter.write(f"{'':{formatter.current_indent}}{what}:\n")
            formatter.write(f"{'':{formatter.current_indent}}  {line}\n")


def called(parameter: click.Parameter | None) -> str:
    """What the user calls a parameter: `--lr`, or MODEL."""
    if parameter is None:
        return "the value"
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name
    return next((word for word in parameter.opts if word.startswith("--")), parameter.opts[0])


def _taken_for_option(context: click.Context, name: str) -> InputError:
    return InputError(f"{context.command_path}: {name} looks like an option", hint=f"./{name}")


def debug_option() -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_debug,
        help="Show the whole traceback of an error.",
    )


def _remember_debug(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().ensure_object(dict)["debug"] = True


def _means_file(name: str) -> bool:
    there = os.path.exists(name)  # noqa: PTH110  # pathlib costs its import here
    return (
        there or name == "-" or name.startswith("zoo:") or os.sep in name or "." in name.strip(".")
    )
