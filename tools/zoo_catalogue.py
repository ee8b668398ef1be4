"""Generate nnconv/zoo/catalogue.json from ../shared/zoo_sources.json; `--check` says if it is
current.

The sources are lists that others keep; some name the same file. An entry here is a model that can
be loaded: files with one name each, all their mirrors, and the digests to hold them against. What
was compared with a copy at hand is `checked`, everything else is as its source states it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TARGET = ROOT / "nnconv" / "zoo" / "catalogue.json"
DIGESTS = ("sha256", "sha384", "sha1")
# richest first: of entries with the same files the first gives the name
SOURCES = ("openvinotoolkit", "onnx/models", "opencv/opencv_zoo", "BVLC", "opencv/opencv_extra")

Entry = dict[str, Any]

VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
)
LABELS = (  # what the lists leave out; the names of the classes, in the order of the output
    (r"mnist-\d+(-int8)?", "zero one two three four five six seven eight nine"),
    (r"emotion-ferplus.*", "neutral happiness surprise sadness anger disgust fear contempt"),
    (r"mobilenet-ssd|ssd300|ssd512", VOC),
)
LICENCES = (
    (r"creativecommons\.org/licenses/by/4\.0|^Attribution 4\.0 International", "CC-BY-4.0"),
    (r"^no LICENSE", "unknown"),
)


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        current = TARGET.read_text("utf-8") == text
        print(f"{TARGET.name} is {'current' if current else 'stale: run tools/zoo_catalogue.py'}")
        return 0 if current else 1
    TARGET.write_text(text, "utf-8")
    return 0


def render() -> str:
    """The catalogue, one entry a line."""
    given = json.loads((SHARED / "zoo_sources.json").read_text("utf-8"))["models"]
    entries = unique([translated(model) for model in paired(by_source(given))])
    name_apart(entries)
    for entry in entries:
        entry["labels"] = labels(entry["name"])
    entries.sort(key=lambda entry: str(entry["name"]))
    body = ",\n".join(json.dumps(tidy(entry), ensure_ascii=False) for entry in entries)
    return f'{{"schema": 1, "models": [\n{body}\n]}}\n'


def by_source(models: list[Entry]) -> list[Entry]:
    def rank(model: Entry) -> int:
        return next(i for i, start in enumerate(SOURCES) if model["source"].startswith(start))

    return sorted(models, key=rank)


def paired(models: list[Entry]) -> list[Entry]:
    """Nets and weights that a list has as two entries (`X prototxt`, `X weights`) as one."""
    done: dict[str, Entry] = {}
    for model in models:
        stem, _, part = model["name"].rpartition(" ")
        if part not in ("prototxt", "weights"):
            done[f"{len(done)}"] = model
        elif stem in done:
            done[stem]["files"] = [*done[stem]["files"], *model["files"]]
        else:
            done[stem] = {**model, "name": stem, "called": slug(stem)}
    return list(done.values())


def translated(model: Entry) -> Entry:
    # archives that hold a model once more, with test data, are of no use here
    files = [translated_file(file) for file in model["files"] if not file.get("holds")]
    return {
        "name": model.get("called") or called(model, files),
        "title": re.sub(r" \(.*\.onnx\)$", "", model["name"]),
        "task": model["task"],
        "format": model["format"],
        "files": files,
        "licence": licence(model["licence"]),
        "source": model["source"],
        "inputs": shapes(model["input"]),
        "preprocessing": preprocessing(model["notes"]),
        "note": note(model["notes"]),
        "checked": all(file.get("checked") for file in files),
        "aliases": [],
    }


def translated_file(file: Entry) -> Entry:
    kept = {key: file[key] for key in ("path", "urls", "bytes", *DIGESTS) if key in file}
    if same := file.get("same_as"):
        data = (SHARED / same).read_bytes()
        kept |= {"bytes": len(data)} | {
            kind: hashlib.new(kind, data).hexdigest() for kind in DIGESTS
        }
    if file.get("contains"):
        kept["members"] = [
            {"path": item["member"], "sha1": item["sha1"]} for item in file["contains"]
        ]
    if file["checked"]:
        kept["checked"] = True
    return kept


def called(model: Entry, files: list[Entry]) -> str:
    """The name to type: the list's own where it is one, else that of the file."""
    if model["source"].startswith("openvinotoolkit"):
        return slug(model["name"].rpartition("/")[2])
    return slug(re.sub(r"\.(onnx|caffemodel|tar\.gz|tgz|zip)$", "", files[0]["path"]))


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-")


def unique(entries: list[Entry]) -> list[Entry]:
    """Of entries with the same files only the first, with the mirrors and names of all.

    Files are the same when a digest of one kind agrees. A file that two lists only have the same
    address for is not merged: a digest may be of another version; but the poorer entry goes.
    """
    kept: list[Entry] = []
    for entry in entries:
        twin = next((other for other in kept if covers(other, entry)), None)
        if twin is None:
            kept.append(entry)
            continue
        if entry["name"] != twin["name"]:
            twin["aliases"].append(entry["name"])
        for file in entry["files"]:
            for other in filter(lambda other: agrees(other, file), twin["files"]):
                other["urls"] = list(dict.fromkeys([*other["urls"], *file["urls"]]))
    return kept


def covers(richer: Entry, entry: Entry) -> bool:
    return richer["format"] == entry["format"] and all(
        any(
            agrees(other, file) or set(other["urls"]) & set(file["urls"])
            for other in richer["files"]
        )
        for file in entry["files"]
    )


def agrees(a: Entry, b: Entry) -> bool:
    return any(kind in a and a[kind] == b.get(kind) for kind in DIGESTS)


def name_apart(entries: list[Entry]) -> None:
    """Names and aliases are unique: of two that clash the poorer gets its source as an ending."""
    taken: set[str] = {"lenet"}  # comes along with nnconv
    for entry in entries:
        if entry["name"] in taken:
            entry["name"] += f"-{entry['source'].partition('/')[0].lower()}"
        assert entry["name"] not in taken, entry["name"]
        taken.add(entry["name"])
    for entry in entries:
        entry["aliases"] = sorted({name for name in entry["aliases"] if name not in taken})
        taken.update(entry["aliases"])


def labels(name: str) -> list[str]:
    found = (names for pattern, names in LABELS if re.fullmatch(pattern, name))
    return next(found, "").split()


def licence(text: str | None) -> str:
    for pattern, name in LICENCES:
        if text and re.search(pattern, text):
            return name
    return text or "unknown"


def shapes(given: Any) -> dict[str, list[int | str]]:
    """Input name -> shape; the lists write it as pairs, or with the type first."""
    if isinstance(given, dict):
        return {name: list(spec[1:]) for name, spec in given.items()}
    return {item["name"]: item["shape"] for item in given or []}


def preprocessing(notes: Any) -> Entry:
    """(pixel - mean) / divide, in the order of the model's own channels."""
    if not isinstance(notes, str) or not notes.startswith("preprocessing flags"):
        return {}
    flags = {
        flag: [float(number) for number in numbers.strip("[]").split(",")]
        for flag, numbers in re.findall(r"(\w+)=(?:[\w.]+(?=\[))?(\[[^\]]*\]|[\d.]+)", notes)
    }
    found: Entry = {"channels": "RGB" if "reverse_input_channels" in notes else "BGR"}
    if mean := flags.get("mean_values"):
        found["mean"] = mean
    if divide := flags.get("scale_values") or flags.get("scale"):
        found["divide"] = divide[:1] if len(set(divide)) == 1 else divide
    return found


def note(notes: Any) -> str:
    if isinstance(notes, dict):
        return ", ".join(f"{key} {value}" for key, value in notes.items() if key == "opset")
    return "" if not notes or notes.startswith("preprocessing flags") else notes


def tidy(entry: Entry) -> Entry:
    """Without what is empty; `checked` stays, true or not."""
    return {key: value for key, value in entry.items() if value or key == "checked"}


if __name__ == "__main__":
    sys.exit(main())
