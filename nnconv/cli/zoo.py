"""Verbs about the models that nnconv knows by name: `zoo list|info|get|path|verify|clear`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nnconv.cli import options
from nnconv.cli.base import CONTEXT, Command, debug_option, write_examples
from nnconv.cli.output import print_json, print_table, say, size, table
from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from nnconv.zoo import Entry

EXAMPLES = (
    ("nnconv zoo list squeezenet", "what there is with this in its name"),
    ("nnconv zoo get squeezenet1.1", "fetch it now, and convert it"),
    ("nnconv run zoo:squeezenet1.1 --image cat.jpg", "use it; fetched first where it is not here"),
)


class Group(click.Group):
    """A verb with verbs of its own; a mistyped one is answered with the nearest."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.commands) or f"known are {', '.join(self.commands)}"
            raise InputError(f"nnconv zoo has no command '{args[0]}'", hint=hint)
        return super().resolve_command(context, args)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, EXAMPLES)


def _complete(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    from nnconv.zoo import names

    return [name for name in names() if name.startswith(incomplete.removeprefix("zoo:").lower())]


_NAME = click.argument("name", shell_complete=_complete)
_NAMES = click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=_complete)


@click.group(cls=Group, context_settings=CONTEXT, params=[debug_option()])
def zoo() -> None:
    """List, fetch and check models that nnconv knows by name.

    `zoo:NAME` works wherever a model is taken. Models lie in the cache folder (NNCONV_HOME moves
    it); NNCONV_OFFLINE=1 forbids the network; NNCONV_ZOO names a catalogue of your own.
    """


@zoo.command(
    "list",
    cls=Command,
    examples=[
        ("nnconv zoo list", "all of them"),
        ("nnconv zoo list resnet --format caffe", "Caffe nets with resnet in their name or task"),
        ("nnconv zoo list --here", "those on this machine"),
    ],
)
@click.argument("words", metavar="[WORD]...", nargs=-1)
@click.option("--format", "form", type=options.OneOf("caffe", "onnx"), help="Only this format.")
@click.option("--here", "only_here", is_flag=True, help="Only what is on this machine.")
@options.JSON
def list_models(words: tuple[str, ...], form: str | None, only_here: bool, as_json: bool) -> None:
    """List models; a WORD must be in the name, title or task.

    The column "from" says shipped (comes along), here (fetched) or nothing (would be fetched);
    "checked" that the digests were compared with a copy at hand, not only taken from a list.
    """
    from nnconv.zoo.catalogue import entries
    from nnconv.zoo.store import here

    chosen = [
        (entry, _place(entry, bool(here(entry))))
        for entry in sorted(entries(), key=lambda entry: entry.name)
        if all(word.lower() in _text(entry) for word in words) and form in (None, entry.format)
    ]
    chosen = [(entry, place) for entry, place in chosen if place or not only_here]
    if as_json:
        print_json("zoo", {"models": [_facts(entry) for entry, _ in chosen]})
        return
    if not chosen:
        hint = did_you_mean(words[0], (e.name for e in entries())) if words else ""
        raise InputError("no model is like this", hint=hint or "nnconv zoo list shows all")
    rows = [
        (entry.name, entry.format, _size(entry), place, "yes" if entry.checked else "", entry.task)
        for entry, place in chosen
    ]
    print_table(table(["name", "format", ">size", "from", "checked", "task"], rows))


@zoo.command(
    cls=Command,
    examples=[
        ("nnconv zoo info squeezenet1.1", "where it is from, how large, under which licence")
    ],
)
@_NAME
@options.JSON
def info(name: str, as_json: bool) -> None:
    """Show all that is known about a model: files, digests, mirrors, licence, preprocessing."""
    from nnconv.zoo import find

    entry = find(name)
    if as_json:
        print_json("zoo", _facts(entry))
        return
    facts = _facts(entry)
    files = facts.pop("files")
    rows = [(key, _plain(value)) for key, value in facts.items()]
    for file in files:
        rows.append(("file", f"{file['name']}{'' if file['checked'] else ' (not checked)'}"))
        rows += [(f"  {kind}", file[kind]) for kind in ("sha256", "sha384", "sha1") if kind in file]
        rows += [("  from", url) for url in file["urls"]]
    print_table(table(["fact", "value"], rows))


@zoo.command(
    cls=Command,
    examples=[
        ("nnconv zoo get mobilenet-v2 vgg16", "fetch both now, for a day without network"),
        ("nnconv zoo get --force vgg16", "fetch again what is here"),
    ],
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete)
@click.option("--force", is_flag=True, help="Fetch again what is here already.")
@click.option("--no-convert", is_flag=True, help="Leave converting to the first use.")
def get(names: tuple[str, ...], force: bool, no_convert: bool) -> None:
    """Fetch models, check their digests, convert them to .nnir once; print the paths."""
    from nnconv.zoo import find, store

    for entry in [find(name) for name in names]:
        paths = store.get(entry, force=force and entry.folder is None)
        if not no_convert and entry.folder is None:
            _convert(entry)
        for path in paths:
            click.echo(path)


@zoo.command(
    cls=Command,
    examples=[("cp $(nnconv zoo path mobilenet-v2) .", "its files, to use them elsewhere")],
)
@_NAME
def path(name: str) -> None:
    """Print the paths of a model's files on this machine; nothing is fetched."""
    from nnconv.zoo import find
    from nnconv.zoo.store import here

    entry = find(name)
    found = here(entry)
    if not found:
        raise InputError(
            f"zoo:{entry.name} is not on this machine", hint=f"nnconv zoo get {entry.name}"
        )
    for file in found:
        click.echo(file)


@zoo.command(
    cls=Command,
    examples=[("nnconv zoo verify", "read everything in the cache again, and compare")],
)
@_NAMES
def verify(names: tuple[str, ...]) -> None:
    """Read files of the cache again and compare digests; exit 1 if one has changed."""
    from nnconv.zoo import verify as verified

    right = verified(names)
    say(f"{len(right)} {'model is' if len(right) == 1 else 'models are'} as fetched")


@zoo.command(
    cls=Command,
    examples=[
        ("nnconv zoo clear vgg16", "make room"),
        ("nnconv zoo clear --all", "remove all models that were fetched"),
    ],
)
@_NAMES
@click.option("--all", "everything", is_flag=True, help="All models of the cache.")
def clear(names: tuple[str, ...], everything: bool) -> None:
    """Remove models from the cache; what comes along with nnconv stays."""
    from nnconv.zoo import clear as cleared

    if bool(names) == everything:
        raise InputError("zoo clear: name the models to remove, or say --all")
    say(f"{size(cleared(names))} removed")


def _convert(entry: Entry) -> None:
    """Convert now; what nnconv cannot read is fetched all the same."""
    from nnconv.api import load

    try:
        load(f"zoo:{entry.name}")
    except UnsupportedError as error:
        say(f"warning: {entry.name} is here, but cannot be converted: {error}")


def _place(entry: Entry, is_here: bool) -> str:
    return "shipped" if entry.folder is not None else "here" if is_here else ""


def _text(entry: Entry) -> str:
    return " ".join((entry.name, entry.title, entry.task, *entry.aliases)).lower()


def _size(entry: Entry) -> str:
    return "?" if entry.size is None else size(entry.size)


def _facts(entry: Entry) -> dict[str, Any]:
    from nnconv.zoo.store import here

    return {**entry.to_dict(), "here": [str(path) for path in here(entry)]}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
