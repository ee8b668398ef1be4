"""Caffe's schemas as data: against the field table they were made from, and against each other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pool

from nnconv.converter.caffe import schema
from nnconv.schemas.errors import InputError
from tests.places import REPOSITORY, shared

TABLE = shared("caffe_fields.json")


def test_the_committed_schema_is_what_the_generator_makes() -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "caffe_schema.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def test_every_field_of_master_has_its_number_type_and_default() -> None:
    master = schema.dialect()
    for name, fields in json.loads(TABLE.read_text())["base"]["messages"].items():
        known = master.descriptor(name).fields_by_name
        assert len(known) == len(fields), name
        for field in fields:
            descriptor = known[field["name"]]
            assert descriptor.number == field["number"]
            assert descriptor.type == schema.TYPES[field["type"]]
            assert descriptor.is_repeated == (field["label"] == "repeated")
            assert descriptor.has_default_value == ("default" in field)


@pytest.mark.parametrize("name", schema.dialects())
def test_a_dialect_has_all_that_its_fork_added_or_changed(name: str) -> None:
    dialect = schema.dialect(name)
    overlay = json.loads(TABLE.read_text())["overlays"].get(name, {})
    changes = {
        message: [*change.get("added", []), *change.get("changed", [])]
        for message, change in overlay.get("messages", {}).items()
    }
    for message, fields in {**changes, **overlay.get("messages_new", {})}.items():
        known = dialect.descriptor(message).fields_by_name
        for field in fields:
            assert known[field["name"]].number == field["number"], (message, field)
            assert dialect.knows(message, field["name"])


def test_nothing_reaches_the_default_pool() -> None:
    schema.dialect("ssd").new("NetParameter")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")


def test_dialects_knowing_tells_forks_from_what_was_filled_in() -> None:
    assert "ssd" in schema.dialects_knowing("LayerParameter", "permute_param")
    assert "bvlc" not in schema.dialects_knowing("LayerParameter", "permute_param")
    # ssd branched off before Clip was added: a message can hold it, but the fork has no such field.
    assert not schema.dialect("ssd").knows("LayerParameter", "clip_param")
    assert "clip_param" in schema.dialect("ssd").descriptor("LayerParameter").fields_by_name
    assert schema.dialects_knowing("LayerParameter", "nobody_has_this") == ()


def test_numbers_and_enum_values_lead_to_their_forks() -> None:
    assert "pspnet" in schema.dialects_numbering("LayerParameter", 152)
    assert schema.dialects_with_value("SolverParameter.SolverType", "SAG") == ("nvidia-0.17",)


@pytest.mark.parametrize("name", ["segnet", "fcn", "fast-rcnn", "yjxiong-mem"])
def test_kernel_sizes_are_lists_in_every_dialect(name: str) -> None:
    fields = schema.dialect(name).descriptor("ConvolutionParameter").fields_by_name
    assert fields["kernel_size"].is_repeated and fields["pad"].is_repeated


def test_enums_are_found_by_name() -> None:
    assert schema.dialect().enum("Phase").values_by_name["TEST"].number == 1


def test_an_unknown_dialect_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InputError, match="mobilenet-yolo"):
        schema.dialect("mobilenet_yolo")
    with pytest.raises(InputError, match="known: bvlc"):
        schema.dialect("0123456789")
