"""What a fresh process has imported, by name: a rollout worker must not pay for libraries that it never calls."""

import subprocess
import sys

HEAVY = ("peft", "transformers", "diffusers", "accelerate", "pyarrow", "torchvision")
TORCH_FREE = (
    *("fields.method.lag", "fields.method.query", "fields.method.routing", "fields.method.times"),
    *("fields.registry", "fields.families.quantization"),
)
METHOD = tuple(
    f"fields.method.{name}" for name in ("objective", "plan", "rollout", "solver", "states", "teaching", "time_grid")
)
ENTRIES = (*METHOD, "fields.policy", "fields.distiller", "fields.field", "fields.shared_field", "fields.reference")

ROLLOUT = """
from pathlib import Path
from fields.lora.adapter import LoraShape
from fields.method.states import RolloutSettings
from fields.method.time_grid import time_grid
from fields.numerics import Numerics
from fields.policy import Policy
from fields.registry import FAMILIES
from fields.student import LoraStudent
from fields.versions import Merged
from fields.lora.peft_files import read_adapter
from fields.carriers import Weights

weights = Path("fields/scene/weights")
family = FAMILIES["scene"]()
adapter = read_adapter(weights / "local_edit")
settings = lambda size: RolloutSettings(seed=0, grid=time_grid(4), solver=None)
Numerics().settle()
policy = Policy(family, Merged(family.load_transformer(weights / "base"), LoraStudent(adapter.shape)), settings)
policy.load(Weights.of(0, adapter.tensors))
"""


def imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of the packages a new interpreter has imported after running the code."""
    report = f"{code}\nimport sys\nprint(*[name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True).stdout.split()


SHARING = ("torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.checkpoint")  # a second each


def test_the_method_and_the_student_import_nothing_that_only_ranks_need():
    assert imported("\n".join(f"import {name}" for name in ENTRIES), SHARING) == []


def test_the_method_and_the_student_import_no_model_library():
    assert imported("\n".join(f"import {name}" for name in ENTRIES), (*HEAVY, "PIL")) == []


def test_what_a_configuration_checks_imports_no_torch():
    assert imported("\n".join(f"import {name}" for name in TORCH_FREE), ("torch", "PIL", *HEAVY)) == []


def test_a_rollout_worker_of_the_scene_family_imports_no_model_library():
    assert imported(ROLLOUT, (*HEAVY, *SHARING)) == []


def test_a_process_that_computes_imports_no_compiler():
    """`torch.use_deterministic_algorithms` would: half the CPU time of a replica's start."""
    assert imported(ROLLOUT, ("torch", "torch._dynamo", "torch._inductor", "sympy")) == ["torch"]


def test_saving_an_adapter_imports_no_model_library():
    """A run's first checkpoint would wait for it."""
    names = "import tempfile; from fields.lora import formats, peft_files"
    write = "peft_files.write_adapter(folder, adapter); formats.write_diffusers(folder, adapter)"
    assert imported(f"{ROLLOUT}\n{names}\nfolder = Path(tempfile.mkdtemp()); {write}", HEAVY) == []


def test_the_report_sees_what_is_imported():
    """PEFT brings transformers along: that is why nothing of the method imports it."""
    assert imported("import peft", ("peft", "transformers")) == ["peft", "transformers"]
