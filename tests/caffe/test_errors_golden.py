"""What Caffe refuses is refused with a place and a hint, and the near misses are taken
(golden/errors)."""

from __future__ import annotations

import json
import math
import random
import re
from typing import Any, NamedTuple

import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.converter.caffe.layers.known import KNOWN
from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.caffe.writer import to_caffe
from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.errors import InternalError, NnconvError, Report
from nnconv.schemas.graph import Model
from tests.places import shared

ERRORS = "golden", "errors"
DATA_LAYERS = frozenset({"Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"})
"""Their sources are opened by the data loaders; a net is converted without them."""
MISSING_DATA = "No such file|File is empty|Failed to open source file|needs to be initialized"


class Verdict(NamedTuple):
    """One case of kind net."""

    entry: Any

    @property
    def text(self) -> str:
        return shared(*ERRORS, self.entry["input"]).read_text("utf-8", errors="replace")

    @property
    def types(self) -> frozenset[str]:
        """The types written after `type:`, less those of fillers."""
        return frozenset(re.findall(r'\btype: "(\w*)"', self.text)) & (
            READERS.keys() | KNOWN.keys()
        )

    @property
    def outside(self) -> str:
        """Why the importer alone cannot give Caffe's verdict; "" where it must."""
        if not self.types <= READERS.keys():
            return "a layer without a rule"
        if self.entry["action"] == "forward+backward" and self.refused:
            return "gradients"
        if self.types & DATA_LAYERS and re.search(MISSING_DATA, self.entry.get("message", "")):
            return "data sources"
        return (
            "stochastic pooling in training"
            if "STOCHASTIC" in self.text and not self.refused
            else ""
        )

    @property
    def refused(self) -> bool:
        return bool(self.entry["verdict"] == "refused")

    def load(self, report: Report | None = None) -> Model:
        name = self.entry.get("weights")
        folder = shared(*ERRORS)
        return import_caffe(
            folder / self.entry["input"],
            [folder / name] if name else [],
            phase=self.entry["phase"].lower(),
            stages=self.entry.get("stages", ()),
            strict=True,
            report=report,
        )

    def __str__(self) -> str:
        return str(self.entry["name"])


INDEX = json.loads(shared(*ERRORS, "index.json").read_text("utf-8"))["cases"]
CASES = [Verdict(entry) for entry in INDEX if entry["kind"] == "net"]
INSIDE = [case for case in CASES if not case.outside]


@pytest.mark.parametrize("case", [case for case in INSIDE if case.refused], ids=str)
def test_what_caffe_refuses_is_refused_and_located(case: Verdict) -> None:
    with pytest.raises(NnconvError) as raised:
        case.load()
    first = raised.value.problems[0]
    assert first.message
    assert first.span is not None and first.span.file


@pytest.mark.parametrize(
    "case", [case for case in INSIDE if case.entry["verdict"] == "accepted"], ids=str
)
def test_what_caffe_accepts_is_accepted(case: Verdict) -> None:
    model = case.load()
    if "param_sums" in case.entry:
        wanted = [(layer, index) for layer, index, _ in case.entry["param_sums"]]
        assert [(layer, index) for layer, index, _ in sums(model)] == wanted
        totals = [total for *_, total in case.entry["param_sums"]]
        assert [total for *_, total in sums(model)] == pytest.approx(totals, rel=1e-5, abs=1e-5)


def test_the_undefined_case_ends_in_an_error_of_ours_or_a_model() -> None:
    (case,) = [case for case in CASES if case.entry["verdict"] == "undefined"]
    try:
        case.load()
    except NnconvError as error:
        assert error.problems


def test_little_is_left_to_others() -> None:
    reasons: dict[str, int] = {}
    for case in CASES:
        reasons[case.outside] = reasons.get(case.outside, 0) + 1
    assert reasons.keys() <= {
        "",
        "a layer without a rule",
        "gradients",
        "data sources",
        "stochastic pooling in training",
    }
    backward = [
        case for case in CASES if case.entry["action"] == "forward+backward" and case.refused
    ]
    assert reasons.get("gradients", 0) == sum(case.types <= READERS.keys() for case in backward)
    assert reasons.get("data sources", 0) == 4
    assert reasons.get("stochastic pooling in training", 0) == 1


def sums(model: Model) -> list[tuple[str, int, float]]:
    """Layer, index and sum of every parameter of every layer; fillers in these nets are
    constant."""
    found = []
    for record in model.graph.layers:
        for index, name in enumerate(record.parameters):
            value = model.graph.values[name]
            assert value.parameter is not None and value.parameter.filler is not None
            filled = math.prod(evaluate_shape(value.known_shape, {}))
            total = filled * value.parameter.filler.options["value"]
            found.append(
                (record.name, index, total if value.data is None else float(value.data.sum()))
            )
    return found


TYPOS = {
    "Convolutionn": "did you mean 'Convolution' or",
    "relu": "did you mean 'ReLU'",
    "Innerproduct": "did you mean 'InnerProduct'?",
}


@pytest.mark.parametrize("typo", TYPOS)
def test_an_unknown_layer_type_names_the_nearest(typo: str) -> None:
    text = f'layer {{ name: "in" type: "Input" top: "x" }}\nlayer {{ name: "a" type: "{typo}" }}'
    with pytest.raises(NnconvError, match=f"unknown layer type '{typo}'") as raised:
        import_caffe(text.encode())
    (problem,) = raised.value.problems
    assert TYPOS[typo] in problem.hint
    assert problem.span is not None and (problem.span.line, problem.span.layer) == (2, "a")


def test_all_problems_of_a_net_come_in_one_report() -> None:
    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: [2, 3, 8, 8] } } }
    layer { name: "n" type: "LRN" bottom: "x" top: "n" lrn_param { local_size: 4 } }
    layer { name: "after" type: "ReLU" bottom: "n" top: "after" }
    layer { name: "c" type: "Convolution" bottom: "x" convolution_param { num_output: 1 } }
    layer { name: "m" type: "Python" bottom: "x" top: "m" }
    layer { name: "w" type: "ReLU" bottom: "nowhere" top: "w" }
    """
    report = Report("net")
    with pytest.raises(NnconvError) as raised:
        import_caffe(text.encode(), report=report)
    lines = [problem.span.line for problem in raised.value.problems if problem.span]
    assert lines == [3, 5, 6, 7]  # and nothing about `after`, which only follows from the first
    assert [problem.message for problem in report.errors] == [
        problem.message for problem in raised.value.problems
    ]


def test_weights_of_another_net_are_an_error_that_counts_the_layers() -> None:
    models = shared("models", "caffe")
    with pytest.raises(NnconvError, match="5 of 5 layers with parameters have no weights"):
        import_caffe(
            models / "lpr_character" / "CharacterRecognization.prototxt",
            [models / "kaffe_mlp" / "mlp.caffemodel"],
        )


def test_weights_for_another_input_size_name_both_shapes() -> None:
    folder = shared("models", "caffe", "lpr_finemapping")
    text = (folder / "HorizonalFinemapping.prototxt").read_text("utf-8")
    smaller = re.sub(r"input_dim: 66", "input_dim: 60", text)
    with pytest.raises(
        NnconvError, match=r"weights 0 are .* in HorizonalFinemapping.caffemodel, the net needs"
    ):
        import_caffe(smaller.encode(), [folder / "HorizonalFinemapping.caffemodel"])


def mutated(text: str, rng: random.Random) -> str:
    """The text with one number, type, blob name or line changed."""
    pattern = rng.choice(
        [r"(?<=: )-?\d[\d.]*", r'(?<=type: ")\w+', r'(?<=(?:tom|top): ")\w+', r"(?m)^.*$"]
    )
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    numbers = ["0", "-1", "3", "2147483647", "-2147483648", "9223372036854775807", "1e39", "nan"]
    others = [match.group() for match in found] + (numbers if "d[" in pattern else [])
    place = rng.choice(found)
    return text[: place.start()] + rng.choice(others) + text[place.end() :]


@pytest.mark.parametrize("seed", range(4))
def test_mutated_nets_import_or_fail_with_an_error_of_ours(seed: int) -> None:
    rng = random.Random(seed)
    nets = sorted(shared("golden", "layers").glob("*.prototxt"))
    outcomes = set()
    for _ in range(300):
        text = rng.choice(nets).read_text("utf-8")
        for _ in range(rng.randint(1, 3)):
            text = mutated(text, rng)
        try:
            to_caffe(
                import_caffe(text.encode(), phase=rng.choice(["test", "train"])), weights=False
            )
            outcomes.add("imported")
        except NnconvError as error:
            assert not isinstance(error, InternalError), text
            outcomes.add("refused")
    assert outcomes == {"imported", "refused"}
