"""Caffe's gradients, and the recorded outputs of published models, on an OpenCL device: a sample in
every run, all of them with NNCONV_FULL=1.
"""

from __future__ import annotations

import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from tests.golden import test_models_forward as models
from tests.golden.harness import Case
from tests.gradients import test_golden_layers as layers
from tests.gradients import test_golden_nets as nets
from tests.opencl.test_golden import ALL, SAMPLED_NETS

SAMPLED_MODELS = ("arm_lenet_weights_only",)
NETS = [case for case in nets.NETS if case.name != nets.NEAR_TIE]


def one_a_type() -> list[Case]:
    first: dict[frozenset[str], Case] = {}
    for case in layers.CASES:
        if len(case.types) == 1:
            first.setdefault(case.types, case)
    return list(first.values())


@pytest.mark.parametrize("case", layers.CASES if ALL else one_a_type(), ids=str)
def test_gradients_of_a_layer_are_those_of_caffe(case: Case, device: OpenCLDevice) -> None:
    layers.assert_gradients(case, device)


@pytest.mark.parametrize(
    "case", [case for case in NETS if ALL or case.name.startswith(SAMPLED_NETS)], ids=str
)
def test_gradients_of_a_net_are_those_of_caffe(case: Case, device: OpenCLDevice) -> None:
    nets.assert_within_bounds(nets.deviations(case, nets.loaded(case), device))


if ALL:

    def test_googlenet_with_its_near_ties_decided_as_in_caffe(device: OpenCLDevice) -> None:
        nets.assert_googlenet(device)


@pytest.mark.parametrize(
    "published",
    [model for model in models.MODELS if ALL or str(model) in SAMPLED_MODELS],
    ids=str,
)
def test_a_published_model_gives_the_recorded_outputs(
    published: models.Published, device: OpenCLDevice
) -> None:
    models.assert_recorded(published, {"device": device})
