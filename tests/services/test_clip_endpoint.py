"""The endpoint of a model that makes clips."""

import io
from base64 import b64decode

from PIL import Image
from starlette.testclient import TestClient

from fields.data.size import Size
from fields.scene.family import SceneFamily

PROMPT = "a red circle on white"


async def painted(noise, grid, condition):
    """What a model makes of it: the noise itself."""
    return noise


def pictures(client: TestClient, **asked) -> tuple[str, list[bytes]]:
    """Their format, and each of them."""
    answer = client.post("/v1/images/generations", json={"prompt": PROMPT, "seed": 5, **asked}).json()
    return answer["output_format"], [b64decode(image["b64_json"]) for image in answer["data"]]


class Clips(SceneFamily):
    """Of five frames, unless a request says otherwise."""

    own_size = Size(24, 24, 5)

    def check_row(self, row, with_target=False):
        pass

    def latent_shape(self, size=None):
        frames = (size or self.own_size).frames
        return (3, 24, 24) if frames == 1 else (3, frames, 24, 24)

    def decode(self, x_0):
        return (x_0 / 2 + 0.5).numpy()


def test_a_clip_is_an_animated_image(make_api):
    client = TestClient(make_api({"student": painted}, family=Clips, frames=5))
    for frames, made in ((None, "gif"), (3, "gif"), (1, "png")):
        kind, (picture,) = pictures(client, frames=frames)
        found = Image.open(io.BytesIO(picture))
        assert (kind, found.format, getattr(found, "n_frames", 1)) == (made, made.upper(), frames or 5)
        assert pictures(client, frames=frames) == (kind, [picture])
    for body, message in (
        ({"frames": 6}, "frames: 6 is not offered; allowed: 1 to 5"),
        ({"output_format": "png"}, "output_format: a clip of 5 frames is made; allowed: gif"),
    ):
        refused = client.post("/v1/images/generations", json={"prompt": PROMPT, **body})
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, message)
