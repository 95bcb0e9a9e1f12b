"""The endpoint's answers: the right pictures, and every refusal with its status, its parameter and one line."""

import asyncio
import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator

import pytest
import torch
from conftest import GRID, SETTINGS
from starlette.testclient import TestClient

from fields.data.images import encode_png
from fields.data.rows import Row
from fields.method.plan import noise
from fields.method.rollout import clean
from fields.method.solver import Euler
from fields.scene.family import SceneFamily
from services.gate import token_digest

GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"
PROMPT = "a red circle on white"
SOURCE = SETTINGS.examples[1]


@pytest.fixture
def client(make_api) -> TestClient:
    return TestClient(make_api())


def pictures(answer) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [b64decode(image["b64_json"]) for image in answer.json()["data"]]


def expected(policy, row_source: bytes | None, prompt: str, seed: int, k: int) -> bytes:
    """The picture by the fields alone."""
    family = SceneFamily()
    condition = family.encode([type(SOURCE)("x", "x", prompt, row_source)])
    x_0 = clean(policy.velocity, noise(seed, (k,), family.latent_shape()), GRID, condition, Euler())
    return encode_png(family.decode(x_0)[0])


def edit(client: TestClient, image: bytes = SOURCE.source_image or b"", **fields):
    return client.post(EDIT, data={"prompt": SOURCE.prompt, **fields}, files={"image": ("a.png", image, "image/png")})


def test_pictures_are_the_models_own_rollouts(client, policies):
    answer = client.post(GENERATE, json={"prompt": PROMPT, "n": 3, "seed": 5})
    assert pictures(answer) == [expected(policies["student"], None, PROMPT, 5, k) for k in range(3)]
    assert pictures(client.post(GENERATE, json={"prompt": PROMPT, "seed": 5})) == pictures(answer)[:1]
    of_expert = client.post(GENERATE, json={"prompt": PROMPT, "seed": 5, "model": "expert"})
    assert pictures(of_expert) == [expected(policies["expert"], None, PROMPT, 5, 0)] != pictures(answer)[:1]


def test_an_edit_sees_its_source_image(client, policies):
    edited = pictures(edit(client, seed="5"))
    assert edited == [expected(policies["student"], SOURCE.source_image, SOURCE.prompt, 5, 0)]
    assert edited != pictures(client.post(GENERATE, json={"prompt": SOURCE.prompt, "seed": 5}))


def test_a_drawn_seed_is_returned_and_makes_the_picture_again(client):
    first, other = (client.post(GENERATE, json={"prompt": PROMPT}) for _ in range(2))
    assert first.json()["seed"] != other.json()["seed"]
    assert pictures(client.post(GENERATE, json={"prompt": PROMPT, "seed": first.json()["seed"]})) == pictures(first)


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({}, 400, "prompt", "prompt: Field required"),
        ({"prompt": ""}, 400, "prompt", "at least 1 character"),
        ({"prompt": "a " * 2001}, 400, "prompt", "at most 4000 characters"),
        ({"prompt": "a dog"}, 400, None, "prompt 'a dog': the scene world doesn't know 'dog'; it knows: a add"),
        ({"prompt": PROMPT, "n": 11}, 400, "n", "less than or equal to 10"),
        ({"prompt": PROMPT, "n": 0}, 400, "n", "greater than or equal to 1"),
        ({"prompt": PROMPT, "seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"prompt": PROMPT, "seed": 2**63}, 400, "seed", "less than"),
        ({"prompt": PROMPT, "size": "1024x1024"}, 400, "size", "size: '1024x1024' is not offered; allowed: auto, 24x24"),
        ({"prompt": PROMPT, "frames": 5}, 400, "frames", "frames: 5 is not offered; allowed: 1 to 1"),
        ({"prompt": PROMPT, "frames": 0}, 400, "frames", "greater than or equal to 1"),
        ({"prompt": PROMPT, "output_format": "gif"}, 400, "output_format", "output_format: an image is made; allowed: png"),
        ({"prompt": PROMPT, "response_format": "url"}, 400, "response_format", "Input should be 'b64_json'"),
        ({"prompt": PROMPT, "quality": "hd"}, 400, "quality", "quality: unknown parameter"),
        ({"prompt": PROMPT, "negative_prompt": ""}, 400, "negative_prompt", "at least 1 character"),
        (
            {"prompt": PROMPT, "negative_prompt": PROMPT},
            400,
            "negative_prompt",
            "negative_prompt: model 'student' doesn't look at it; models that do: none",
        ),
        ({"prompt": PROMPT, "model": "gpt"}, 404, "model", "model: unknown model 'gpt'; allowed: student, expert"),
        ([PROMPT], 400, None, "the body: Input should be a valid dictionary"),
    ],
)
def test_a_refused_generation_says_why(client, body, status, param, message):
    answer = client.post(GENERATE, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": "\\ud800"}', b"\xff\xfe", b"[" * 50_000, b'{"prompt": NaN}'])
def test_a_body_that_is_no_json_is_refused(client, body):
    answer = client.post(GENERATE, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_refused_edit_says_why(client):
    assert "does not decode" in edit(client, b"no image").json()["error"]["message"]
    small = encode_png(torch.zeros(3, 8, 8).numpy())
    assert "its source image is 8 x 8, not 24 x 24" in edit(client, small).json()["error"]["message"]
    assert edit(client, n="many").json()["error"]["param"] == "n"
    assert edit(client, mask="x").json()["error"]["message"] == "mask: unknown parameter"
    assert client.post(EDIT, data={"prompt": PROMPT}).json()["error"]["message"] == "image: Field required"


NEEDS = {"student": (), "editor": ("image",), "guided": ("image", "negative_prompt")}


class Painter:
    """Remembers the conditions that it was asked under."""

    def __init__(self):
        self.conditions = []

    async def generate(self, noise, grid, condition):
        self.conditions.append(condition)
        return noise


def test_a_model_that_needs_more_than_a_prompt_gets_it_or_says_so(make_api):
    painter = Painter()
    client = TestClient(make_api(dict.fromkeys(NEEDS, painter.generate), models=NEEDS))
    for model in ("editor", "guided"):
        answer = client.post(GENERATE, json={"prompt": PROMPT, "model": model})
        message = f"image: model '{model}' needs an image to edit; send one to /v1/images/edits"
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
        assert answer.json()["error"]["param"] == "image"
        assert answer.json()["error"]["code"] == "missing_required_parameter"
    error = edit(client, model="guided").json()["error"]
    assert (error["message"], error["param"]) == ("negative_prompt: model 'guided' needs one", "negative_prompt")
    ignored = edit(client, model="editor", negative_prompt=PROMPT)
    assert ignored.status_code == 400
    assert "model 'editor' doesn't look at it; models that do: guided" in ignored.json()["error"]["message"]
    assert painter.conditions == []
    pictures(edit(client, model="guided", negative_prompt=PROMPT))
    pictures(edit(client, model="editor"))
    of_guided, of_editor = painter.conditions
    assert torch.equal(of_guided.negative["words"], SceneFamily().encode([Row("x", "x", PROMPT)]).tensors["words"])
    assert of_editor.negative == {}
    assert [model["needs"] for model in client.get("/v1/models").json()["data"]] == [list(needs) for needs in NEEDS.values()]


def test_other_paths_and_methods_are_answered_in_the_same_shape(client):
    for answer, status in ((client.get("/v2"), 404), (client.get(GENERATE), 405)):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_token_is_asked_for_where_something_is_answered(make_api):
    client = TestClient(make_api(digest=token_digest("secret")))
    for header in (None, "Bearer wrong", "Basic secret", "secret", "Bearer"):
        answer = client.get("/v1/models", headers={"authorization": header} if header else {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/images/edits", "/about", "/openapi.json"):
        assert client.get(path).status_code == 401
    assert client.get("/v1/models", headers={"authorization": "bearer secret"}).status_code == 200
    assert client.get("/").status_code == client.get("/healthz").status_code == 200


def test_a_large_body_is_refused_however_it_is_sent(make_api):
    client = TestClient(make_api(most_bytes=2000))
    body = json.dumps({"prompt": PROMPT, "size": "x" * 2000}).encode()

    def chunks() -> Iterator[bytes]:  # sent without a declared length
        yield from (body[start : start + 500] for start in range(0, len(body), 500))

    for content in (body, chunks()):
        answer = client.post(GENERATE, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == "the body is larger than 2000 bytes"
    assert edit(client, b"x" * 3000).status_code == 413
    assert edit(client).status_code == 200


class Held:
    """A model that answers once it is released."""

    def __init__(self, answering):
        self.answering = answering
        self.called = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    async def generate(self, *arguments):
        self.called += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return arguments[0]


def test_a_slow_answer_is_given_up_and_called_off(make_api):
    held = Held(None)
    answer = TestClient(make_api({"student": held.generate}, timeout_s=0.2)).post(GENERATE, json={"prompt": PROMPT, "n": 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert held.called == held.cancelled == 2


def test_a_full_queue_refuses_and_says_when_to_come_back(make_api):
    held = Held(None)
    with TestClient(make_api({"student": held.generate}, queue=3)) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(GENERATE, json={"prompt": PROMPT}))) for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        while client.get("/healthz").json()["taken"] < 3 or len(answers) < 7:
            pass
        assert held.called == 3
        assert client.portal is not None
        client.portal.call(held.release.set)
        for thread in threads:
            thread.join()
        assert client.get("/healthz").json()["taken"] == 0
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 7
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)


def test_a_failure_inside_is_a_500_without_a_trace(make_api):
    class Broken:
        async def generate(self, *arguments):
            raise ValueError("weights at /secret/path")

    client = TestClient(make_api({"student": Broken().generate}), raise_server_exceptions=False)
    answer = client.post(GENERATE, json={"prompt": PROMPT})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the endpoint failed; its log says why"


def test_models_and_examples_are_listed(client):
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["student", "expert"]
    about = client.get("/about").json()
    assert (about["run"], about["step"], about["size"]) == ("tiny", 7, "24x24")
    assert [example["source"] is None for example in about["examples"]] == [True, False]
    assert b64decode(about["examples"][1]["source"]) == SOURCE.source_image


def test_the_page_needs_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\")|@import|url\(|\bsrc=\"[^\"]", answer.text)
