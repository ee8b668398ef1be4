"""The catalogue: what models there are, from where, and what their files should hash to.

Two kinds of entries: models that come along (a folder under `models/` with a `model.json`), and
those that are fetched (`catalogue.json`, made by tools/zoo_catalogue.py from public lists; or a
file of the user's own in the same form, named by NNCONV_ZOO, whose entries come first).
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from nnconv.schemas.errors import InputError, did_you_mean

PREFIX = "zoo:"
MODELS = Path(__file__).parent / "models"
CATALOGUE = Path(__file__).parent / "catalogue.json"
# options of `nnconv.load` that name a file beside model.json
FILE_OPTIONS = frozenset({"labels", "mean"})
# what an entry may set of nnconv.load
LOAD_OPTIONS = frozenset({"phase", "mean", "scale", "labels", "strict"})
# strongest first; the lists that the catalogue is made from do not all give sha256
DIGESTS = {"sha256": 64, "sha384": 96, "sha1": 40}

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model: its name, where to get it, and what it should be.

    `members` are the files of an archive that make the model, with their digests; empty means that
    they are found by their suffixes. `checked`: the digest was compared with a copy at hand.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    digests: dict[str, str] = field(default_factory=dict)
    members: dict[str, dict[str, str]] = field(default_factory=dict)
    checked: bool = False

    @property
    def digest(self) -> tuple[str, str]:
        """The strongest digest there is, as (kind, hexadecimal)."""
        return next((kind, self.digests[kind]) for kind in DIGESTS if kind in self.digests)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo: its files, how to load them, and what to know about it.

    `folder` is where a model lies that comes along, None for one that is fetched. `preprocessing`
    is (pixel - mean) / divide in the order `channels` says; `options` are those of `nnconv.load`.
    """

    name: str
    title: str
    format: str
    files: tuple[File, ...]
    licence: str
    source: str
    folder: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    pictures: Path | None = None
    task: str = ""
    inputs: dict[str, list[int | str]] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    note: str = ""
    checked: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes to fetch, None where a list does not say."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None

    def to_dict(self) -> dict[str, Any]:
        """All that is known, for --json; what is empty is left out."""
        files = [
            {"name": file.name, "bytes": file.size, **file.digests, "checked": file.checked,
             "urls": list(file.urls), "members": list(file.members)}
            for file in self.files
        ]  # fmt: skip
        facts: dict[str, Any] = {
            "name": self.name, "title": self.title, "format": self.format, "task": self.task,
            "bytes": self.size, "checked": self.checked, "shipped": self.folder is not None,
            "licence": self.licence, "source": self.source, "inputs": self.inputs,
            "preprocessing": self.preprocessing, "labels": list(self.labels), "note": self.note,
            "aliases": list(self.aliases), "files": files,
        }  # fmt: skip
        return {key: value for key, value in facts.items() if value not in ("", None, [], {})}


def names() -> list[str]:
    """The names of all models, those that come along and those that can be fetched, sorted."""
    return sorted({entry.name for entry in entries()})


def entries() -> list[Entry]:
    """All models, those that come along first, then the user's own, then the catalogue's."""
    return [*_shipped(), *_own(), *_fetched(CATALOGUE)]


def is_zoo_name(path: object) -> bool:
    """Whether this means a model of the zoo rather than a file: `zoo:NAME`."""
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(PREFIX)


def find(name: str) -> Entry:
    """The model called `name` (with or without `zoo:`, in any case of letters).

    Raises InputError when there is none.
    """
    wanted = name.removeprefix(PREFIX).lower()
    known: dict[str, Entry] = {}
    for entry in entries():
        for called in (entry.name, *entry.aliases):
            known.setdefault(called, entry)
    if wanted not in known:
        hint = did_you_mean(wanted, known) or "nnconv zoo list shows what there is"
        raise InputError(f"the zoo has no model '{name.removeprefix(PREFIX)}'", hint=hint)
    return known[wanted]


@cache
def _shipped() -> tuple[Entry, ...]:
    return tuple(map(_recipe, sorted(MODELS.glob("*/model.json"))))


def _recipe(path: Path) -> Entry:
    folder, recipe = path.parent, json.loads(path.read_text("utf-8"))
    options = {
        key: str(folder / value) if key in FILE_OPTIONS else value
        for key, value in recipe["options"].items()
    }
    labels = Path(options["labels"]).read_text("utf-8").split("\n") if "labels" in options else []
    files = (File(name, size=(folder / name).stat().st_size) for name in recipe["files"])
    return Entry(
        name=recipe["name"],
        title=recipe["title"],
        format=recipe["format"],
        files=tuple(files),
        licence=recipe["licence"],
        source=recipe["source"],
        folder=folder,
        options=options,
        pictures=folder / recipe["pictures"] if "pictures" in recipe else None,
        labels=tuple(filter(None, map(str.strip, labels))),
        checked=True,
    )


def _own() -> tuple[Entry, ...]:
    path = os.environ.get("NNCONV_ZOO")
    return _read(Path(path)) if path else ()


@cache
def _fetched(path: Path) -> tuple[Entry, ...]:
    return _read(path)


def _read(path: Path) -> tuple[Entry, ...]:
    """The entries of a catalogue file; raises InputError for one that is not in its form."""
    try:
        models = json.loads(path.read_text("utf-8"))["models"]
        return tuple(_entry(model) for model in models)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="NNCONV_ZOO names a file") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        hint = "docs/zoo.md shows how a catalogue looks"
        raise InputError(f"{path}: this is no catalogue: {what}", hint=hint) from None


def _entry(model: dict[str, Any]) -> Entry:
    name = model["name"]
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' cannot be the name of a model")
    if wrong := model.get("options", {}).keys() - LOAD_OPTIONS:
        raise ValueError(f"{name}: there is no option {' or '.join(sorted(wrong))}")
    plain = ("task", "inputs", "note", "checked", "options")
    return Entry(
        name=name,
        title=model.get("title", name),
        format=model["format"],
        files=tuple(_file(name, file) for file in model["files"]),
        licence=model.get("licence", "unknown"),
        source=model.get("source", ""),
        preprocessing=_preprocessing(name, model.get("preprocessing", {})),
        labels=tuple(map(str, model.get("labels", ()))),
        aliases=tuple(model.get("aliases", ())),
        **{key: model[key] for key in plain if key in model},
    )


def _preprocessing(model: str, facts: dict[str, Any]) -> dict[str, Any]:
    if facts.get("channels", "BGR") not in ("BGR", "RGB"):
        raise ValueError(f"{model}: channels are BGR or RGB, not {facts['channels']}")
    mean, divide = ([float(number) for number in facts.get(key, ())] for key in ("mean", "divide"))
    if not all(map(math.isfinite, [*mean, *divide])) or 0 in divide:
        raise ValueError(f"{model}: a mean is finite, a divisor finite and not 0")
    return facts


def _file(model: str, file: dict[str, Any]) -> File:
    name = file["path"]
    # these names become paths in the cache: one plain name, never hidden, never a way out
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{model}: '{name}' cannot be the name of a file")
    size = file.get("bytes")
    if size is not None and (not isinstance(size, int) or size < 0):
        raise ValueError(f"{model}: {name} cannot have {size} bytes")
    if not isinstance(file["urls"], list):
        raise ValueError(f"{model}: the urls of {name} are a list")
    digests = _digests(file)
    if not digests:
        raise ValueError(f"{model}: {name} has no {' or '.join(DIGESTS)}")
    members = {item["path"]: _digests(item) for item in file.get("members", ())}
    for member in members:
        if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts:
            raise ValueError(f"{model}: '{member}' leads out of {name}")
    checked = bool(file.get("checked"))
    return File(name, tuple(file["urls"]), size, digests, members, checked)


def _digests(item: dict[str, Any]) -> dict[str, str]:
    found = {kind: item[kind] for kind in DIGESTS if kind in item}
    for kind, digest in found.items():
        if not re.fullmatch(f"[0-9a-f]{{{DIGESTS[kind]}}}", digest):
            raise ValueError(f"'{digest}' is no {kind}")
    return found
