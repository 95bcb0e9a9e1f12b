"""Compiled networks in a process whose annotations are not checked: the compiler would trace the checks too.

Run as `python compilation_cases.py CASE [FAMILY]`; raises where something is not as it should be.
"""

import functools
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from distiller_cases import SHAPE, UNCLIPPED
from torch import Tensor, nn

from fields.carriers import Condition, Example, Query, Target
from fields.compilation import compiled, compiled_graphs
from fields.data.size import Size
from fields.distiller import Distiller
from fields.families.base import Family
from fields.field import Field
from fields.lora.peft_files import read_adapter
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query
from fields.numerics import Numerics
from fields.operators import Network
from fields.registry import FAMILIES
from fields.scene.family import SceneFamily
from fields.shared_field import Member, SharedField
from fields.student import LoraStudent

WEIGHTS = Path("fields/scene/weights")
SCENE = SceneFamily()


def traced_alone() -> None:
    """Trace and guard blocks as ever, and compute them by the operators that they are written with: seconds, not minutes."""
    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend="eager")  # type: ignore[method-assign]


def question(family: Family, samples: int, size: tuple[int, int], edits: bool, seed: int) -> tuple[Tensor, Tensor, Condition]:
    """Random states, times and conditions."""
    query = largest_query(family, Pass(samples, size, edits))
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=draw) if tensor.is_floating_point() else tensor
        for name, tensor in query.condition.tensors.items()
    }
    t = torch.rand(samples, generator=draw)
    return torch.randn(query.x_t.shape, generator=draw), t, Condition(tensors=tensors, unconditional=tensors)


def base() -> nn.Module:
    return SCENE.load_transformer(WEIGHTS / "base")


def expert() -> None:
    adapter = read_adapter(WEIGHTS / "local_edit")
    plain, fused = (Field.build("local_edit", SCENE, {"local_edit": (base(), adapter)}) for _ in range(2))
    compiled(fused)
    assert compiled_graphs() == 2, "any number of samples, and one"
    for samples in (3, 1, 7, 2):
        asked = question(SCENE, samples, SCENE.default_size, True, samples)
        expected = plain.velocity(*asked)
        answered = fused.velocity(*asked)
        torch.testing.assert_close(answered, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        assert not torch.equal(answered, expected), "the same bits: it was not compiled"
    assert compiled_graphs() == 2


def update() -> None:
    traced_alone()

    def example(*ids: int) -> Example:
        x_t, t, condition = question(SCENE, len(ids), SCENE.default_size, True, ids[0])
        query = Query(
            sample_ids=ids,
            routes=("local_edit",) * len(ids),
            policy_version=0,
            checksum="",
            x_t=x_t,
            t=t,
            t_next=t / 2,
            condition=condition,
        )
        return Example(query=query, target=Target(sample_ids=ids, expert="local_edit", t=t, velocity=x_t))

    examples = [example(2, 3, 4), example(5), example(6, 7)]
    plain, fused = (Distiller(SCENE, base(), LoraStudent(SHAPE), UNCLIPPED, seed=0) for _ in range(2))
    compiled(fused)
    graphs = compiled_graphs()
    for _ in range(2):
        assert plain.update(examples) == fused.update(examples)
    assert graphs == compiled_graphs() > 0


def shared() -> None:
    traced_alone()
    adapters = {"base": None, **{name: read_adapter(WEIGHTS / name) for name in ("local_edit", "global_edit")}}
    members = {name: Member(Network("0"), (name,)) for name in adapters}
    field = compiled(SharedField(SCENE, base(), adapters, members, torch.device("cpu")))
    graphs = compiled_graphs()
    for name in (*adapters, *adapters):
        for samples in (1, 5):
            field.velocity(name, *question(SCENE, samples, SCENE.default_size, True, 0))
    assert graphs == compiled_graphs() > 0


def family(name: str) -> None:
    """No size of image and no number of samples compiles a network again."""
    from tiny_pipelines import PIPELINES, SIZE, build

    traced_alone()
    folder = Path(mkdtemp())
    build(name, PIPELINES[name](), folder)
    own = FAMILIES[name](folder, size=SIZE)
    plain, fused = (Field.build("base", own, {"base": (own.load_transformer(folder), None)}) for _ in range(2))
    compiled(fused)
    graphs = compiled_graphs()
    edits = {"none": (False,), "optional": (False, True), "required": (True,)}[own.source]
    for n, size in enumerate((Size(96, 64), SIZE, Size(64, 64))):
        for edit in edits:
            for samples in (1, 3):
                asked = question(own, samples, size, edit, n)
                assert torch.equal(fused.velocity(*asked), plain.velocity(*asked))
    assert graphs == compiled_graphs() > 0


def limit() -> None:
    """A block that is compiled again and again is an error, and not other bits."""
    import fields.compilation

    traced_alone()
    fields.compilation._MOST_GRAPHS = 1
    with pytest.raises(Exception, match="recompile_limit"):
        compiled(Field.build("base", SCENE, {"base": (base(), None)}))


if __name__ == "__main__":
    Numerics().settle()
    {case.__name__: case for case in (expert, update, shared, family, limit)}[sys.argv[1]](*sys.argv[2:])
