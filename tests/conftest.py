"""For every test: annotations of `fields` are checked at run time, torch computes as in runs, and a tiny random scene model."""

from jaxtyping import install_import_hook

install_import_hook("fields", "beartype.beartype")  # before anything imports fields; the dataclasses included

import json  # noqa: E402
import os  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from waiting import wait_for  # noqa: E402

from fields.lora.adapter import Adapter, LoraShape, add_lora  # noqa: E402
from fields.lora.peft_files import write_adapter  # noqa: E402
from fields.numerics import Numerics  # noqa: E402
from fields.scene.family import SceneFamily, save_transformer  # noqa: E402
from fields.scene.transformer import SceneTransformer  # noqa: E402

os.environ.update(RAY_worker_niceness="0")  # it is 15: beside tests that compute in their own process, workers would starve
settings.register_profile("fieldweave", derandomize=True, deadline=None)  # the same examples in every run
settings.load_profile("fieldweave")


@dataclass(frozen=True)
class TinyModels:
    """Folders of a random base, of another one, and of two random adapters over the base."""

    base: Path
    other_base: Path
    local_edit: Path
    global_edit: Path


@pytest.fixture(autouse=True, scope="session")
def _as_a_run_computes() -> None:
    Numerics().settle()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    folder = tmp_path_factory.mktemp("models")
    models = TinyModels(folder / "base", folder / "other_base", folder / "local_edit", folder / "global_edit")
    rng = torch.Generator().manual_seed(0)
    transformer = SceneTransformer(width=48, depth=2, heads=2)
    for parameter in transformer.parameters():
        if parameter.ndim >= 2:  # also the gates that start at 0, or conditions and time would not matter
            torch.nn.init.normal_(parameter, std=0.15, generator=rng)
    save_transformer(transformer, models.base)
    shape = LoraShape(8, 8.0, SceneFamily.default_lora_targets)
    parameters = add_lora(transformer, shape, seed=0)
    for path in (models.local_edit, models.global_edit):
        tensors = {name: torch.randn(parameter.shape, generator=rng) * 0.1 for name, parameter in parameters.items()}
        write_adapter(path, Adapter(shape, tensors))
    other = SceneTransformer(width=48, depth=2, heads=2)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=rng)
    save_transformer(other, models.other_base)
    return models


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random CLIP of 24 x 24 pixels that spells its words."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(tokens), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 40}
    eyes = {"image_size": 24, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=layers | words, vision_config=layers | eyes, projection_dim=16)).save_pretrained(
            folder
        )
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a local cluster whose metrics are exported every second."""

    def started() -> str | None:
        try:
            context = ray.init(
                address="local",
                num_cpus=8,
                include_dashboard=True,
                log_to_driver=False,
                _system_config={"metrics_report_interval_ms": 1000},
            )
        except Exception as error:
            if "timed out during startup" not in str(error):  # after 30 s, which a busy machine may need
                raise
            ray.shutdown()
            return None
        return context.address_info["gcs_address"]

    if ray.is_initialized():  # Ray connects by itself where a test uses a handle or a reference before a cluster is asked for
        ray.shutdown()
    yield wait_for(started, "a Ray cluster of this machine")
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """HOST:PORT of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, on which there is one bucket, `runs`, and it is empty; pyarrow finds the same credentials."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
    client.create_bucket(Bucket="runs")
    for found in client.list_objects_v2(Bucket="runs").get("Contents", ()):
        client.delete_object(Bucket="runs", Key=found["Key"])
    return client
