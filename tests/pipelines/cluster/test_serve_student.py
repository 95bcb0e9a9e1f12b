"""The command itself: a run's newest student over HTTP, asked by the stock OpenAI client; and what it refuses to serve."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx2
import openai
import psutil
import pytest
from siege import Siege
from waiting import LIMIT_S, wait_for

from fields import checkpoint
from fields.carriers import Weights
from fields.data.bucket import Bucket
from fields.data.images import encode_png
from fields.method.plan import noise
from fields.method.rollout import clean
from fields.method.solver import Euler, Velocity
from fields.numerics import Numerics
from fields.scene.family import SceneFamily
from pipelines.cluster.endpoint import endpoint_settings, find_served, start_endpoint
from pipelines.config.run import RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.run_folder.outcome import write_config
from pipelines.serve_student import main
from runs import reference
from services.applications import HttpAddress, delete, deploy
from services.encoder import encoder_application
from services.resources import Resources

QUEUE = 8
TOKEN = "secret"
GUIDED = "{type: negative_prompt, scale: 2, of: {type: edit_guidance, image_scale: 1.5, text_scale: 2}}"


@dataclass(frozen=True)
class Served:
    config: RunConfig
    command: subprocess.Popen
    url: str


@pytest.fixture
def run(make_config) -> RunConfig:
    """A run of six steps whose newest checkpoint is the one of step 6; its average differs from the student, and one of its
    experts needs an image and a negative prompt."""
    named = ("run.steps=6", "run.name=served")
    reference(make_config(*named))
    config = make_config(*named, f"experts.global_edit.operator={GUIDED}")
    write_config(config)
    return config


@pytest.fixture
def served(run: RunConfig, request: pytest.FixtureRequest) -> Iterator[Served]:
    """The command; a test's parameter is one more option."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = subprocess.Popen(
        [
            *(sys.executable, "-m", "pipelines.serve_student", str(run.folder)),
            *("--port", str(port), "--queue", str(QUEUE), "--token", "FIELDWEAVE_TEST_TOKEN"),
            *getattr(request, "param", ()),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FIELDWEAVE_TEST_TOKEN": TOKEN},
    )
    assert command.stdout is not None
    assert any(line.startswith("page: ") for line in command.stdout), "the command ended without serving"
    yield Served(run, command, f"http://127.0.0.1:{port}/v1")
    command.kill()
    command.wait()


def expected(config: RunConfig, seed: int, k: int, row) -> bytes:
    """The picture by the moving average of step 6, computed here."""
    newest = checkpoint.newest(config.folder / "checkpoints")
    assert newest is not None
    saved = checkpoint.read(newest)
    assert saved.step == 6
    parts = RunParts(config)
    student = parts.policy()
    student.load(Weights.of(6, saved.ema))
    return picture(config, student.velocity, seed, k, row)


def picture(config: RunConfig, velocity: Velocity, seed: int, k: int, row) -> bytes:
    parts = RunParts(config)
    family = parts.family
    x_T = noise(seed, (k,), family.latent_shape())
    x_0 = clean(velocity, x_T, parts.grid(None), family.encode([row]), Euler())
    return encode_png(family.decode(x_0)[0])


async def crowd(client: openai.AsyncOpenAI, number: int) -> list[str]:
    """What each of `number` requests at once came to."""

    async def one(seed: int) -> str:
        try:
            await client.images.generate(prompt="a red circle on white", extra_body={"seed": seed})
        except openai.InternalServerError as error:
            soon = 1 <= int(error.response.headers["retry-after"]) <= 60
            return f"{error.status_code} {error.code}, {'soon' if soon else 'never'}"
        return "image"

    return await asyncio.gather(*(one(seed) for seed in range(number)))


@pytest.mark.slow
@pytest.mark.parametrize("served", [["--without-experts"]], indirect=True)
def test_the_openai_client_generates_and_edits(served):
    client = openai.OpenAI(base_url=served.url, api_key=TOKEN, max_retries=0)
    assert [model.id for model in client.models.list()] == ["student"]
    row = Bucket(served.config.routes["local_edit"].data)[0]
    generated = client.images.generate(prompt=row.prompt, extra_body={"seed": 3})
    assert b64decode(generated.data[0].b64_json) == expected(served.config, 3, 0, type(row)("x", "x", row.prompt))
    edited = client.images.edit(image=("a.png", row.source_image), prompt=row.prompt, extra_body={"seed": 3})
    assert b64decode(edited.data[0].b64_json) == expected(served.config, 3, 0, row)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=served.url, api_key="wrong", max_retries=0).models.list()
    served.command.send_signal(signal.SIGTERM)
    assert served.command.wait(LIMIT_S) == 0


@pytest.mark.slow
def test_the_openai_client_asks_the_experts_too_and_crowds(served):
    client = openai.OpenAI(base_url=served.url, api_key=TOKEN, max_retries=0)
    assert [model.id for model in client.models.list()] == ["student", "text_to_image", "local_edit", "global_edit"]
    row = Bucket(served.config.routes["local_edit"].data)[0]
    generated = client.images.generate(prompt=row.prompt, n=2, extra_body={"seed": 3})
    plain = type(row)("x", "x", row.prompt)
    assert [b64decode(image.b64_json) for image in generated.data] == [expected(served.config, 3, k, plain) for k in (0, 1)]
    edited = client.images.edit(image=("a.png", row.source_image), prompt=row.prompt, extra_body={"seed": 3})
    assert b64decode(edited.data[0].b64_json) == expected(served.config, 3, 0, row)
    by_expert = client.images.edit(
        image=("a.png", row.source_image), prompt=row.prompt, model="local_edit", extra_body={"seed": 3}
    )
    assert by_expert.data[0].b64_json != edited.data[0].b64_json
    with pytest.raises(openai.BadRequestError, match="image: model 'global_edit' needs an image to edit"):
        client.images.generate(prompt=row.prompt, model="global_edit")
    source = ("a.png", row.source_image)
    with pytest.raises(openai.BadRequestError, match="negative_prompt: model 'global_edit' needs one"):
        client.images.edit(image=source, prompt=row.prompt, model="global_edit")
    more = {"seed": 3, "negative_prompt": "a blue square on white"}
    guided = client.images.edit(image=source, prompt=row.prompt, model="global_edit", extra_body=more)
    away = replace(row, negative_prompt=more["negative_prompt"])
    field = RunParts(served.config).field("global_edit")
    assert b64decode(guided.data[0].b64_json) == picture(served.config, field.velocity, 3, 0, away)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=served.url, api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError, match="the scene world doesn't know 'dog'"):
        client.images.generate(prompt="a dog")
    counts = Counter(asyncio.run(crowd(openai.AsyncOpenAI(base_url=served.url, api_key=TOKEN, max_retries=0), 200)))
    assert counts.keys() == {"image", "503 queue_full, soon"}
    assert counts["image"] >= QUEUE
    patient = openai.AsyncOpenAI(base_url=served.url, api_key=TOKEN, max_retries=20)  # comes back when Retry-After says
    assert asyncio.run(crowd(patient, 2 * QUEUE)) == ["image"] * 2 * QUEUE
    served.command.send_signal(signal.SIGTERM)
    assert served.command.wait(LIMIT_S) == 0


@pytest.mark.slow
@pytest.mark.parametrize("served", [["--without-experts"]], indirect=True)
def test_two_hundred_clients_of_which_forty_mean_ill(served):
    """For a minute: whoever asks properly gets a picture or is told when to come back, and nothing piles up."""
    port = int(served.url.split(":")[2].split("/")[0])
    client = openai.OpenAI(base_url=served.url, api_key=TOKEN, max_retries=20)
    asked = {"prompt": "a red circle on white", "extra_body": {"seed": 3}}
    before_pictures = client.images.generate(**asked).data[0].b64_json
    asyncio.run(Siege(port, TOKEN, seconds=10).run())  # what the first crowd takes
    before = memory_of_endpoint(served.command.pid)
    siege = Siege(port, TOKEN, seconds=60)
    asyncio.run(siege.run())
    after = memory_of_endpoint(served.command.pid)
    answers = {
        kind: {status for who, status in siege.answers if who == kind} for kind in ("decent", "watcher", "large", "noise")
    }
    assert answers["decent"] == {"HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"}
    assert answers["watcher"] == {"HTTP/1.1 200 OK"}
    assert not [status for statuses in answers.values() for status in statuses if " 500 " in status], siege.answers
    assert siege.answers["decent", "HTTP/1.1 200 OK"] > 60, siege.answers
    assert siege.longest_s < 30, "that it lives is said at once"
    assert after < before + 40, f"MiB of proxy and endpoint: {before:.0f}, {after:.0f}"
    health = f"http://127.0.0.1:{port}/healthz"
    wait_for(lambda: httpx2.get(health).json()["taken"] == 0, "an empty queue")
    assert client.images.generate(**asked).data[0].b64_json == before_pictures


def memory_of_endpoint(command: int) -> float:
    """MiB that the processes between the socket and the student have for themselves."""
    named = re.compile(r"ray::(ProxyActor|ServeReplica:.*endpoint)")
    processes = [one for one in psutil.Process(command).children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    found = [one for one in processes if named.match(" ".join(one.cmdline()))]
    assert len(found) >= 2
    return sum(one.memory_full_info().uss for one in found) / 2**20


@pytest.fixture
def refuse(capsys):
    def refusal(*arguments: str) -> str:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == "", "something was started"
        (line,) = captured.err.splitlines()
        return line

    return refusal


def test_what_cannot_be_served_is_refused(refuse, run, tmp_path):
    folder = str(run.folder)
    assert refuse(str(tmp_path)) == f"error: {tmp_path} is no run folder: it has no config.yaml"
    assert "'NOWHERE' is neither an environment variable nor a file" in refuse(folder, "--token", "NOWHERE")
    (tmp_path / "token").write_text("\n")
    assert "is empty" in refuse(folder, "--token", str(tmp_path / "token"))
    assert "num_cpus: the run needs 100.4 (student 1000 x 0.1" in refuse(folder, "--replicas", "1000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port}: Address already in use" in refuse(folder, "--port", port)
    for path in (run.folder / "checkpoints").glob("*/ema/adapter_model.safetensors"):
        path.write_bytes(b"")
    assert "has no complete checkpoint" in refuse(folder)


def test_a_second_endpoint_on_a_cluster_is_refused(cluster, run):
    deploy({"other@endpoint": encoder_application(SceneFamily, 10**6, Numerics(), "other", {}, Resources(num_cpus=0.1))})
    served = find_served(run.folder, with_experts=False, replicas=1)
    settings = endpoint_settings(served, queue=1, timeout_s=1, most_bytes=1, digest=None)
    with pytest.raises(RuntimeError, match="run other is served on this cluster already"):
        start_endpoint(served, settings, HttpAddress("127.0.0.1", 8100))
    delete(["other@endpoint"])


@pytest.mark.parametrize("option", [("--port", "0"), ("--queue", "-1"), ("--timeout", "soon")])
def test_numbers_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["runs/x", *option])
    assert stop.value.code == 2
    assert f"{option[1]!r} is no whole number from 1 to" in capsys.readouterr().err
