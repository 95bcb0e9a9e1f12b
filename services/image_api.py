"""The shapes of OpenAI's image API that the endpoint speaks: requests, answers, errors."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

Need = Literal["image", "negative_prompt"]
OutputFormat = Literal["png", "gif"]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="decides the noise; drawn and returned if none is given")]


class ImageParameters(BaseModel):
    """What generations and edits have in common. A parameter that would be ignored is refused instead."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=4000)
    model: str = Field(default="student", description="an id of /v1/models")
    n: int = Field(default=1, ge=1, le=10, description="images")
    size: str = Field(default="auto", description="`auto` or the model's own size, as WIDTHxHEIGHT in pixels")
    seed: Seed | None = None
    negative_prompt: str | None = Field(
        default=None, min_length=1, max_length=4000, description="what to lead away from, for the models that need one"
    )
    response_format: Literal["b64_json"] = "b64_json"
    output_format: OutputFormat | None = Field(default=None, description="gif of clips, png of images; none is what is made")
    frames: int | None = Field(default=None, ge=1, description="of a clip, 1 for an image; none is the model's own number")


class GenerationRequest(ImageParameters):
    """The body of `POST /v1/images/generations`."""


class EditRequest(ImageParameters):
    """The multipart form of `POST /v1/images/edits`."""

    image: UploadFile = Field(description="the image to edit, PNG or JPEG")


class ImageData(BaseModel):
    """One image, PNG in base64, or one clip, an animated GIF."""

    b64_json: str


class ImageAnswer(BaseModel):
    """The images, and what makes them again: the seed."""

    created: int
    data: list[ImageData]
    output_format: OutputFormat
    size: str
    seed: int


class ModelCard(BaseModel):
    """One model that answers, and the parameters that it needs beside a prompt."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    needs: list[Need]


class ModelList(BaseModel):
    """All of them, the student first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    """What went wrong, for which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class Failure(Exception):
    """An error as a client sees it: HTTP status, one line, and where it applies the parameter and a code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def response(self) -> JSONResponse:
        """The answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return JSONResponse(ErrorAnswer(error=detail).model_dump(), self.status, self.headers)
