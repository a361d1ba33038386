"""Whoever answers a capability answers the whole call: the parameters of the contract, under their names and with its defaults.

`isinstance` of a protocol asks for the method's name alone, and a caller that holds "a detector" passes what the contract offers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from diptych.core.contracts import capabilities
from diptych.core.registry import MODELS
from diptych.models.io.foreign.detectors import GroundingDinoDetector, OwlDetector

PROTOCOLS = [
    one for one in vars(capabilities).values() if getattr(one, "_is_protocol", False) and one.__module__ == capabilities.__name__
]
OWN = {"max_tokens"}
"""Parameters whose default is the model's: a captioner writes as many words as its authors let it."""
ANSWERING = {**{name: MODELS.load(name) for name in MODELS}, "dino": GroundingDinoDetector, "owl": OwlDetector}


def calls(protocol: type) -> Iterator[tuple[str, inspect.Signature]]:
    for name, method in vars(protocol).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield name, inspect.signature(method)


@pytest.mark.parametrize("name", ANSWERING)
def test_a_model_signs_its_capabilities_as_the_contract_does(name: str) -> None:
    kind: Any = ANSWERING[name]
    for protocol in PROTOCOLS:
        methods = dict(calls(protocol))
        if not all(callable(getattr(kind, method, None)) for method in methods):
            continue
        for method, wanted in methods.items():
            signed = inspect.signature(getattr(kind, method)).parameters
            for parameter in wanted.parameters.values():
                own = signed.get(parameter.name)
                assert own is not None, f"{name}.{method} lacks {parameter.name} of {protocol.__name__}"
                assert own.kind == parameter.kind, f"{name}.{method}({parameter.name}) is {own.kind}"
                if parameter.default is not inspect.Parameter.empty and parameter.name not in OWN:
                    assert own.default == parameter.default, f"{name}.{method}({parameter.name}={own.default!r})"
            further = [own for own in signed.values() if own.name not in wanted.parameters and own.kind != own.VAR_KEYWORD]
            assert all(own.default is not inspect.Parameter.empty for own in further), f"{name}.{method} asks for more: {further}"
