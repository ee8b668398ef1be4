"""The second printer: OpenCL C, one work-item an item of the grid.

Operations are spelled one by one, in the order of the LLVM printer, with contraction off: where
both devices round alike, results are equal bit for bit. A `Form` says how the kernel is called: an
OpenCL buffer has no address to add to, so each may come with an offset.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nnconv.runtime.kernels.language import (
    F32,
    I32,
    MASK,
    U32,
    Argument,
    Condition,
    DType,
    Index,
    Kernel,
    Local,
    Operand,
    Printer,
    Register,
    Value,
)
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import UnsupportedError

_BINARY = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_FUNCTIONS = {
    "neg": "-",
    "abs": "fabs",
    "sqrt": "sqrt",
    "rint": "rint",
    "floor": "floor",
    "ceil": "ceil",
}
_DIGITS = "0123456789abcdef"
_UNROLLED = 8  # rounds of a loop: AMD's compiler starts the loads of 16 at once, and spills


@dataclass(frozen=True, slots=True)
class Form:
    """How a kernel is called. With `offsets` every buffer is followed by a `long`: the bytes
    from its start to where the kernel's element 0 lies. `group` is the number of work-items in a
    work-group; the NDRange is rounded up to it, and items past the grid return at once. With
    `packed` vectors are read through a type aligned like its elements, which only clang knows:
    PoCL's vload16 is sixteen loads that its optimiser needs seconds a kernel to find together.
    """

    offsets: bool = False
    group: int = 1
    packed: bool = False

    def local_size(self, kernel: Kernel) -> int:
        """Work-items in a work-group: the kernel's own where it works in groups."""
        return math.prod(kernel.local) if kernel.local else self.group

    def global_size(self, kernel: Kernel) -> int:
        items = self.local_size(kernel)
        return kernel.total * items if kernel.local else -(-kernel.total // items) * items


PLAIN = Form()


def _number(number: float, dtype: DType) -> str:
    if not dtype.floating:  # a large literal without its u would be a long
        return f"{int(number)}{'u' if dtype is U32 else ''}"
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    text = f"{rounded:.9g}"  # nine digits name every f32 uniquely
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _type(dtype: DType, lanes: int) -> str:
    return dtype.opencl if lanes == 1 else f"{dtype.opencl}{lanes}"


def _parameter(argument: Argument, offsets: bool) -> str:
    restrict = "" if argument.aliased else "restrict "
    offset = f", const long {argument.name}_start" if offsets else ""
    return f"{_space(argument)} {argument.dtype.opencl}* {restrict}{argument.name}{offset}"


def _space(argument: Argument) -> str:
    return "__global" if argument.written else "__global const"


class OpenCLPrinter(Printer):
    """Prints one kernel as OpenCL C; a flat NDRange of `form.global_size` work-items runs it."""

    groups = True

    def __init__(self, kernel: Kernel, target: Target, form: Form = PLAIN) -> None:
        super().__init__(kernel, target)
        self._depth = 1
        self._form = form
        if form.global_size(kernel) >= 1 << 31:
            raise UnsupportedError(
                f"kernel {kernel.name}: more than 2^31 work-items",
                hint="OpenCL kernels index with 32 bits: choose a smaller batch",
            )
        self.types: dict[str, str] = {}  # declarations of packed vectors, by name
        if form.offsets:
            for argument in kernel.arguments:
                kind = f"{_space(argument)} {argument.dtype.opencl}*"
                bytes_ = f"({_space(argument)} char*){argument.name} + {argument.name}_start"
                self.emit(f"{argument.name} = ({kind})({bytes_});")
        for array in kernel.shared:
            # aligned for vectors of four, which `load` and `store` of such arrays may count on
            kind = f"__local {array.dtype.opencl} {array.name}[{array.size}]"
            self.emit(f"{kind} __attribute__((aligned(16)));")
        if kernel.local:
            self.local_ids = self._decode(self._number("get_local_id(0)"), kernel.local)
            self.ids = self._decode(self._number("get_group_id(0)"), kernel.grid)
        else:
            self.ids = self._decode(self.item(), kernel.grid)

    # -- text

    def emit(self, line: str) -> None:
        self.lines.append("  " * self._depth + line)

    def assign(self, expression: str, dtype: DType = F32, lanes: int = 1, hint: str = "v") -> Value:
        name = self.fresh(hint)
        self.emit(f"const {_type(dtype, lanes)} {name} = {expression};")
        return Value(self, name, dtype, lanes)

    def item(self) -> str:
        """The name of the item's number; those past the grid end here."""
        name = self._number("get_global_id(0)")
        if self.kernel.total % self._form.group:
            self.emit(f"if ({name} >= {self.kernel.total}) return;")
        return name

    def _number(self, call: str) -> str:
        return self.assign(call, I32, hint="item").text

    def _decode(self, rest: str, box: tuple[int, ...]) -> tuple[Index, ...]:
        """The coordinates in a box of an item by its number."""
        ids = []
        for extent in reversed(box[1:]):
            ids.append(Index([(self.assign(f"{rest} % {extent}", I32, hint="id").text, 1)]))
            rest = self.assign(f"{rest} / {extent}", I32, hint="id").text
        ids.append(Index([(rest, 1)]))
        return tuple(reversed(ids))

    def text(self) -> str:
        offsets, size = self._form.offsets, self._form.local_size(self.kernel)
        parameters = ", ".join(_parameter(each, offsets) for each in self.kernel.arguments)
        lines = [
            *(f"// {line}" for line in self.kernel.comment()),
            "#pragma OPENCL FP_CONTRACT OFF",
            *self.types.values(),
            f"__kernel __attribute__((reqd_work_group_size({size}, 1, 1)))",
            f"void {self.kernel.name}({parameters}) {{",
            *self.lines,
            "}",
        ]
        return "\n".join(lines) + "\n"

    # -- constants and memory

    def spell_constant(self, number: float, dtype: DType, lanes: int) -> str:
        text = _number(number, dtype)
        return text if lanes == 1 else f"({_type(dtype, lanes)})({text})"

    def vector(self, numbers: Sequence[float], dtype: DType = F32) -> Value:
        each = ", ".join(_number(number, dtype) for number in numbers)
        return Value(self, f"({_type(dtype, len(numbers))})({each})", dtype, len(numbers))

    def load_vector(self, argument: str, index: Index, lanes: int) -> Value:
        known, at = self.argument(argument), self._spell(index)
        dtype = known.dtype
        if lanes == 1:
            text = f"{argument}[{at}]"
        elif isinstance(known, Local):
            text = f"*(const __local {_type(dtype, lanes)}*)({argument} + {at})"
        elif self._form.packed:
            text = f"*(const __global {self._packed(dtype, lanes)}*)({argument} + {at})"
        else:
            text = f"vload{lanes}(0, {argument} + {at})"
        return self.assign(text, dtype, lanes, hint=argument)

    def store_vector(self, argument: str, index: Index, value: Value) -> None:
        at = self._spell(index)
        if value.lanes == 1:
            self.emit(f"{argument}[{at}] = {value.text};")
        elif isinstance(self.argument(argument), Local):
            kind = _type(value.dtype, value.lanes)
            self.emit(f"*(__local {kind}*)({argument} + {at}) = {value.text};")
        elif self._form.packed:
            kind = self._packed(value.dtype, value.lanes)
            self.emit(f"*(__global {kind}*)({argument} + {at}) = {value.text};")
        else:
            self.emit(f"vstore{value.lanes}({value.text}, 0, {argument} + {at});")

    def _packed(self, dtype: DType, lanes: int) -> str:
        """The name of the vector type that may lie at any element; declared by `text`."""
        name = f"packed_{_type(dtype, lanes)}"
        attributes = f"ext_vector_type({lanes}), aligned({dtype.bytes})"
        declared = f"typedef {dtype.opencl} {name} __attribute__(({attributes}));"
        self.types[name] = f"#ifndef {name}\n{declared}\n#define {name} {name}\n#endif"
        return name

    def join(self, parts: Sequence[Value], lanes: int) -> Value:
        dtype = parts[0].dtype
        filling = lanes - sum(part.lanes for part in parts)
        each = ", ".join([*(part.text for part in parts), *[_number(0, dtype)] * filling])
        return self.assign(f"({_type(dtype, lanes)})({each})", dtype, lanes)

    def splat(self, value: Value, lanes: int = 0) -> Value:
        lanes = lanes or self.lanes
        if lanes == 1:
            return value
        return self.assign(f"({_type(value.dtype, lanes)})({value.text})", value.dtype, lanes)

    def prefetch(self, argument: str, index: Index | int) -> None:
        if self._form.packed:  # elsewhere `prefetch` may be a call that costs all registers
            self.emit(f"__builtin_prefetch({argument} + {self._spell(Index.of(index))});")

    # -- arithmetic

    def binary(self, operation: str, a: Value, b: Operand) -> Value:
        other = self._lift(b, a)
        if operation == "mulhi":
            return self.assign(f"mul_hi({a.text}, {other.text})", a.dtype, a.lanes)
        text = f"{a.text} {_BINARY[operation]} {other.text}"
        if (
            operation == "shr" and not a.dtype.unsigned
        ):  # signed >> is arithmetic in C; the language's is logical
            signed = _type(a.dtype, a.lanes)
            text = f"as_{signed}(as_u{signed}({a.text}) >> as_u{signed}({other.text}))"
        return self.assign(text, a.dtype, a.lanes)

    def unary(self, operation: str, a: Value) -> Value:
        return self.assign(f"{_FUNCTIONS[operation]}({a.text})", a.dtype, a.lanes)

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        return self.assign(f"fma({a.text}, {b.text}, {c.text})", a.dtype, a.lanes)

    def compare(self, operation: str, a: Value, b: Operand) -> Value:
        other = self._lift(b, a)
        return self.assign(f"{a.text} {_COMPARE[operation]} {other.text}", MASK, a.lanes, "m")

    def select(self, mask: Value, a: Operand, b: Value) -> Value:
        first = self._lift(a, b)
        if mask.lanes == 1:
            return self.assign(f"{mask.text} ? {first.text} : {b.text}", b.dtype, b.lanes)
        return self.assign(f"select({b.text}, {first.text}, {mask.text})", b.dtype, b.lanes)

    def both(self, a: Condition, b: Condition) -> Condition:
        word = "&&" if a.lanes == 1 else "&"
        return self.assign(f"{a.text} {word} {b.text}", MASK, a.lanes, "m")

    def negate(self, a: Condition) -> Condition:
        return self.assign(f"{'!' if a.lanes == 1 else '~'}{a.text}", MASK, a.lanes, "m")

    def cast(self, value: Value, dtype: DType) -> Value:
        if value.dtype is dtype:
            return value
        text = f"convert_{_type(dtype, value.lanes)}({value.text})"
        if value.dtype is MASK:  # true is -1 in vectors, 1 in scalars
            text = f"convert_{_type(dtype, value.lanes)}({value.text} & 1)"
        return self.assign(text, dtype, value.lanes)

    def bits(self, value: Value, dtype: DType) -> Value:
        return self.assign(f"as_{_type(dtype, value.lanes)}({value.text})", dtype, value.lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        def spell(lane: int) -> str:
            source, at = (a, lane) if lane < a.lanes else (b, lane - a.lanes)
            return source.text if source.lanes == 1 else f"{source.text}.s{_DIGITS[at]}"

        each = ", ".join(map(spell, lanes))
        text = each if len(lanes) == 1 else f"({_type(a.dtype, len(lanes))})({each})"
        return self.assign(text, a.dtype, len(lanes))

    # -- registers

    def register(self, value: Value, name: str = "r") -> Register:
        register = Register(self, self.fresh(name), value.dtype, value.lanes)
        self.emit(f"{_type(value.dtype, value.lanes)} {register.name} = {value.text};")
        return register

    def read_register(self, register: Register) -> Value:
        # A copy: the register may change before the value read is used.
        return self.assign(register.name, register.dtype, register.lanes)

    def write_register(self, register: Register, value: Value) -> None:
        self.emit(f"{register.name} = {value.text};")

    # -- indices

    def _spell(self, form: Index) -> str:
        terms = [atom if c == 1 else f"{atom} * {c}" for atom, c in form.terms]
        largest = max((abs(c) for _, c in form.terms), default=0)
        if max(largest, abs(form.constant)) >= 1 << 31:
            raise UnsupportedError(
                f"kernel {self.kernel.name}: a buffer of more than 2^31 elements",
                hint="OpenCL kernels index with 32 bits: choose a smaller batch",
            )
        if form.constant or not terms:
            terms.append(str(form.constant))
        return "(" + " + ".join(terms) + ")"

    def _derive(self, text: str) -> Index:
        return Index([(self.assign(text, I32, hint="x").text, 1)])

    def materialise(self, form: Index) -> Index:
        return self._derive(self._spell(form))

    def quotient(self, index: Index, divisor: int) -> Index:
        return self._derive(f"{self._spell(index)} / {divisor}")

    def remainder(self, index: Index, divisor: int) -> Index:
        return self._derive(f"{self._spell(index)} % {divisor}")

    def smaller(self, a: Index | int, b: Index | int) -> Index:
        return self._derive(f"min({self._spell(Index.of(a))}, {self._spell(Index.of(b))})")

    def larger(self, a: Index | int, b: Index | int) -> Index:
        return self._derive(f"max({self._spell(Index.of(a))}, {self._spell(Index.of(b))})")

    def index_compare(self, operation: str, a: Index | int, b: Index | int) -> Condition:
        first, second = self._spell(Index.of(a)), self._spell(Index.of(b))
        return self.assign(f"{first} {_COMPARE[operation]} {second}", MASK, 1, "m")

    def index_value(self, index: Index, dtype: DType = I32) -> Value:
        return self.assign(f"({dtype.opencl}){self._spell(index)}", dtype)

    def value_index(self, value: Value) -> Index:
        return self._derive(f"(int){value.text}")

    # -- control

    def barrier(self) -> None:
        self.emit("barrier(CLK_LOCAL_MEM_FENCE);")

    def unroll(self) -> None:
        if not self._form.packed:  # PoCL gains nothing, and compiles for long
            self.lines.append(f"#pragma unroll {_UNROLLED}")

    @contextmanager
    def print_loop(self, start: Index, stop: Index, step: int, name: str) -> Iterator[Index]:
        counter = self.fresh(name)
        first, last = self._spell(start), self._spell(stop)
        self.emit(f"for (int {counter} = {first}; {counter} < {last}; {counter} += {step}) {{")
        self._depth += 1
        yield Index([(counter, 1)])
        self._depth -= 1
        self.emit("}")

    @contextmanager
    def when(self, condition: Condition) -> Iterator[None]:
        self.emit(f"if ({condition.text}) {{")
        self._depth += 1
        yield
        self._depth -= 1
        self.emit("}")


def opencl_text(kernel: Kernel, target: Target, form: Form = PLAIN) -> str:
    """The OpenCL C of a kernel; `target` says whether the device fuses multiply and add."""
    printer = OpenCLPrinter(kernel, target, form)
    kernel.describe(printer)
    return printer.text()
