"""Which device a name means, and what is said where there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from nnconv.runtime.devices import available, open_device
from nnconv.runtime.devices.opencl import platform as opencl_platform
from nnconv.runtime.devices.opencl.platform import Place
from nnconv.schemas.errors import InputError, MissingExtraError, UnsupportedError


def word(text: str) -> str:
    """A part of a name that has no colon in it."""
    return max(text.replace(":", " ").split(), key=len)


def names(place: Place) -> list[str]:
    platform, device = word(place.found.platform.name), word(place.found.device.name)
    number = place.name.split(":")[1]
    return [f":{number}", f":{number}:0", f":{platform.lower()}", f":{number}:{device.upper()}"]


def test_a_device_is_named_by_numbers_or_parts_of_its_name(place: Place) -> None:
    assert open_device("opencl").name.startswith("opencl:")
    for name in names(place):
        assert open_device(f"opencl{name}").name == place.name, name


@pytest.mark.parametrize("which", ["7", "0:9", "nobody", "0:nobody"])
def test_a_name_that_fits_nothing_lists_what_there_is(which: str) -> None:
    with pytest.raises(InputError, match=f"no device 'opencl:{which}'") as caught:
        open_device(f"opencl:{which}")
    assert "there are: opencl:0:0" in str(caught.value)


def test_the_variable_names_the_default_device(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNCONV_DEVICE", place.name)
    assert open_device().name == place.name


def test_devices_list_platform_memory_and_extensions(place: Place) -> None:
    info = next(info for info in available() if info.name == place.name)
    assert info.available
    for part in (place.found.platform.name, "GiB memory", "driver"):
        assert part in info.description
    assert info.to_dict()["extensions"] == sorted(place.found.device.extensions.split())


def test_without_a_platform_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyopencl as cl

    monkeypatch.setattr(cl, "get_platforms", list)
    with pytest.raises(UnsupportedError, match="no OpenCL platform") as caught:
        open_device("opencl")
    assert "pocl-opencl-icd" in str(caught.value) and "driver" in str(caught.value)
    info = next(info for info in available() if info.name == "opencl")
    assert not info.available and "pocl-opencl-icd" in info.reason


def test_without_pyopencl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    opencl_platform.require.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match="need pyopencl") as caught:
            open_device("opencl")
        assert "pip install pyopencl" in str(caught.value)
    finally:
        opencl_platform.require.cache_clear()


CASES: list[tuple[str, dict[str, str], str]] = [
    ("import nnconv.runtime.devices.opencl", {}, "False"),
    ("from nnconv.runtime.devices import open_device; open_device('reference')", {}, "False"),
    ("from nnconv.runtime.devices import open_device; open_device('opencl')", {}, "True"),
]


@pytest.mark.parametrize(("code", "variables", "loaded"), CASES)
def test_pyopencl_is_imported_only_when_used(code: str, variables: Any, loaded: str) -> None:
    text = f"import sys; {code}; print('pyopencl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded


@pytest.mark.parametrize(("chosen", "shown"), [("", "/pocl"), ("/elsewhere", "/elsewhere")])
def test_pocl_caches_in_our_folder_unless_the_user_says_otherwise(
    chosen: str, shown: str, tmp_path: Any
) -> None:
    text = (
        "import os; from nnconv.runtime.devices.opencl.platform import require; require();"
        "print(os.environ['POCL_CACHE_DIR'])"
    )
    variables = {"NNCONV_HOME": str(tmp_path), "PATH": ""}
    variables |= {"POCL_CACHE_DIR": chosen} if chosen else {}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, env=variables
    )
    assert done.stdout.strip().endswith(shown)
