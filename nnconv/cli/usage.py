"""What click has against a command line, in our own words: one line, and what to do."""

from __future__ import annotations

import click

from nnconv.schemas.errors import Problem, did_you_mean


def problem(error: click.UsageError) -> Problem:
    """The message `VERB: what is wrong`, the hint is the nearest option, or the verb's usage."""
    context = error.ctx or click.Context(click.Command("nnconv"), info_name="nnconv")
    path, usage = context.command_path, _usage(context)
    match error:
        case click.NoSuchOption():
            hint = _near(context, error.option_name) or f"{path} --help lists them"
            return Problem(f"{path}: there is no option {error.option_name}", hint=hint)
        case click.MissingParameter():
            return Problem(f"{path}: {_missing(error.param)} is missing", hint=usage)
        case click.BadOptionUsage():
            return Problem(f"{path}: {_lowered(error.message)}", hint=usage)
        case _:
            return Problem(f"{path}: {_lowered(error.format_message())}", hint=usage)


def _usage(context: click.Context) -> str:
    pieces = context.command.collect_usage_pieces(context)
    return f"{context.command_path} {' '.join(pieces)}; --help explains"


def _near(context: click.Context, name: str) -> str:
    parameters = context.command.get_params(context)
    options = [word for p in parameters for word in (*p.opts, *p.secondary_opts) if word[0] == "-"]
    return did_you_mean(name, options)


def _missing(parameter: click.Parameter | None) -> str:
    """`-o OUT.nnir`, or MODEL."""
    if parameter is None:
        return "something"
    metavar = parameter.metavar or (parameter.name or "").upper()
    return metavar if isinstance(parameter, click.Argument) else f"{parameter.opts[0]} {metavar}"


def _lowered(message: str) -> str:
    text = message.rstrip(".")
    return text[:1].lower() + text[1:]
