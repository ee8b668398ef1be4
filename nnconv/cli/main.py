"""The command `nnconv`: its verbs, and the one place where errors become messages and exit codes.

Exit codes: 0 done; 1 a check failed; 2 the input or the command line is wrong; 70 a bug of ours;
130 interrupted (143 by SIGTERM).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from nnconv.cli.base import CONTEXT, LazyGroup, Verb, debug_option
from nnconv.schemas.errors import NnconvError

COMPLETE = "_NNCONV_COMPLETE"
OK, USAGE, INTERNAL, INTERRUPTED = 0, 2, 70, 130

VERBS = {
    "caffe2ir": Verb("caffe", "Read a Caffe net and its weights, write a .nnir model."),
    "ir2caffe": Verb("caffe", "Write a model back as a Caffe net and its weights."),
    "onnx2ir": Verb("convert", "Read an ONNX model of any opset, write a .nnir model."),
    "ir2onnx": Verb("convert", "Write a model as ONNX, in test mode."),
    "yaml2ir": Verb(
        "convert", "Read a model in YAML (ours, or nevermind-neu's), write a .nnir model."
    ),
    "ir2yaml": Verb("convert", "Write a model in YAML, for people to read and change."),
    "ir2npz": Verb("convert", "Write a model's weights as a numpy archive."),
    "ir2pb": Verb("convert", "Write a model's weights as a protobuf checkpoint."),
    "convert": Verb("convert", "Convert from any format to any other; suffixes say which."),
    "load-weights": Verb("convert", "Put the weights of a file into a model, by name."),
    "diff": Verb("convert", "Show what two models or weight files differ in."),
    "run": Verb("run", "Run a model on pictures or arrays."),
    "finetune": Verb("finetune", "Train a model further on your own data."),
    "test": Verb("test", "Measure a model on data: accuracy, loss, top-k, confusion."),
    "plot": Verb("plot", "Show the curves of a training run, or draw them."),
    "show": Verb("show", "Show what is inside a model: layers, shapes, parameters, cost."),
    "bench": Verb("bench", "Measure how fast a model runs, and where its time goes."),
    "tune": Verb("tune", "Time kernels for a model and remember the fastest."),
    "zoo": Verb("zoo", "List, fetch and check models that nnconv knows by name."),
    "grad": Verb("grad", "Write the gradients of a model as a model."),
    "devices": Verb("machine", "List the devices that models can run on."),
    "env": Verb("machine", "Show versions, machine and paths, for a bug report."),
    "completion": Verb("completion", "Print the completion script for a shell."),
}

EXAMPLES = (
    ("nnconv show zoo:lenet", "look at the model that comes with nnconv"),
    ("nnconv run zoo:lenet --image digit.png", "let it read a digit"),
    ("nnconv net.prototxt", "ask what a file is and what to do with it"),
)


def _print_version(context: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from nnconv.cli.machine import version_line

    click.echo(version_line())
    context.exit()


@click.group(
    cls=LazyGroup, verbs=VERBS, examples=EXAMPLES, context_settings=CONTEXT,
    params=[debug_option()], subcommand_metavar="COMMAND [ARGS]...",
)  # fmt: skip
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """Convert, inspect and run neural networks.

    MODEL is a .nnir, .onnx, .yaml, .prototxt or .caffemodel file, or one of the zoo (zoo:lenet).
    `nnconv COMMAND --help` explains a command; `nnconv FILE` says what a file is.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises for what a user can cause."""
    state: dict[str, Any] = {}
    if sys.stdout is None:  # closed by the caller (`>&-`)
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        if COMPLETE in os.environ:  # a shell asks what could come next
            cli.main(prog_name="nnconv", complete_var=COMPLETE)
        words = list(sys.argv[1:] if args is None else args)
        with cli.make_context("nnconv", words, obj=state) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return OK
    except (Exception, KeyboardInterrupt) as error:
        if state.get("debug") and not isinstance(error, click.exceptions.Exit):
            import traceback

            traceback.print_exc()
        return explain(error)


def explain(error: BaseException) -> int:
    """Say on stderr what went wrong and return the exit code."""
    match error:
        case NnconvError():
            return _explain_problems(error)
        case click.exceptions.Exit():
            return error.exit_code
        case click.UsageError():
            return _explain_usage(error)
        case KeyboardInterrupt() | click.Abort():
            text, code = error.args or ("interrupted", INTERRUPTED)
            return _say(text, code)
        case BrokenPipeError():  # the reader (head, less) has seen enough
            _close_output()
            return OK
        case OSError():
            _close_output()
            where = error.filename or ("standard output" if error.errno in _FULL else "")
            what = (error.strerror or str(error)).lower()
            return _say(f"{where}: {what}" if where else what, USAGE)
        case MemoryError():
            return _say("there is not enough memory for this", USAGE)
        case _:
            what = f"{type(error).__name__}: {error}"
            return _say(
                f"internal error: {what} (run with --debug, and please report it)", INTERNAL
            )


# what a write says that has nowhere to go; files of ours have their names in their errors
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _close_output() -> None:
    """What is still unwritten goes nowhere: Python would try again when it ends, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain_usage(error: click.UsageError) -> int:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 on
        error.show()
        return USAGE
    from nnconv.cli.usage import problem

    return _say(str(problem(error)), USAGE)


def _explain_problems(error: NnconvError) -> int:
    count = len(error.problems)
    text = str(error)
    if count > 1:
        text += f"\n{count} problems, nothing written"
    return _say(text, error.exit_code)


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody hears it, but the exit code still tells
        click.echo(message, err=True)
    return code
