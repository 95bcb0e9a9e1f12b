"""What the process of a rollout worker has imported: its start is most of a run's first minute on two cores."""

import subprocess
import sys

CODE = """
import sys
import actors.rollout_worker
import pipelines.parts.run_parts
names = ("ray.serve", "fastapi", "torch.distributed.tensor", "diffusers", "peft", "torch")
print(*[name for name in names if name in sys.modules])
"""


def test_a_rollout_worker_imports_neither_serve_nor_what_only_ranks_need():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["torch"]
