"""The first printer: LLVM IR as text, one function over a range of items.

`NAME(arguments, lo, hi)` loads the buffers' addresses from a table and calls `NAME.items`, where
they are known not to overlap. Tiles, vectors and loops are explicit, so the only pass that the
text needs is `sroa`, which turns the allocas of registers into values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nnconv.runtime.kernels.language import (
    F32,
    I32,
    I64,
    MASK,
    Argument,
    Condition,
    DType,
    Index,
    Kernel,
    Operand,
    Printer,
    Register,
    Value,
)
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError

_FLOAT_BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "sdiv",
    "and": "and", "or": "or", "xor": "xor", "shl": "shl", "shr": "lshr",
}  # fmt: skip
_FLOAT_COMPARE = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_INT_COMPARE = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}
_INTRINSICS = {"abs": "fabs", "sqrt": "sqrt", "rint": "rint", "floor": "floor", "ceil": "ceil"}


def _float_hex(number: float) -> str:
    """LLVM spells an f32 constant by the bits of the double that equals it."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


def _integer(number: float, dtype: DType) -> str:
    """LLVM's integers have no sign, but their constants do."""
    value = int(number)
    return str(value - (1 << dtype.bits) if value >> (dtype.bits - 1) > 0 else value)


def _type(dtype: DType, lanes: int) -> str:
    return dtype.llvm if lanes == 1 else f"<{lanes} x {dtype.llvm}>"


class LLVMPrinter(Printer):
    """Prints one kernel as LLVM IR for `target`."""

    def __init__(self, kernel: Kernel, target: Target) -> None:
        super().__init__(kernel, target)
        self._allocas: list[str] = []
        self._declared: set[str] = set()
        self._block = "body"
        # Addresses computed so far, by scope: those of enclosing blocks dominate and may be reused.
        self._scopes: list[dict[tuple[str, tuple[tuple[str, int], ...]], str]] = [{}]
        self.ids = self._decode_item(kernel.grid)

    # -- text

    def emit(self, line: str) -> None:
        self.lines.append("  " + line)

    def assign(self, expression: str, dtype: DType = F32, lanes: int = 1, hint: str = "v") -> Value:
        name = self.fresh("%" + hint)
        self.emit(f"{name} = {expression}")
        return Value(self, name, dtype, lanes)

    def _label(self, label: str) -> None:
        self.lines.append(label + ":")
        self._block = label

    def _decode_item(self, grid: tuple[int, ...]) -> tuple[Index, ...]:
        rest, ids = "%item", []
        for extent in reversed(grid[1:]):
            ids.append(Index([(self.assign(f"urem i64 {rest}, {extent}", hint="id").text, 1)]))
            rest = self.assign(f"udiv i64 {rest}, {extent}", hint="id").text
        ids.append(Index([(rest, 1)]))
        return tuple(reversed(ids))

    def text(self) -> str:
        name, arguments = self.kernel.name, self.kernel.arguments
        head = "".join(f"; {line}\n" for line in self.kernel.comment())
        bits = self.target.vector_bits
        lines = [
            f"define internal void @{name}.items({_parameters(arguments)}, i64 %lo, i64 %hi) #0 {{",
            "entry:",
            *self._allocas,
            "  br label %body",
            "body:",
            "  %item = phi i64 [ %lo, %entry ], [ %item.next, %latch ]",
            *self.lines,
            "  br label %latch",
            "latch:",
            "  %item.next = add nuw nsw i64 %item, 1",
            "  %item.more = icmp ult i64 %item.next, %hi",
            "  br i1 %item.more, label %body, label %done",
            "done:",
            "  ret void",
            "}",
            *_entry_point(name, arguments),
            *sorted(self._declared),
            f'attributes #0 = {{ nounwind noinline "prefer-vector-width"="{bits}"'
            f' "min-legal-vector-width"="{bits}" }}',
        ]
        return head + "\n".join(lines) + "\n"

    def _call(self, intrinsic: str, dtype: DType, *operands: Value) -> Value:
        lanes = operands[0].lanes
        kind = _type(dtype, lanes)
        name = f"@llvm.{intrinsic}.{f'v{lanes}' if lanes > 1 else ''}{dtype.name}"
        self._declared.add(f"declare {kind} {name}({', '.join([kind] * len(operands))})")
        return self.assign(
            f"call {kind} {name}({', '.join(f'{kind} {v.text}' for v in operands)})", dtype, lanes
        )

    # -- constants and memory

    def spell_constant(self, number: float, dtype: DType, lanes: int) -> str:
        text = _float_hex(number) if dtype.floating else _integer(number, dtype)
        return text if lanes == 1 else f"splat ({dtype.llvm} {text})"

    def vector(self, numbers: Sequence[float], dtype: DType = F32) -> Value:
        each = (f"{dtype.llvm} {self.spell_constant(number, dtype, 1)}" for number in numbers)
        return Value(self, f"<{', '.join(each)}>", dtype, len(numbers))

    def _address(self, argument: str, index: Index) -> str:
        kind = self.argument(argument).dtype.llvm
        key = (argument, index.terms)
        base = next((scope[key] for scope in reversed(self._scopes) if key in scope), None)
        if base is None:
            base = f"%{argument}"
            if index.terms:
                offset = self._spell(Index(index.terms))
                base = self.assign(
                    f"getelementptr inbounds {kind}, ptr {base}, i64 {offset}", hint="p"
                ).text
            self._scopes[-1][key] = base
        if not index.constant:
            return base
        return self.assign(
            f"getelementptr inbounds {kind}, ptr {base}, i64 {index.constant}", hint="p"
        ).text

    def load_vector(self, argument: str, index: Index, lanes: int) -> Value:
        dtype = self.argument(argument).dtype
        address = self._address(argument, index)
        load = f"load {_type(dtype, lanes)}, ptr {address}, align {dtype.bytes}"
        return self.assign(load, dtype, lanes, hint=argument)

    def store_vector(self, argument: str, index: Index, value: Value) -> None:
        address = self._address(argument, index)
        kind, align = _type(value.dtype, value.lanes), value.dtype.bytes
        self.emit(f"store {kind} {value.text}, ptr {address}, align {align}")

    def join(self, parts: Sequence[Value], lanes: int) -> Value:
        joined, filled = self.constant(0, parts[0].dtype, lanes), 0
        for part in parts:
            if part.lanes == 1:
                whole, one = _type(part.dtype, lanes), part.dtype.llvm
                insert = f"insertelement {whole} {joined.text}, {one} {part.text}, i64 {filled}"
                joined = self.assign(insert, part.dtype, lanes)
            else:
                wide = self.shuffle(part, part, [min(i, part.lanes - 1) for i in range(lanes)])
                take = [
                    lanes + i - filled if filled <= i < filled + part.lanes else i
                    for i in range(lanes)
                ]
                joined = self.shuffle(joined, wide, take)
            filled += part.lanes
        return joined

    def splat(self, value: Value, lanes: int = 0) -> Value:
        lanes = lanes or self.lanes
        if lanes == 1:
            return value
        kind = _type(value.dtype, lanes)
        one = self.assign(f"insertelement {kind} poison, {value.dtype.llvm} {value.text}, i64 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.assign(
            f"shufflevector {kind} {one.text}, {kind} poison, {zeros}", value.dtype, lanes
        )

    def broadcasts(self, argument: str, index: Index | int, count: int) -> list[Value]:
        if not self.target.indexed or count == 1:
            return super().broadcasts(argument, index, count)
        loaded = self.load_vector(argument, Index.of(index), count)
        return [self.shuffle(loaded, loaded, [i] * self.lanes) for i in range(count)]

    def prefetch(self, argument: str, index: Index | int) -> None:
        address = self._address(argument, Index.of(index))
        self._declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.emit(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 3, i32 1)")

    # -- arithmetic

    def binary(self, operation: str, a: Value, b: Operand) -> Value:
        table = _FLOAT_BINARY if a.dtype.floating else _INT_BINARY
        other = self._lift(b, a)
        if operation == "mulhi":
            return self._upper_half(a, other)
        word = "udiv" if operation == "div" and a.dtype.unsigned else table[operation]
        expression = f"{word} {_type(a.dtype, a.lanes)} {a.text}, {other.text}"
        return self.assign(expression, a.dtype, a.lanes)

    def _upper_half(self, a: Value, b: Value) -> Value:
        """Of a product of 32-bit words: processors have it as one multiplication of even lanes."""
        long = _type(I64, a.lanes)
        wide = (self.assign(f"zext {_type(v.dtype, v.lanes)} {v.text} to {long}") for v in (a, b))
        first, second = (value.text for value in wide)
        product = self.assign(f"mul nuw {long} {first}, {second}").text
        shift = self.constant(32, I64, a.lanes).text
        upper = self.assign(f"lshr {long} {product}, {shift}").text
        return self.assign(f"trunc {long} {upper} to {_type(a.dtype, a.lanes)}", a.dtype, a.lanes)

    def unary(self, operation: str, a: Value) -> Value:
        if operation == "neg":
            return self.assign(f"fneg {_type(a.dtype, a.lanes)} {a.text}", a.dtype, a.lanes)
        return self._call(_INTRINSICS[operation], a.dtype, a)

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        return self._call("fma", a.dtype, a, b, c)

    def compare(self, operation: str, a: Value, b: Operand) -> Value:
        other = self._lift(b, a)
        word = (
            f"fcmp {_FLOAT_COMPARE[operation]}"
            if a.dtype.floating
            else f"icmp {_integer_compare(operation, a.dtype)}"
        )
        return self.assign(
            f"{word} {_type(a.dtype, a.lanes)} {a.text}, {other.text}", MASK, a.lanes, "m"
        )

    def select(self, mask: Value, a: Operand, b: Value) -> Value:
        first, kind = self._lift(a, b), _type(b.dtype, b.lanes)
        choose = (
            f"select {_type(MASK, mask.lanes)} {mask.text}, {kind} {first.text}, {kind} {b.text}"
        )
        return self.assign(choose, b.dtype, b.lanes)

    def both(self, a: Condition, b: Condition) -> Condition:
        return self.assign(f"and {_type(MASK, a.lanes)} {a.text}, {b.text}", MASK, a.lanes, "m")

    def negate(self, a: Condition) -> Condition:
        true = "true" if a.lanes == 1 else "splat (i1 true)"
        return self.assign(f"xor {_type(MASK, a.lanes)} {a.text}, {true}", MASK, a.lanes, "m")

    def cast(self, value: Value, dtype: DType) -> Value:
        if value.dtype is dtype:
            return value
        word = _conversion(value.dtype, dtype)
        source, goal = _type(value.dtype, value.lanes), _type(dtype, value.lanes)
        return self.assign(f"{word} {source} {value.text} to {goal}", dtype, value.lanes)

    def bits(self, value: Value, dtype: DType) -> Value:
        source, goal = _type(value.dtype, value.lanes), _type(dtype, value.lanes)
        return self.assign(f"bitcast {source} {value.text} to {goal}", dtype, value.lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        kind = _type(a.dtype, a.lanes)
        if len(lanes) == 1:
            source, lane = (a, lanes[0]) if lanes[0] < a.lanes else (b, lanes[0] - a.lanes)
            return self.assign(f"extractelement {kind} {source.text}, i64 {lane}", a.dtype, 1)
        mask = f"<{len(lanes)} x i32> <{', '.join(f'i32 {lane}' for lane in lanes)}>"
        return self.assign(
            f"shufflevector {kind} {a.text}, {kind} {b.text}, {mask}", a.dtype, len(lanes)
        )

    # -- registers

    def register(self, value: Value, name: str = "r") -> Register:
        register = Register(self, self.fresh("%" + name), value.dtype, value.lanes)
        self._allocas.append(f"  {register.name} = alloca {_type(value.dtype, value.lanes)}")
        self.write_register(register, value)
        return register

    def read_register(self, register: Register) -> Value:
        load = f"load {_type(register.dtype, register.lanes)}, ptr {register.name}"
        return self.assign(load, register.dtype, register.lanes)

    def write_register(self, register: Register, value: Value) -> None:
        self.emit(f"store {_type(value.dtype, value.lanes)} {value.text}, ptr {register.name}")

    # -- indices

    def _spell(self, form: Index) -> str:
        total = ""
        for atom, coefficient in form.terms:
            term = atom
            if coefficient != 1:
                term = self.assign(f"mul nsw i64 {atom}, {coefficient}", hint="x").text
            total = self.assign(f"add nsw i64 {total}, {term}", hint="x").text if total else term
        if form.constant and total:
            total = self.assign(f"add nsw i64 {total}, {form.constant}", hint="x").text
        return total or str(form.constant)

    def materialise(self, form: Index) -> Index:
        return Index([(self._spell(form), 1)])

    def _derive(self, operation: str, index: Index, other: str) -> Index:
        return Index(
            [(self.assign(f"{operation} i64 {self._spell(index)}, {other}", hint="x").text, 1)]
        )

    def quotient(self, index: Index, divisor: int) -> Index:
        return self._derive("udiv", index, str(divisor))

    def remainder(self, index: Index, divisor: int) -> Index:
        return self._derive("urem", index, str(divisor))

    def _choose(self, operation: str, a: Index | int, b: Index | int) -> Index:
        first, second = self._spell(Index.of(a)), self._spell(Index.of(b))
        test = self.assign(f"icmp {operation} i64 {first}, {second}", hint="m").text
        return Index(
            [(self.assign(f"select i1 {test}, i64 {first}, i64 {second}", hint="x").text, 1)]
        )

    def smaller(self, a: Index | int, b: Index | int) -> Index:
        return self._choose("slt", a, b)

    def larger(self, a: Index | int, b: Index | int) -> Index:
        return self._choose("sgt", a, b)

    def index_compare(self, operation: str, a: Index | int, b: Index | int) -> Condition:
        first, second = self._spell(Index.of(a)), self._spell(Index.of(b))
        return self.assign(f"icmp {_INT_COMPARE[operation]} i64 {first}, {second}", MASK, 1, "m")

    def index_value(self, index: Index, dtype: DType = I32) -> Value:
        text = self._spell(index)
        if dtype.floating:
            return self.assign(f"sitofp i64 {text} to {dtype.llvm}", dtype)
        return (
            self.assign(f"trunc i64 {text} to {dtype.llvm}", dtype)
            if dtype.bits < 64
            else Value(self, text, dtype, 1)
        )

    def value_index(self, value: Value) -> Index:
        if value.dtype.bits == 64:
            return Index([(value.text, 1)])
        extend = "zext" if value.dtype.unsigned else "sext"
        return Index(
            [(self.assign(f"{extend} {value.dtype.llvm} {value.text} to i64", hint="x").text, 1)]
        )

    # -- control

    @contextmanager
    def print_loop(self, start: Index, stop: Index, step: int, name: str) -> Iterator[Index]:
        counter, first, last = self.fresh("%" + name), self._spell(start), self._spell(stop)
        body, after, before = self.fresh("loop"), self.fresh("after"), self._block
        if start.terms or stop.terms:
            some = self.index_compare("lt", start, stop)
            self.emit(f"br i1 {some.text}, label %{body}, label %{after}")
        elif start.constant < stop.constant:
            self.emit(f"br label %{body}")
        else:
            raise InternalError(f"kernel {self.kernel.name}: loop {name} of no turns")
        self._label(body)
        phi = len(self.lines)
        self.lines.append("")
        self._scopes.append({})
        yield Index([(counter, 1)])
        self._scopes.pop()
        self.lines[phi] = (
            f"  {counter} = phi i64 [ {first}, %{before} ], [ {counter}.next, %{self._block} ]"
        )
        self.emit(f"{counter}.next = add nsw i64 {counter}, {step}")
        more = self.assign(f"icmp slt i64 {counter}.next, {last}", hint="m").text
        self.emit(f"br i1 {more}, label %{body}, label %{after}")
        self._label(after)

    @contextmanager
    def when(self, condition: Condition) -> Iterator[None]:
        then, after = self.fresh("then"), self.fresh("after")
        self.emit(f"br i1 {condition.text}, label %{then}, label %{after}")
        self._label(then)
        self._scopes.append({})
        yield
        self._scopes.pop()
        self.emit(f"br label %{after}")
        self._label(after)


def llvm_text(kernel: Kernel, target: Target) -> str:
    """The LLVM IR of a kernel."""
    printer = LLVMPrinter(kernel, target)
    kernel.describe(printer)
    return printer.text()


def _conversion(source: DType, goal: DType) -> str:
    if source.floating:
        return "fptoui" if goal.unsigned else "fptosi"
    if goal.floating:
        return "uitofp" if source.unsigned else "sitofp"
    if goal.bits < source.bits:
        return "trunc"
    return "zext" if source.unsigned else "sext"


def _integer_compare(operation: str, dtype: DType) -> str:
    word = _INT_COMPARE[operation]
    return word.replace("s", "u") if dtype.unsigned else word


def _parameters(arguments: Sequence[Argument]) -> str:
    return ", ".join(f"ptr {'' if a.aliased else 'noalias '}%{a.name}" for a in arguments)


def _entry_point(name: str, arguments: Sequence[Argument]) -> list[str]:
    """The function in the job table: addresses come from a table in memory."""
    lines = [f"define void @{name}(ptr %arguments, i64 %lo, i64 %hi) #0 {{"]
    for i, argument in enumerate(arguments):
        lines.append(f"  %slot{i} = getelementptr ptr, ptr %arguments, i64 {i}")
        lines.append(f"  %{argument.name} = load ptr, ptr %slot{i}")
    passed = ", ".join(f"ptr %{argument.name}" for argument in arguments)
    return [*lines, f"  call void @{name}.items({passed}, i64 %lo, i64 %hi)", "  ret void", "}"]
