"""Experts and rollout workers of several processes: what cannot be is refused with the configuration, the rest is counted."""

import pytest

from pipelines.cluster.demands import RunDemands
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import recipe
from pipelines.parts.footprints import Footprints
from pipelines.parts.run_parts import RunParts


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["experts.local_edit.ranks=2", "experts.local_edit.num_gpus=0.5"],
            r"experts\.local_edit: num_gpus: 0\.5 of one of 2 ranks, which need a GPU each; allowed: 1, or 0 for the CPU",
        ),
        (
            ["learner.ranks=2", "learner.num_gpus=0.5"],
            r"learner: num_gpus: 0\.5 of one of 2 ranks, which need a GPU each; allowed: 1, or 0 for the CPU",
        ),
        (
            ["rollout.ranks=2", "rollout.num_gpus=0.5"],
            r"rollout: num_gpus: 0\.5 of one of 2 ranks, which need a GPU each; allowed: 1, or 0 for the CPU",
        ),
        (
            ["numerics.compile=regional", "experts.local_edit.ranks=2"],
            r"numerics\.compile: regional compiles whole blocks, and experts\.local_edit\.ranks keeps a part of each in every",
        ),
        (
            ["numerics.compile=regional", "learner.ranks=2", "learner.shard=true", "learner.batch_size=48"],
            r"numerics\.compile: regional compiles whole blocks, and learner\.shard keeps a part of each in every process",
        ),
        (
            ["experts.local_edit.num_gpus=2"],
            r"a model that one can't hold is shared by several processes with experts\.NAME\.ranks, rollout\.ranks and",
        ),
        (
            ["experts.local_edit.ranks=2", "experts.local_edit.quantization=int8"],
            "experts.local_edit.ranks: 2 share weights of model.dtype, and experts.local_edit.quantization is int8;",
        ),
        (
            [
                *("experts.local_edit.ranks=2", "experts.global_edit.quantization=int8"),
                "experts.local_edit.operator={type: guidance, scale: 2, of: global_edit}",
            ],
            "experts.local_edit.ranks: 2 share .* and experts.global_edit.quantization is int8; allowed: 1",
        ),
        (
            [
                *(f"experts.{name}.placement=shared" for name in ("local_edit", "global_edit")),
                "experts.global_edit.ranks=2",
            ],
            "experts.global_edit.ranks: 2, but experts.local_edit has 1; shared experts are one application",
        ),
        (
            ["rollout.ranks=2", "rollout.merge=false", "model.quantization=int8"],
            "rollout.ranks: 2 share weights of model.dtype, and model.quantization is int8; allowed: 1",
        ),
        (
            ["rollout.ranks=2", "rollout.merge=true"],
            "rollout: merge: true adds an adapter to weights of which each of 2 ranks has a part; allowed: false, auto",
        ),
        (
            ["rollout.ranks=2", "student={type: full, start: {type: base}}"],
            "rollout.ranks: 2 processes share a frozen base; allowed for student.type full: 1",
        ),
        (["encoder.ranks=2"], r"encoder\.ranks: unknown key; allowed: replicas"),
    ],
)
def test_refused(make_config, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        make_config(*overrides)


def test_ranks_are_resources_and_those_of_a_worker_leave_its_weights_unmerged(make_config):
    alone = make_config("rollout.merge=false")
    several = make_config("experts.local_edit.ranks=2", "rollout.ranks=2")
    assert not several.rollout.merges
    assert recipe(several) == recipe(alone)


def test_a_replica_or_worker_asks_for_all_its_ranks_on_one_node(make_config):
    demands = RunDemands.of(
        make_config(
            *("experts.local_edit.ranks=4", "experts.local_edit.num_gpus=1", "experts.local_edit.replicas=2"),
            *("rollout.ranks=2", "rollout.num_gpus=1"),
        )
    )
    expert, rollout = demands.services["local_edit"], demands.rollout
    assert (expert.count, expert.num_cpus, expert.num_gpus) == (2, 0.4, 4)
    assert (rollout.count, rollout.num_cpus, rollout.num_gpus) == (2, 0.2, 2)
    eight, two = ({"Resources": {"CPU": 64, "GPU": gpus}, "Labels": {}} for gpus in (8, 2))
    assert expert.fits(eight)
    assert not expert.fits(two)
    assert expert.no_node == "experts.local_edit: no node has 0.4 CPU and 4 GPU"


def test_each_rank_holds_its_part_and_two_blocks(make_config):
    gpus = ["experts.local_edit.num_gpus=1", "rollout.num_gpus=1", "rollout.merge=false"]
    several = ["experts.local_edit.ranks=4", "experts.local_edit.replicas=2", "rollout.ranks=4"]
    config = make_config(*gpus)
    alone, shared = (
        {one.who: one for one in Footprints(made).all(4, False, merge=False)} for made in (config, make_config(*gpus, *several))
    )
    network = RunParts(config).family.blueprint(config.model.path)
    block = sum(parameter.numel() for parameter in network.blocks[0].parameters())
    base = sum(parameter.numel() for parameter in network.parameters()) + sum(b.numel() for b in network.buffers())
    adapter = alone["experts.local_edit"].weights - 4 * base
    assert adapter > 0
    assert shared["experts.local_edit"].weights == pytest.approx(4 * (base / 4 + 2 * block) + adapter / 4, rel=1e-3)
    assert shared["rollout"].weights == pytest.approx(4 * (base / 4 + 2 * block), rel=1e-3)
    assert shared["rollout"].kept == alone["rollout"].kept, "every rank has the student's adapter"
    assert (shared["experts.local_edit"].count, shared["rollout"].count) == (8, 8)
    assert shared["experts.local_edit"].host == alone["experts.local_edit"].host, "each loads the whole network on its host"
    assert "more experts.local_edit.ranks" in shared["experts.local_edit"].remedy


def test_compiling_needs_a_compiler(make_config, monkeypatch):
    assert make_config("numerics.compile=regional").numerics.compile == "regional"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"numerics\.compile: regional needs a C\+\+ compiler \(g\+\+, clang\+\+"):
        make_config("numerics.compile=regional")
