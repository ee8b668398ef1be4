"""The one table of formats: which suffix and which first bytes mean what, and who reads and writes
it.

Readers and writers are named, not imported, so that looking at a file costs nothing. The suffix
says what a file claims to be; the content may contradict, and then the error says both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnconv.converter.collecting import paused
from nnconv.schemas.dims import names
from nnconv.schemas.errors import InputError, Report, UnsupportedError, did_you_mean
from nnconv.schemas.files import STREAM, map_file

if TYPE_CHECKING:
    from nnconv.schemas.checkpoint import Checkpoint
    from nnconv.schemas.graph import Model

HEAD = 4096  # bytes that are looked at to recognise a format

# what stands first in a text net or solver, after blanks and comments
_FIRST_FIELD = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|#[^\n]*(?:\n|$))*"
    rb"(?:name|layers?|input(?:_dim|_shape)?|state|force_backward|debug_info"
    rb"|(?:train_|test_)?net|base_lr)\s*[:{<]"
)
# the keys (field number, wire type) that a serialised NetParameter may begin with: name, layers
# (V1), input, layer (V2)
_FIRST_KEYS = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _is_text_net(head: bytes) -> bool:
    return b"\0" not in head and _FIRST_FIELD.match(head) is not None


def _is_hdf5(head: bytes) -> bool:
    return head.startswith(b"\x89HDF\r\n\x1a\n")


def _is_safetensors(head: bytes) -> bool:
    return head[4:8] == bytes(4) and head[8:9] == b"{"


# a nevermind-neu model has the key ls or mdl_type, its optimizer a type with a tag
_NEVERMIND = re.compile(
    rb"^(?:ls|mdl_type)[ \t]*:|^type[ \t]*:\s*(?:\{[ \t]*|!)?String\b", re.MULTILINE
)


def _is_nevermind(head: bytes) -> bool:
    return b"\0" not in head and _NEVERMIND.search(head) is not None


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file. `reader`, `writer` and `weights` are "module:function", empty where there
    is none: what reads it as a model, writes a model to it, and reads it as a checkpoint.

    Formats of one `family` are read together (a net and its weights), `single` ones one at a time.
    `options` are those that the reader takes beyond the files. A format that `refines` another is
    told from it by content, whatever the suffix.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    looks_like: Callable[[bytes], bool]
    family: str = ""
    reader: str = ""
    writer: str = ""
    weights: str = ""
    options: tuple[str, ...] = ()
    single: bool = False
    refines: str = ""

    def function(self, which: str) -> Callable[..., Any]:
        """The reader or writer itself, imported now."""
        module, _, name = getattr(self, which).partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


def _silent(head: bytes) -> bool:
    """For formats whose first bytes say nothing: their suffix has to."""
    return False


_WRITERS = "nnconv.converter.writers"
_WEIGHTS = "nnconv.converter.weight_files"
_CAFFE_READER = "nnconv.converter.caffe.reader:import_files"
_CAFFE_OPTIONS = ("phase", "mean", "scale", "labels", "strict", "report", "shapes")
_CONTAINER = "nnconv.schemas.container:load"
_CHECKPOINT = (f"{_WRITERS}:write_weights", f"{_WEIGHTS}:read_table")

# The order matters for content: the first that recognises it wins.
FORMATS: tuple[Format, ...] = (
    Format("nnir", "nnconv model", (".nnir",), _starts(b"\x0a\x04nnir"), "nnir",
           _CONTAINER, f"{_WRITERS}:write_nnir", single=True),
    Format("nnirtxt", "nnconv model as text", (".nnirtxt",), _starts(b'format: "nnir"'), "nnir",
           _CONTAINER, f"{_WRITERS}:write_nnir", single=True),
    Format("hdf5", "HDF5 weights", (".caffemodel.h5", ".h5", ".hdf5"), _is_hdf5, "caffe",
           _CAFFE_READER, options=_CAFFE_OPTIONS),
    Format("binaryproto", "Caffe mean image", (".binaryproto",), _silent, "caffe",
           _CAFFE_READER, options=_CAFFE_OPTIONS),
    Format("npz", "numpy archive", (".npz",), _starts(b"PK\x03\x04", b"PK\x05\x06"), "weights",
           "", *_CHECKPOINT),
    Format("npy", "numpy array", (".npy",), _starts(b"\x93NUMPY")),
    Format("picture", "picture",
           (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"),
           _starts(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")),
    Format("pickle", "pickled file", (".pt", ".pth", ".pkl"),
           _starts(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")),
    Format("pb", "nnconv checkpoint", (".pb",), _starts(b"\x0a\x04nnck"), "weights",
           "", f"{_WRITERS}:write_weights", f"{_WEIGHTS}:read_pb"),
    Format("state", "nevermind-neu weights", (".state",), _silent, "weights",
           "", f"{_WRITERS}:write_state", f"{_WEIGHTS}:read_pb"),
    Format("safetensors", "safetensors weights", (".safetensors",), _is_safetensors, "weights",
           "", *_CHECKPOINT),
    Format("onnx", "ONNX model", (".onnx",), _silent, "onnx",
           "nnconv.converter.onnx.reader:import_onnx", f"{_WRITERS}:write_onnx",
           options=("report", "shapes"), single=True),
    Format("nevermind", "nevermind-neu model", (".cfg",), _is_nevermind, "nevermind",
           "nnconv.converter.nevermind.reader:import_nevermind", options=("phase", "report"),
           refines="yaml"),
    Format("yaml", "YAML model", (".yaml", ".yml"), _silent, "yaml",
           "nnconv.converter.yaml.reader:import_yaml", f"{_WRITERS}:write_yaml",
           options=("phase", "report"), single=True),
    Format("prototxt", "Caffe net as text", (".prototxt", ".pbtxt"), _is_text_net, "caffe",
           _CAFFE_READER, f"{_WRITERS}:write_prototxt", options=_CAFFE_OPTIONS),
    Format("caffemodel", "Caffe weights", (".caffemodel",), _starts(*_FIRST_KEYS), "caffe",
           _CAFFE_READER, f"{_WRITERS}:write_caffemodel", f"{_WEIGHTS}:read_caffemodel",
           options=_CAFFE_OPTIONS),
)  # fmt: skip
# Recognised by little: a suffix that claims a format which is silent about itself is believed.
_VAGUE = ("prototxt", "caffemodel")


def by_suffix(path: str | os.PathLike[str]) -> Format | None:
    """The format that the name of a file claims, None for an unknown suffix."""
    name = os.fspath(path).lower()
    return next((form for form in FORMATS if name.endswith(form.suffixes)), None)


def by_content(head: bytes) -> Format | None:
    """The format that the first bytes of a file show, None when nothing recognises them."""
    return next((form for form in FORMATS if form.looks_like(head)), None)


def identify(path: str | os.PathLike[str]) -> Format:
    """What a file is, by suffix and content.

    Raises InputError when there is no such file, when suffix and content contradict each other, or
    when neither says anything.
    """
    head = _head(Path(path))
    claimed, shown = by_suffix(path), by_content(head)
    if claimed is None:
        if shown is None:
            raise InputError(
                f"{path}: cannot tell what kind of file this is", hint=known_suffixes()
            )
        return shown
    if shown is not None and shown.refines == claimed.name:
        return shown
    believed = claimed.looks_like is _silent or claimed.name in ("pb", "yaml")
    if shown is None or (believed and shown.name in _VAGUE):
        return claimed
    if shown.family == claimed.family or claimed.looks_like(head):
        return claimed  # what is damaged inside, the reader says better
    raise InputError(
        f"{path}: the name says {claimed.title}, the content is {_article(shown.title)}",
        hint=f"rename it to end in {shown.suffixes[0]} if the content is what you mean",
    )


def read(paths: Sequence[str | os.PathLike[str]], **options: Any) -> Model:
    """The model that one file, or several files in any order, hold; weights among them go into it.

    `options` left at None count as not given. Raises InputError for files that do not belong
    together or an option that the format has no use for, UnsupportedError for a format without a
    reader.
    """
    forms: dict[str, Format] = {}
    for path in paths:
        if (name := os.fspath(path)) in forms:
            raise InputError(f"{name} is given twice")
        forms[name] = identify(path)
    given = {
        key: value for key, value in options.items() if value is not None and value is not False
    }
    models, weights = _sorted_out(forms)
    form = next(iter(models.values()))
    if form.single and len(models) > 1:
        raise InputError(f"one {form.title} at a time, got {' and '.join(models)}")
    taken = {key: value for key, value in given.items() if key in form.options}
    rest = {key: value for key, value in given.items() if key not in form.options}
    files = [Path(path) for path in models]
    with paused():
        model: Model = form.function("reader")(files[0] if form.single else files, **taken)
    _apply(model, form, next(iter(models)), rest)
    for path, kind in weights.items():
        from nnconv.converter.weight_files import attach

        attach(model, kind.function("weights")(path), path)
    return model


def read_weights(path: str | os.PathLike[str]) -> Checkpoint:
    """What a file holds of weights: a checkpoint, a caffemodel, or the weights of a whole model."""
    from nnconv.schemas.checkpoint import Checkpoint

    form = identify(path)
    if form.weights:
        with paused():
            found: Checkpoint = form.function("weights")(path)
        return found
    return Checkpoint.of(read([path]))


def _sorted_out(forms: dict[str, Format]) -> tuple[dict[str, Format], dict[str, Format]]:
    """The files that make the model, all of one family, and those that hold weights for it."""
    for path, form in forms.items():
        if not form.reader and not form.weights:
            raise UnsupportedError(
                f"{path}: nnconv does not read {form.title}s yet", hint=_readable()
            )
    models = {path: form for path, form in forms.items() if form.reader}
    families = {form.family for form in models.values()}
    if len(families) > 1:
        # a caffemodel is also a file of weights, for a model of another format
        models = {path: form for path, form in models.items() if not form.weights}
        families = {form.family for form in models.values()}
    if len(families) > 1 or (families == {"nnir"} and len(models) < len(forms)):
        listed = " and ".join(f"{path} ({form.title})" for path, form in forms.items())
        raise InputError(
            f"these files do not belong together: {listed}",
            hint="nnconv load-weights MODEL FILE puts weights into a model",
        )
    if not models:
        first = next(iter(forms))
        raise InputError(
            f"{first}: this holds weights only, the net is missing",
            hint=f"nnconv load-weights MODEL {first} puts them into a model",
        )
    return models, {path: form for path, form in forms.items() if path not in models}


def _apply(model: Model, form: Format, path: str, given: dict[str, Any]) -> None:
    """The options that are the same for every format whose reader does not take them."""
    phase = given.pop("phase", None)
    given.pop("report", None)
    given.pop("strict", None)
    _state_sizes(model, given.pop("shapes", {}))
    if given and form.family == "nnir":
        what = " and ".join(sorted(given))
        message = f"{path}: {what} cannot be given for {_article(form.title)}"
        raise InputError(message, hint="it was fixed when the model was imported (nnconv caffe2ir)")
    if phase is not None:
        model.mode = phase
    if given:
        from nnconv.converter.describe import describe

        describe(model, **given)


def _state_sizes(model: Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Let the free sizes of inputs have those of `shapes` where nothing else is asked for."""
    inputs = {value.name: value for value in model.inputs}
    for name, shape in shapes.items():
        if name not in inputs:
            hint = did_you_mean(name, inputs) or f"the inputs are {', '.join(inputs)}"
            raise InputError(f"the model has no input called '{name}'", hint=hint)
        stated = inputs[name].shape
        if stated is None:
            continue
        pairs = list(zip(stated, shape, strict=False))
        if len(stated) != len(shape) or any(
            size != dim if isinstance(dim, int) else size < 1 for dim, size in pairs
        ):
            got = "x".join(map(str, shape))
            wanted = "x".join(map(str, stated))
            raise InputError(f"input '{name}' is {wanted}, it cannot be {got}")
        named = {str(dim): size for dim, size in pairs if names(dim) == {str(dim)}}
        model.graph.sizes.update(named)


def write(
    model: Model,
    path: Path,
    weights: Path | None = None,
    report: Report | None = None,
    **options: Any,
) -> None:
    """Write a model in the format that the suffix says; what it cannot hold goes to `report`."""
    form = writable(path)
    form.function("writer")(model, path, weights, report or Report(str(path)), **options)


def writable(path: str | os.PathLike[str]) -> Format:
    """The format to write for a file name (`-`: .nnir); raises UnsupportedError when nnconv does
    not write it.
    """
    name = os.fspath(path).lower()
    if name == STREAM:
        return FORMATS[0]
    form = by_suffix(path)
    if form is None or not form.writer or not name.endswith(form.suffixes[0]):
        suffixes = ", ".join(form.suffixes[0] for form in FORMATS if form.writer)
        raise UnsupportedError(
            f"{path}: nnconv does not write this format", hint=f"it writes {suffixes}"
        )
    return form


def known_suffixes() -> str:
    return f"known are {', '.join(form.suffixes[0] for form in FORMATS if form.reader)}"


def _head(path: Path) -> bytes:
    """The first bytes of a file; clear errors for what cannot be opened."""
    try:
        if os.fspath(path) == STREAM:
            head = bytes(map_file(path)[:HEAD])
        else:
            with path.open("rb") as file:
                head = file.read(HEAD)
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(
                f"{path}: this is a link to {path.readlink()}, which is not there"
            ) from None
        raise InputError(f"{path}: no such file", hint=_nearby(path)) from None
    except IsADirectoryError:
        raise InputError(f"{path}: this is a folder, not a model file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{str(path)!r}: this cannot be a file name") from None
    if not head:
        raise InputError(f"{path}: the file is empty")
    return head


def _nearby(path: Path) -> str:
    """A hint naming files of the same folder that are called nearly the same."""
    try:
        siblings = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return f"there is no folder {path.parent} either"
    return did_you_mean(path.name, siblings)


def _readable() -> str:
    return f"it reads {_listed(form.title for form in FORMATS if form.reader or form.weights)}"


def _listed(items: Iterable[str]) -> str:
    *most, last = dict.fromkeys(items)
    return f"{', '.join(most)} and {last}" if most else last


def _article(title: str) -> str:
    if title.endswith("weights"):
        return title
    return (
        f"an {title}" if title[0] in "aeioAEIO" or title.startswith(("HDF", "nn")) else f"a {title}"
    )
