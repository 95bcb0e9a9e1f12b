"""The Ray job that a run was submitted as: its metadata, which the dashboard and `ray job list` show, says how far it is."""

import json
import os

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray hands the driver of a submitted job


class Job:
    """A running submitted job, seen from its own driver.

    Ray's interface takes metadata at submission only, so this writes into the record that Ray keeps of the job. Its status
    changes after the driver has ended, never beside it, so nothing is overwritten.
    """

    def __init__(self, submission_id: str):
        self._id = submission_id

    @staticmethod
    def of_this_process() -> "Job | None":
        """The job that this driver was submitted as; None where it was started by hand."""
        content = os.environ.get(_JOB_CONFIG)
        return Job(json.loads(content)["metadata"]["job_submission_id"]) if content else None

    def show(self, **metadata: object) -> None:
        """Set entries of the job's metadata; the others stay."""
        from ray._private.ray_constants import KV_NAMESPACE_JOB  # here: a run without Ray imports this file too
        from ray.dashboard.modules.job.common import JobInfoStorageClient, JobStatus
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

        key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=self._id).encode()
        record = json.loads(_internal_kv_get(key, namespace=KV_NAMESPACE_JOB))
        if record["status"] == JobStatus.RUNNING:
            record["metadata"] = {**(record["metadata"] or {}), **{name: str(value) for name, value in metadata.items()}}
            _internal_kv_put(key, json.dumps(record), overwrite=True, namespace=KV_NAMESPACE_JOB)
