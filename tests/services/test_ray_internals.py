"""The Ray that is installed is the one whose insides were read."""

import inspect
import json
import subprocess
import sys

import ray
from ray._common import tls_utils
from ray._private import services as ray_services
from ray.serve._private import replica
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.common import DeploymentID
from ray.serve._private.controller import ServeController
from ray.serve._private.exceptions import ExternalScalerDisabledError
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentResponse
from waiting import LIMIT_S

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
    assert replica.add_port_to_grpc_server is tls_utils.add_port_to_grpc_server
    assert 'add_port_to_grpc_server(self._server, "[::]:0")' in inspect.getsource(replica)
    assert "ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(ray_services.get_node_ip_address)


OPENED = """
import json, os, subprocess, sys, psutil, ray
from ray import serve
from fields.numerics import Numerics
from pipelines.cluster import connect
from services.replica import Replica

JOINS = '''
import ray
from pipelines.cluster import connect
assert connect.join({wanted}, print)
print(ray.nodes()[0]["NodeManagerAddress"])
'''

class Answer(Replica):
    device = None

    async def __call__(self):
        return 2

@ray.remote
class Actor:
    def ready(self):
        return 1

another_terminal = dict(os.environ)  # Ray puts into this process's environment that there is a token
connect.start(lambda line: None, num_cpus=2)
actor = Actor.remote()
ray.get(actor.ready.remote())
handle = serve.run(serve.deployment(Answer).bind(Numerics(), {}), name="answer", route_prefix=None)
assert handle.remote().result() == 2
me = psutil.Process()
ours = {process.pid for process in (me, *me.children(recursive=True))}
listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN and each.pid in ours]
print(json.dumps(sorted({each.laddr.ip for each in listening})))
print(len(listening), ray.util.get_node_ip_address())
address = ray.get_runtime_context().gcs_address
for wanted in ("None", repr(address)):
    joining = JOINS.format(wanted=wanted)
    print(subprocess.check_output([sys.executable, "-c", joining], env=another_terminal, text=True).split()[-1])
"""


def test_a_cluster_that_a_run_starts_opens_nothing_to_the_network():
    """Of Ray's servers, a worker's, Serve's controller's and a replica's."""
    asked = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert asked.returncode == 0, asked.stderr
    addresses, rest, *joined = asked.stdout.splitlines()[-4:]
    assert set(json.loads(addresses)) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    number, node = rest.split()
    assert int(number) > 10, "they were looked at"
    assert joined == [node] * 2 == ["127.0.0.1"] * 2, "by another command, which finds it or is told where it is"
