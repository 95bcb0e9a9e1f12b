"""The Ray that is installed is the one whose insides were read."""

import inspect

import ray
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.common import DeploymentID
from ray.serve._private.controller import ServeController
from ray.serve._private.exceptions import ExternalScalerDisabledError
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentResponse

from services.ray_internals import READ_IN


def test_another_ray_has_to_be_read_first():
    assert ray.__version__ == READ_IN, "compare services/ray_internals.py with this Ray, then change READ_IN"


def test_the_names_are_where_they_were():
    update = inspect.signature(ServeController.update_deployment_replicas)
    assert list(update.parameters)[:3] == ["self", "deployment_id", "target_num_replicas"]  # a started Ray adds its own
    assert (DeploymentID("d", "a").name, DeploymentID("d", "a").app_name) == ("d", "a")
    assert issubclass(ExternalScalerDisabledError, Exception)
    assert isinstance(ServeControllerClient.http_config, property)
    assert "_controller" in inspect.getsource(ServeControllerClient.__init__)
    assert inspect.signature(_get_global_client).parameters["raise_if_no_controller_running"].default is True
    assert inspect.iscoroutinefunction(DeploymentResponse._to_object_ref)
