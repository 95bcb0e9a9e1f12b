"""A trace of some of a network's forwards, and of what comes between them."""

import gzip
import json

import torch
from torch import nn

from fields.tracing import trace_forwards


def test_a_trace_begins_with_one_forward_and_ends_before_another(tmp_path):
    network = nn.Linear(2, 2)
    trace_forwards(network, tmp_path / "traces", "learner", first=2, count=2)

    def step() -> None:
        network(torch.ones(1, 2)).sum().backward()

    for _ in range(3):
        step()
        assert not (tmp_path / "traces").exists(), "forwards 2 and 3 are traced, and what follows them"
    for _ in range(3):
        step()
    (path,) = (tmp_path / "traces").iterdir()
    assert path.name.startswith("learner-")
    names = [event["name"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
    assert names.count("aten::linear") == 2
    assert sum(name == "AddmmBackward0" for name in names) == 2
