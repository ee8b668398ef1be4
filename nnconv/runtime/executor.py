"""Compiling a model and running it: an Executable holds one plan for each set of input shapes it
has met.

The user's model is never changed: an Executable works on a copy of the graph, bound to a mode
once, and to sizes once a plan. Any number of threads may run one Executable; in training mode runs
take turns, because each starts from the state the last one left.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnconv.runtime.devices import open_device
from nnconv.runtime.devices.base import Device, Settings
from nnconv.runtime.kernels.arrays import aligned
from nnconv.runtime.ops.registry import subject
from nnconv.runtime.passes import Binding, PassResult, check_names, debug_level, run_passes
from nnconv.runtime.plan import Plan, check_feasible
from nnconv.schemas.dims import evaluate_shape, names
from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.runtime.devices.base import Step
    from nnconv.schemas.dims import Shape
    from nnconv.schemas.graph import Graph, Model, Value
    from nnconv.schemas.types import Array

_log = logging.getLogger("nnconv.executor")

MODES = ("test", "train")
PRECISIONS = ("f32", "f64")
PLAN_CACHE_SIZE = 8


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output; its `shape` may hold names of sizes, and is None while unknown."""

    name: str
    dtype: DType
    shape: Shape | None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {_text(self.shape)}"


def compile_model(
    model: Model,
    device: str | Device | None = None,
    mode: str | None = None,
    precision: str = "f32",
    threads: int | None = None,
    outputs: Sequence[str] | str | None = None,
    optimise: bool | None = None,
    *,
    disable: Collection[str] = (),
    seed: int = 0,
    cache_size: int = PLAN_CACHE_SIZE,
    winograd: int = 4,
    tune: bool = False,
    in_place: bool = False,
    recycle: bool = False,
) -> Executable:
    """Make a model ready to run.

    `device` is a name (`nnconv devices` lists them), `mode` "test" or "train" (the model's own by
    default). `precision="f64"` computes everything in float64 from parameters and inputs on, and
    rounds the results to float32 at the end. `outputs` names any values, inner ones too, or is
    "all". `optimise` overrides whether passes that only make things faster run, `disable` leaves
    some of them out. `seed` drives dropout. At most `cache_size` plans are kept, one for each set
    of input shapes. On the cpu device `winograd` allows F(4x4,3x3) (4) or F(2x2,3x3) (2), whose
    rounding moves a convolution's results by about 2e-5 or 4e-6 of the largest, or neither (0);
    `tune` chooses among kernels by timing them. `in_place` lets runs write over the arrays of the
    state: faster, but what `live_state` gave before a run is gone after it. With `recycle`
    they write over the arrays of the run before: what `live_state` gave lives through one run.

    Raises InputError for an unknown device, mode or output and for parameters without data.
    """
    for name, value, known in (
        ("mode", mode or model.mode, MODES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise InputError(f"{name} must be {' or '.join(known)}, got '{value}'")
    if winograd not in (0, 2, 4):
        raise InputError(f"winograd must be 0, 2 or 4, got {winograd}")
    check_names(disable)
    chosen = device if device is not None and not isinstance(device, str) else open_device(device)
    binding = Binding(mode or model.mode, precision, seed, supports=chosen.supports)
    binding.stated = _stated_shapes(model)
    return Executable(
        model, chosen, binding, outputs, Settings(threads, winograd, tune, in_place, recycle),
        optimise=chosen.optimises if optimise is None else optimise,
        disable=frozenset(disable), cache_size=cache_size,
    )  # fmt: skip


class Executable:
    """A model compiled for a device and a mode.

    >>> executable = compile_model(model)                   # doctest: +SKIP
    >>> executable.run({"data": picture})["prob"]           # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        binding: Binding,
        outputs: Sequence[str] | str | None,
        settings: Settings,
        *,
        optimise: bool,
        disable: frozenset[str],
        cache_size: int,
    ) -> None:
        self.name = model.name
        self._device = device
        self._binding = binding
        self._settings = settings
        self._optimise = optimise
        self._disable = disable
        self._cache_size = max(1, cache_size)
        self._plans: OrderedDict[_Shapes, _Ready] = OrderedDict()
        self._last: tuple[_Shapes, _Ready | None] = (), None  # of a run, which the next is like
        self._lock = threading.RLock()
        self._turn = threading.RLock()
        self._step = 0
        graph = self._graph = model.graph.copy()
        graph.outputs = _chosen_outputs(graph, outputs)
        graph.losses = []  # what a run computes is outputs and state; a loss is either, or not run
        self._declared = {value.name: _port(value) for value in graph.inputs}
        self.outputs = tuple(map(_port, graph.outputs))
        self._passes = run_passes(graph, "model", binding, optimise=optimise, disable=disable)
        _require_weights(graph)
        _require_one_each(graph)
        needed = {v.name for v in graph.inputs if v.uses or v in graph.outputs}
        self.inputs = tuple(port for name, port in self._declared.items() if name in needed)
        self._takes = tuple((port, port.name, port.dtype.numpy) for port in self.inputs)
        self._names = tuple(port.name for port in self.outputs)
        self._state = {s.name: _own(np.asarray(s.read.data)) for s in graph.state}
        self._alike = self.mode == "test" and not self._state  # what a run does, no matter when
        self._spares: dict[str, Array] = {}
        self._watch = _log_step if debug_level() >= 2 else None

    # --- what it is -------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        return self._device.name

    @property
    def mode(self) -> str:
        return self._binding.mode

    @property
    def precision(self) -> str:
        return self._binding.precision

    @property
    def state(self) -> dict[str, Array]:
        """Copies of what lives across runs, by name. Assign a dictionary to set any of it."""
        with self._turn:
            return {name: array.copy() for name, array in self._state.items()}

    @state.setter
    def state(self, arrays: Mapping[str, Array]) -> None:
        with self._turn:
            merged = dict(self._state)
            for name, array in arrays.items():
                if name not in merged:
                    hint = did_you_mean(name, merged)
                    raise InputError(f"there is no state '{name}'", hint=hint)
                if np.shape(array) != merged[name].shape:
                    wanted, got = _text(merged[name].shape), _text(np.shape(array))
                    raise InputError(f"state '{name}' is {wanted}, got {got}")
                merged[name] = _own(np.asarray(array, merged[name].dtype))
            self._state = merged

    @property
    def live_state(self) -> dict[str, Array]:
        """The state itself, not copies: to be looked at, not changed, until the next run."""
        return dict(self._state)

    @property
    def step(self) -> int:
        """The number of the next run: with the seed it decides what dropout drops. Settable."""
        return self._step

    @step.setter
    def step(self, number: int) -> None:
        with self._turn:
            self._step = int(number)

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return (
            f"<Executable {self.name or 'without a name'} on {self.device} ({self.mode}): "
            f"inputs {inputs or 'none'}; outputs {outputs or 'none'}>"
        )

    # --- running ----------------------------------------------------------------------------------

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        watch: Callable[[Step, float], None] | None = None,
    ) -> dict[str, Array]:
        """The outputs by name, in the model's order, as fresh arrays.

        Any real dtype is taken that converts to the input's without losing its kind (float64 and
        integers to float32, say). `watch`, where given, is called with every step and the seconds
        it took. Raises InputError for a missing or unknown input, a wrong type, rank or shape.
        """
        if watch is None:
            watch = self._watch
        arrays = self._arrays(inputs)
        ready = self._ready(tuple([array.shape for array in arrays]))
        feeds: list[Array | None] = list(arrays)
        if not ready.as_given:
            feeds = [
                None if place is None else arrays[place].astype(dtype, copy=False)
                for place, dtype in ready.feeds
            ]
        if self._alike:
            results = ready.plan.program(feeds, self._step, watch)
        else:
            with self._turn:
                results = self._change(ready, feeds, watch)
        if self.precision == "f64":
            ports = zip(self.outputs, results, strict=False)
            return {port.name: _rounded(port, result) for port, result in ports}
        return dict(zip(self._names, results, strict=False))

    def _change(
        self, ready: _Ready, feeds: list[Array | None], watch: Callable[[Step, float], None] | None
    ) -> list[Array]:
        """A run that starts from the state and leaves the next one."""
        state, program, more = self._fitting(ready), ready.plan.program, {}
        feeds += [state[name] for name in ready.states]
        if self._settings.recycle and getattr(program, "recycles", False):
            if not self._spares:
                self._spares = {name: _own(array) for name, array in state.items()}
            more = {"spares": [self._spares[name] for name in ready.states]}
        results = program(feeds, self._step, watch, **more)
        self._step += 1
        if more:
            self._spares = state
        changed = dict(zip(ready.states, results[len(results) - len(ready.states) :], strict=True))
        self._state = changed if len(changed) == len(state) else state | changed
        return results

    def _fitting(self, ready: _Ready) -> dict[str, Array]:
        """The state, in which what is of another size than this plan's starts anew."""
        wrong = {
            name: start
            for name, start in ready.starts.items()
            if self._state[name].shape != start.shape
        }
        if wrong:
            self._spares = {}
            self._state = self._state | {name: _own(start) for name, start in wrong.items()}
        return self._state

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Run with arrays in the order of `inputs`, or by name; one output comes as an array,
        several as a dictionary."""
        if len(arrays) > len(self.inputs):
            wanted = ", ".join(map(str, self.inputs)) or "no inputs"
            raise InputError(f"{len(arrays)} inputs given, the model takes {wanted}")
        given = {name: array for (_, name, _), array in zip(self._takes, arrays, strict=False)}
        if named:
            if both := given.keys() & named.keys():
                raise InputError(f"input '{min(both)}' is given twice")
            given |= named
        results = self.run(given)
        return next(iter(results.values())) if len(results) == 1 else results

    def plan(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Plan:
        """The plan for these input shapes; inputs left out have the sizes that the model states."""
        given = {name: tuple(map(int, shape)) for name, shape in (shapes or {}).items()}
        self._check_names(given)
        for port in self.inputs:
            if port.name not in given:
                if port.name not in self._binding.stated:
                    raise InputError(f"the model states no shape for '{port.name}': give one")
                given[port.name] = self._binding.stated[port.name]
        return self._ready(tuple(given[port.name] for port in self.inputs)).plan

    def stated_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs at the source's own sizes, as far as it states them."""
        return dict(self._binding.stated)

    # --- inside -----------------------------------------------------------------------------------

    def _arrays(self, inputs: Any) -> list[Array]:
        """The inputs that a run needs, as arrays of the right type, in the order of `inputs`."""
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            wanted = ", ".join(map(str, self.inputs)) or "no inputs"
            kind = type(inputs).__name__
            raise InputError(
                f"run takes a dictionary of input name -> array, got {kind}",
                hint=f"the model takes {wanted}",
            )
        if not inputs.keys() <= self._declared.keys():
            self._check_names(inputs)
        arrays = []
        for port, name, dtype in self._takes:
            if name not in inputs:
                wanted = ", ".join(map(str, self.inputs))
                raise InputError(f"input '{name}' is missing", hint=f"the model takes {wanted}")
            given = inputs[name]
            ready = type(given) is np.ndarray and given.dtype == dtype
            arrays.append(given if ready else _as_array(port, given))
        return arrays

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        for name in inputs:
            if name not in self._declared:
                known = ", ".join(self._declared) or "none"
                hint = did_you_mean(str(name), self._declared) or f"the inputs are: {known}"
                raise InputError(f"there is no input '{name}'", hint=hint)

    def _check_shape(self, port: Port, shape: tuple[int, ...]) -> None:
        if port.shape is None:
            return
        fits = len(shape) == len(port.shape) and all(
            names(dim) or dim == given for dim, given in zip(port.shape, shape, strict=True)
        )
        if not fits:
            what = f"input '{port.name}' must be {_text(port.shape)}, got {_text(shape)}"
            hint = ""
            if len(shape) + 1 == len(port.shape):
                hint = "is the batch axis missing? x[None] adds it"
            raise InputError(what, hint=hint)

    def _ready(self, shapes: _Shapes) -> _Ready:
        """The plan for these shapes of the inputs, and how to feed it. Raises InputError for shapes
        that the model does not take.
        """
        last, ready = self._last
        if last == shapes and ready is not None:
            return ready
        with self._lock:
            ready = self._plans.get(shapes)
            if ready is None:
                for port, shape in zip(self.inputs, shapes, strict=True):
                    self._check_shape(port, shape)
                ready = self._plans[shapes] = self._make_ready(shapes)
                while len(self._plans) > self._cache_size:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(shapes)
            self._last = shapes, ready
            return ready

    def _make_ready(self, shapes: _Shapes) -> _Ready:
        given = [port.name for port in self.inputs]
        plan = self._make_plan(dict(zip(given, shapes, strict=True)))
        places = {name: place for place, name in enumerate(given)}
        feeds = tuple((places.get(v.name), v.dtype.numpy) for v in plan.graph.inputs)
        as_given = feeds == tuple((place, t[2]) for place, t in enumerate(self._takes))
        resized = {state.name for state in self._graph.state if _is_open(state.write)}
        starts = {s.name: np.asarray(s.read.data) for s in plan.graph.state if s.name in resized}
        states = tuple(state.name for state in plan.graph.state)
        return _Ready(plan, feeds, as_given, states, starts)

    def _make_plan(self, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
        graph = self._graph.copy()
        binding = replace(self._binding, shapes=shapes)
        done: list[PassResult] = run_passes(
            graph, "shapes", binding, optimise=self._optimise, disable=self._disable
        )
        check_feasible(graph)
        _require_lasting_shapes(graph)
        program = self._device.lower(graph, self._settings)
        plan = Plan(dict(shapes), graph, program, self.device, (*self._passes, *done))
        if debug_level() >= 1:
            _log.warning("%s", plan)
        return plan


_Shapes = tuple[tuple[int, ...], ...]
"""Those of an Executable's inputs, in their order."""


class _Ready(NamedTuple):
    """A plan; for each input of its graph, which of the Executable's it is and the dtype that it
    computes in, and whether these are the Executable's own as they come; the names of its states,
    and what those start with whose size is the inputs'.
    """

    plan: Plan
    feeds: tuple[tuple[int | None, np.dtype[Any]], ...]
    as_given: bool
    states: tuple[str, ...]
    starts: dict[str, Array]


def _own(array: Array) -> Array:
    """A copy in memory as kernels read it fastest."""
    made: Array = aligned(array.size, array.dtype).reshape(array.shape)
    made[...] = array
    return made


def _is_open(value: Value) -> bool:
    return value.shape is None or not all(isinstance(size, int) for size in value.shape)


def _rounded(port: Port, result: Array) -> Array:
    """A result of float64 as what the model says."""
    return result.astype(np.float32, copy=False) if port.dtype is DType.FLOAT32 else result


def _port(value: Value) -> Port:
    return Port(value.name, value.dtype, value.shape)


def _log_step(step: Step, seconds: float) -> None:
    made = step.writes[0].name if step.writes else ""
    _log.warning("%-32s %s %.3f ms", step.kernel, made, seconds * 1e3)


def _stated_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs at the source's own sizes, as far as it states them."""
    stated = {}
    for value in model.inputs:
        with contextlib.suppress(KeyError, InputError):
            stated[value.name] = evaluate_shape(value.known_shape, model.graph.sizes)
    return stated


def _chosen_outputs(graph: Graph, wanted: Sequence[str] | str | None) -> list[Value]:
    """The values an Executable returns: the graph's outputs, those named, or every computed one."""
    if wanted is None:
        return list(graph.outputs)
    if wanted == "all":
        # what is written to state may not exist in the mode that is compiled for
        state = {state.write for state in graph.state}
        return [value for node in graph.nodes for value in node.outputs if value not in state]
    chosen = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in graph.values:
            hint = did_you_mean(name, graph.values)
            raise InputError(f"there is no value '{name}' in the model", hint=hint)
        chosen.append(graph.values[name])
    return list(dict.fromkeys(chosen))


def _require_one_each(graph: Graph) -> None:
    """Raise InputError where two states have one name: a state is kept by its name."""
    seen: set[str] = set()
    for state in graph.state:
        if state.name in seen:
            raise InputError(f"two states are called '{state.name}'")
        seen.add(state.name)


def _require_lasting_shapes(graph: Graph) -> None:
    """Raise InputError where a state would leave a run with another shape than it had: kernels
    write over its memory.
    """
    for state in graph.state:
        before, after = state.read.shape, state.write.shape
        if before != after:
            raise InputError(
                f"state '{state.name}' is {_text(before)} before a run and {_text(after)} after it",
                hint="its size must not depend on the inputs",
            )


def _require_weights(graph: Graph) -> None:
    """Raise InputError naming the parameters that are used but have no data."""
    empty = list(_without_data(graph))
    if not empty:
        return
    first = empty[0]
    more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
    reader = next(iter(first.consumers), None)
    where = f" of {subject(reader)}" if reader is not None else ""
    raise InputError(
        f"no weights for '{first.name}' ({_text(first.shape)}){where}{more}",
        span=reader.span if reader is not None else None,
        hint="give the file with the weights too (--weights FILE)",
    )


def _without_data(graph: Graph) -> Iterator[Value]:
    for value in graph.values.values():
        if value.is_stored and value.data is None and (value.uses or value in graph.outputs):
            yield value


def _as_array(port: Port, given: Any) -> Array:
    """The array as the input's dtype. Raises InputError for complex numbers, strings, and what
    numpy cannot convert without losing the kind (floats to an integer input, say)."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise InputError(f"input '{port.name}' is no array: {error}") from None
    wanted = port.dtype.numpy
    kind = array.dtype.kind
    if array.dtype == wanted:
        return array
    to_float = port.dtype.is_float and (
        kind in "iufb" or array.dtype.name in ("bfloat16", "float16")
    )
    if to_float or (kind == "b" and port.dtype.is_integer):
        return array.astype(wanted)
    if kind in "iu" and port.dtype.is_integer:
        return _checked_integers(port, array)
    raise InputError(f"input '{port.name}' must be {port.dtype}, got {array.dtype}")


def _checked_integers(port: Port, array: Array) -> Array:
    converted = array.astype(port.dtype.numpy)
    if not np.array_equal(converted, array):
        raise InputError(f"input '{port.name}' holds values that {port.dtype} cannot")
    return converted


def _text(shape: Any) -> str:
    return "?" if shape is None else "x".join(map(str, shape)) or "scalar"
