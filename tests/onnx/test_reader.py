"""What the reader makes of a file's names, sizes, initializers, inner graphs and functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from nnconv.converter.onnx.reader import import_onnx
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError, Report, UnsupportedError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.onnx.support import node_model, run, stored_model


def read(text: str, **options: Any) -> Model:
    """A model in onnx's own text form."""
    return import_onnx(parser.parse_model(text).SerializeToString(), **options)


def head(opset: int = 13) -> str:
    return f'<ir_version: 7, opset_import: ["" : {opset}]>\n'


def test_open_sizes_keep_their_names_and_have_no_defaults() -> None:
    model = import_onnx(stored_model("onnx/yunet_n_dynamic"))
    (value,) = model.inputs
    assert [str(dim) for dim in value.known_shape] == ["batch", "3", "height", "width"]
    assert model.graph.sizes == {}


def test_sizes_without_a_name_get_one_each() -> None:
    model = read(head() + "g (float[?, 3, ?] x) => (float[?, 3, ?] y) { y = Relu(x) }")
    assert [str(dim) for dim in model.inputs[0].known_shape] == ["x_0", "3", "x_2"]


def test_names_that_are_no_plain_words_are_made_so_and_stay_apart() -> None:
    proto = node_model(
        "Relu", 13, {"x": np.zeros((1, 2, 3), np.float32)}, dims={"x": ["a b", "a+b", 3]}
    )
    (value,) = import_onnx(proto.SerializeToString()).inputs
    assert [str(dim) for dim in value.known_shape] == ["a_b", "a_b_1", "3"]


def test_shapes_give_default_sizes_and_override_fixed_ones() -> None:
    report = Report()
    text = head() + "g (float[N, 3] x, float[2] z) => (float[N, 3] y) { y = Relu(x) }"
    model = read(text, shapes={"x": (7, 3), "z": (5,)}, report=report)
    assert model.graph.sizes == {"N": 7}
    assert model.inputs[0].known_shape == (Symbolic.name("N"), 3)
    assert model.inputs[1].known_shape == (5,)
    assert "overridden by 5" in str(report)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [({"q": (1,)}, "no input 'q'"), ({"x": (1,)}, "has 2 axes"), ({"x": (-1, 3)}, "impossible"),
     ({"x": (1, 3), "z": (2,)}, "N cannot be 1 and 2")],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(
            head() + "g (float[N, 3] x, float[N] z) => (float[N, 3] y) { y = Relu(x) }",
            shapes=shapes,
        )


def test_float_initializers_are_parameters_and_integers_constants_also_where_they_are_inputs() -> (
    None
):
    model = import_onnx(stored_model("onnx/mnist_8"))
    assert [value.name for value in model.inputs] == ["Input3"]
    assert {value.dtype for value in model.parameters.values()} == {DType.FLOAT32}
    shape = model.graph.values["Pooling160_Output_0_reshape0_shape"]
    assert shape.is_stored and shape.parameter is None


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    model = import_onnx(stored_model("onnx/mtcnn_onet"))
    large = [array for array in model.weights.values() if array.nbytes >= 4096]
    assert large
    for array in large:
        assert not array.flags.owndata and not array.flags.writeable


TYPES = [dtype for dtype in DType if dtype not in (DType.UNDEFINED, DType.STRING)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_element_type_is_read_as_onnx_reads_it(dtype: DType, raw: bool) -> None:
    numbers = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(dtype.numpy)
    tensor = numpy_helper.from_array(numbers, "w")
    assert tensor.data_type == dtype
    if not raw:
        flat = numbers.reshape(-1)
        tensor = helper.make_tensor("w", int(dtype), (3, 5), flat.tolist() if dtype < 16 else flat)
        assert not tensor.HasField("raw_data")
    graph = helper.make_graph(
        [], "g", [], [helper.make_tensor_value_info("w", int(dtype), (3, 5))], [tensor]
    )

    value = import_onnx(helper.make_model(graph).SerializeToString()).graph.values["w"]

    assert value.dtype is dtype and value.shape == (3, 5)
    assert value.data is not None
    assert value.data.tobytes() == numpy_helper.to_array(tensor).tobytes()


def test_strings_are_read() -> None:
    tensor = helper.make_tensor("w", TensorProto.STRING, [2], [b"a", "\u00e9".encode()])
    graph = helper.make_graph(
        [], "g", [], [helper.make_tensor_value_info("w", TensorProto.STRING, [2])], [tensor]
    )
    value = import_onnx(helper.make_model(graph).SerializeToString()).graph.values["w"]
    assert value.data is not None and value.data.tolist() == ["a", "\u00e9"]


def test_nodes_out_of_order_are_put_in_order() -> None:
    proto = parser.parse_model(
        head() + "g (float[2] x) => (float[2] y) { a = Relu(x)  b = Neg(a)  y = Exp(b) }"
    )
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    model = import_onnx(proto.SerializeToString())
    assert [node.op for node in model.graph.nodes] == ["Relu", "Neg", "Exp"]


@pytest.mark.parametrize(
    ("body", "words"),
    [("y = Relu(q)", "'q', which nothing defines"), ("a = Relu(y)  y = Relu(a)", "circle"),
     ("z = Relu(x)", "nothing defines the output 'y'"), ("y = Relu(x)  y = Neg(x)",
     "twice|two values"),
     ("y = Rleu(x)", "unknown operator 'Rleu'"), ("y = Relu <alpha = 1.0> (x)",
     "no attribute 'alpha'"),
     ("y = Gelu(x)", "came with opset 20"), ("y = Elu <alpha = 1> (x)", "is no float"),
     ("y = Concat(x, x)", "needs the attribute 'axis'"), ("y = Conv(x)", "2 to 3 inputs"),
     ("y, z = Relu(x)", "has 1 outputs, not 2"), ("y = Max()", "at least 1 inputs"),
     ("y = Transpose <perm = [0, 3]> (x)", "perm"), ("y = com.microsoft.FusedGemm(x, x)",
     "com.microsoft")],
)  # fmt: skip
def test_wrong_graphs_are_refused_in_one_clear_line(body: str, words: str) -> None:
    with pytest.raises((InputError, UnsupportedError), match=words):
        read(head() + f"g (float[2] x) => (float[2] y) {{ {body} }}")


def test_an_unknown_operator_is_named_with_its_node_and_near_ones() -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(head() + "g (float[2] x) => (float[2] y) { y = Sotfmax(x) }")
    assert "node 'y' (Sotfmax)" in str(caught.value) and "'Softmax'" in str(caught.value)


def test_a_custom_operator_of_a_published_model_is_refused_naming_the_node() -> None:
    with pytest.raises(UnsupportedError, match=r"node 'Quant_13'.*onnx\.brevitas"):
        import_onnx(stored_model("onnx/qonnx_tfc_2w2a"))


@pytest.mark.parametrize("opset", [0, 29, -1])
def test_an_opset_beyond_what_is_known_is_refused(opset: int) -> None:
    proto = parser.parse_model(head() + "g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.opset_import[0].version = opset
    with pytest.raises(InputError, match="nnconv knows 1 to 28"):
        import_onnx(proto.SerializeToString())


def test_branches_become_graphs_that_read_outer_values_directly() -> None:
    model = import_onnx(stored_model("onnx/silero_vad"))
    choices = [node for node in model.graph.nodes if node.op == "If"]
    assert choices
    branch = choices[0].then_branch
    assert isinstance(branch, Graph)
    captured = {
        v.name for n in branch.nodes for v in n.inputs if v is not None and v.graph is model.graph
    }
    assert captured


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {
  y = own.Scaled <gain = 3.0> (x)
  z = own.Twice(y)
}
<domain: "own", opset_import: ["" : 13]>
Scaled <gain> (a) => (b) { c = Constant <value_float: float = @gain> ()  t = Mul(a,
    c)  b = Relu(t) }
<domain: "own", opset_import: ["" : 11, "own" : 1]>
Twice (a) => (c) { b = own.Scaled <gain = 2.0> (a)  s = ReduceSum <axes = [0]> (b)  c = Add(b, s) }
"""


def test_local_functions_are_put_in_where_they_are_called(tmp_path: Path) -> None:
    from nnconv.converter.onnx.writer import export_onnx

    proto = parser.parse_model(FUNCTION)
    x = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
    y = np.maximum(3 * x, 0)  # ONNX Runtime reads a body by the model's opset, so it cannot say
    twice = np.maximum(2 * y, 0)

    model = import_onnx(proto.SerializeToString())
    export_onnx(model, tmp_path / "plain.onnx")

    assert [value.name for value in model.outputs] == ["y", "z"]
    assert not onnx.load(tmp_path / "plain.onnx").functions
    got = run(tmp_path / "plain.onnx", {"x": x})
    np.testing.assert_array_equal(got["y"], y)
    np.testing.assert_array_equal(got["z"], twice + twice.sum(0, keepdims=True))


def test_a_function_that_calls_itself_is_refused() -> None:
    text = FUNCTION.replace("b = own.Scaled <gain = 2.0> (a)", "b = own.Twice(a)")
    with pytest.raises(InputError, match="calls itself"):
        read(text)


def test_functions_that_multiply_without_end_are_refused() -> None:
    calls = "\n".join(
        f'<domain: "own", opset_import: ["" : 13, "own" : 1]>\n'
        f"F{i} (a) => (b) {{ c = own.F{i + 1}(a)  b = own.F{i + 1}(c) }}"
        for i in range(60)
    )
    last = '<domain: "own", opset_import: ["" : 13]>\nF60 (a) => (b) { b = Relu(a) }'
    text = (
        '<ir_version: 8, opset_import: ["" : 13, "own" : 1]>\n'
        "g (float[2] x) => (float[2] y) { y = own.F0(x) }"
    )
    with pytest.raises(InputError, match=r"unfold"):
        read(f"{text}\n{calls}\n{last}")


def test_reading_does_not_import_onnx() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from nnconv.converter.onnx.reader import import_onnx\n"
        "import_onnx(sys.argv[1]); print([m for m in sys.modules if m.split('.')[0] == 'onnx'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(stored_model("onnx/mnist_8"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_generated_tables_are_current(repository: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, str(repository / "tools" / "onnx_schema.py"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
