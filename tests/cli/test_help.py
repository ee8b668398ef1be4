"""The command line answers before it loads anything, and its help is complete."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nnconv.cli.main import VERBS, cli

# what click and our own errors need; everything else that is slow to import must be absent
HEAVY = {
    "numpy", "onnx", "google", "rich", "PIL", "llvmlite", "pyopencl", "cffi", "yaml", "h5py",
    "ml_dtypes", "platformdirs", "filelock", "onnxruntime", "asyncio", "importlib.metadata",
}  # fmt: skip
DOOR = {"nnconv"}
HELP = {
    "nnconv", "nnconv.cli", "nnconv.cli.base", "nnconv.cli.main", "nnconv.schemas",
    "nnconv.schemas.errors",
}  # fmt: skip


def loaded_by(code: str) -> tuple[set[str], set[str]]:
    """The modules of ours, and the heavy ones, that running `code` in a fresh interpreter loads."""
    probe = f"{code}\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    names = set(done.stderr.split())
    ours = {name for name in names if name.partition(".")[0] == "nnconv"}
    return ours, HEAVY & names


def test_importing_nnconv_loads_only_the_door() -> None:
    assert loaded_by("import nnconv") == (DOOR, set())


def test_help_loads_only_click_and_our_own_errors() -> None:
    code = "from nnconv.cli.main import main\nassert main(['--help']) == 0"
    assert loaded_by(code) == (HELP, set())


def test_every_public_name_of_the_door_exists() -> None:
    import nnconv

    assert set(nnconv.__all__) <= set(dir(nnconv))
    assert all(getattr(nnconv, name) is not None for name in nnconv.__all__)


def test_an_unknown_name_of_the_door_is_an_attribute_error() -> None:
    import nnconv

    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        nnconv.laod  # noqa: B018


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_ends_with_two_examples_that_use_it(verb: str) -> None:
    result = CliRunner().invoke(cli, [verb, "--help"])
    assert result.exit_code == 0
    examples = result.output.partition("Examples:")[2]
    assert examples.count(f"nnconv {verb} ") + examples.count(f"nnconv {verb}\n") >= 2


@pytest.mark.parametrize("verb", VERBS)
def test_the_line_of_a_verb_in_the_overview_is_that_of_its_own_help(verb: str) -> None:
    command = cli.get_command(None, verb)  # type: ignore[arg-type]  # the context is not used
    assert command is not None
    first = (command.help or "").split(
        ":" if verb == "show" else ";" if verb == "devices" else "."
    )[0]
    assert VERBS[verb].help.startswith(first.strip().rstrip("."))


def test_version_names_the_packages_whose_behaviour_shows() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output.startswith("nnconv 0.1.0 (Python 3.")
    assert "numpy 2" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_nnconv_back(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_NNCONV_COMPLETE={shell}_complete" in result.output


def test_completion_offers_the_verbs() -> None:
    environment = {**os.environ, "_NNCONV_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "nnconv s", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "nnconv"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["plain,show"]
