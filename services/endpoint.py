"""The endpoint: OpenAI's image API and a page to try it, over the student and its experts.

Gate (401, 413) -> request (400, 404) -> Admission (503) -> Studio, within the time limit (504) -> images
"""

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form
from fastapi.responses import HTMLResponse
from ray import serve
from ray.serve import Application

from fields.data.rows import Row
from services.admission import Admission
from services.api_errors import ERROR_RESPONSES, answer_errors_in_shape
from services.gate import Gate
from services.image_api import (
    EditRequest,
    Failure,
    GenerationRequest,
    ImageAnswer,
    ImageData,
    ImageParameters,
    ModelCard,
    ModelList,
    Need,
    OutputFormat,
)
from services.ray_internals import listen_as_the_node_does
from services.studio import Studio

_PAGE = Path(__file__).with_name("endpoint.html")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LARGEST_DRAWN_SEED = 2**31  # short enough to be typed again


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """What is served, and how much of it at a time.

    Attributes:
        run: name of the run.
        step: optimizer steps of the checkpoint that is served.
        models: id -> the parameters that the model needs beside a prompt; the student first.
        edits: whether the models take images at all.
        size: of an image in pixels, as the API writes it: WIDTHxHEIGHT.
        frames: of a clip that names none, and the most that one may have; 1 where images are made.
        examples: rows that the page offers to try.
        queue: most requests at a time.
        timeout_s: of one request.
        most_bytes: of a request's body.
        digest: `token_digest` of the bearer token; None asks for none.
    """

    run: str
    step: int
    models: Mapping[str, Sequence[Need]]
    edits: bool
    size: str
    frames: int
    examples: Sequence[Row]
    queue: int
    timeout_s: float
    most_bytes: int
    digest: bytes | None


def build_api(studio: Studio, settings: EndpointSettings) -> FastAPI:
    """The HTTP application over a studio; its page needs nothing from elsewhere."""
    api = FastAPI(title="Fieldweave images", version="1", docs_url=None, redoc_url=None, responses=ERROR_RESPONSES)
    api.add_middleware(Gate, digest=settings.digest, most_bytes=settings.most_bytes)
    answer_errors_in_shape(api)
    admission = Admission(settings.queue)
    started = int(time.time())

    async def images(request: ImageParameters, source: bytes | None) -> ImageAnswer:
        _check(request, source, settings)
        made = _output_format(request, settings)
        seed = secrets.randbelow(_LARGEST_DRAWN_SEED) if request.seed is None else request.seed
        row = Row("request", "request", request.prompt, source, negative_prompt=request.negative_prompt, frames=request.frames)
        with admission.place():
            async with asyncio.timeout(settings.timeout_s):
                pictures = await studio.pictures(request.model, row, seed, request.n)
        data = [ImageData(b64_json=b64encode(picture).decode()) for picture in pictures]
        return ImageAnswer(created=int(time.time()), data=data, output_format=made, size=settings.size, seed=seed)

    @api.post("/v1/images/generations")
    async def generations(request: GenerationRequest) -> ImageAnswer:
        """Images from a prompt."""
        return await images(request, None)

    @api.post("/v1/images/edits")
    async def edits(request: Annotated[EditRequest, Form(media_type="multipart/form-data")]) -> ImageAnswer:
        """Images from a source image and an instruction."""
        return await images(request, await request.image.read())

    @api.get("/v1/models")
    async def models() -> ModelList:
        """The student and its experts."""
        cards = [
            ModelCard(id=name, created=started, owned_by=settings.run, needs=list(needs))
            for name, needs in settings.models.items()
        ]
        return ModelList(data=cards)

    @api.get("/about")
    async def about() -> dict[str, Any]:
        """What the page shows of the run, and examples to try."""
        return _about(settings)

    @api.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Whether the endpoint answers, for which run, and how full it is."""
        return {"status": "ok", "run": settings.run, "step": settings.step, "taken": admission.taken, "queue": settings.queue}

    @api.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """The page to try prompts and edits."""
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers=_PAGE_HEADERS)

    return api


def _about(settings: EndpointSettings) -> dict[str, Any]:
    examples = [
        {
            "task": row.task,
            "prompt": row.prompt,
            "source": row.source_image and b64encode(row.source_image).decode(),
            "negative_prompt": row.negative_prompt,
        }
        for row in settings.examples
    ]
    about = {"run": settings.run, "step": settings.step, "size": settings.size, "frames": settings.frames}
    return {**about, "edits": settings.edits, "examples": examples}


def _check(request: ImageParameters, source: bytes | None, settings: EndpointSettings) -> None:
    if request.model not in settings.models:
        allowed = ", ".join(settings.models)
        raise Failure(404, f"model: unknown model {request.model!r}; allowed: {allowed}", param="model", code="model_not_found")
    if request.size not in ("auto", settings.size):
        raise Failure(400, f"size: {request.size!r} is not offered; allowed: auto, {settings.size}", param="size")
    needs = settings.models[request.model]
    if "image" in needs and source is None:
        raise _missing("image", f"model {request.model!r} needs an image to edit; send one to /v1/images/edits")
    if "negative_prompt" in needs and request.negative_prompt is None:
        raise _missing("negative_prompt", f"model {request.model!r} needs one")
    if "negative_prompt" not in needs and request.negative_prompt is not None:
        who = ", ".join(name for name, needs in settings.models.items() if "negative_prompt" in needs) or "none"
        message = f"negative_prompt: model {request.model!r} doesn't look at it; models that do: {who}"
        raise Failure(400, message, param="negative_prompt", code="unsupported_parameter")


def _output_format(request: ImageParameters, settings: EndpointSettings) -> OutputFormat:
    frames = settings.frames if request.frames is None else request.frames
    if frames > settings.frames:
        raise Failure(400, f"frames: {frames} is not offered; allowed: 1 to {settings.frames}", param="frames")
    made = "png" if frames == 1 else "gif"
    if request.output_format not in (None, made):
        what = "an image" if frames == 1 else f"a clip of {frames} frames"
        raise Failure(400, f"output_format: {what} is made; allowed: {made}", param="output_format")
    return made


def _missing(param: Need, message: str) -> Failure:
    return Failure(400, f"{param}: {message}", param=param, code="missing_required_parameter")


class Endpoint:
    """The endpoint's replica: builds its studio inside the replica, where the clients live.

    Args:
        build_studio: connects to the services.
        settings: of the endpoint.
    """

    def __init__(self, build_studio: Callable[[], Studio], settings: EndpointSettings):
        listen_as_the_node_does()
        self._studio = build_studio()
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is constructed."""
        return build_api(self._studio, self._settings)


def endpoint_application(build_studio: Callable[[], Studio], settings: EndpointSettings) -> Application:
    """The Serve application of the endpoint: one replica, so that its queue is the only one."""
    deployment = serve.deployment(
        name="endpoint",
        max_ongoing_requests=100 * settings.queue,  # what the queue refuses must reach it first
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=5,
    )(serve.ingress()(Endpoint))
    return deployment.bind(build_studio, settings)
