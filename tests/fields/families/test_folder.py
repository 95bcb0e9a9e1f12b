"""What is wrong with a model's folder or hub id is said in one line, and says what to do."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from local_server import Quiet, served
from safetensors.torch import save_file
from torch import nn

from fields.families import folder
from fields.families.folder import WEIGHTS, check_class, check_components, check_weights, fetch, read_json, shapes_of


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    assert fetch(tmp_path, ("vae",)) == tmp_path


@pytest.mark.parametrize("path", ["nowhere", "a/b/c", "/nowhere/at/all", "./x", "a b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id(path):
    with pytest.raises(ValueError, match="no such folder; a path is a local folder or a hub id such as organisation/model"):
        fetch(Path(path), ())


def test_a_hub_id_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"some/model is no folder here, .*`hf download some/model --local-dir DIR`") as caught:
        fetch(Path("some/model"), ("transformer",))
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[dict[str, str]]:
    """A hub on this machine that refuses everything, in the way that the test says."""
    answer = {"status": "403", "code": "GatedRepo"}

    class Refusal(Quiet):
        def do_GET(self):
            self.send_response(int(answer["status"]))
            self.send_header("X-Error-Code", answer["code"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

    with served(Refusal) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        yield answer


def test_a_gated_model(hub):
    with pytest.raises(ValueError, match=r"^some/model is gated on the model hub: accept its licence .* `hf auth login`$"):
        fetch(Path("some/model"), ("transformer",))


def test_an_absent_model(hub):
    hub |= {"status": "404", "code": "RepoNotFound"}
    with pytest.raises(ValueError, match=r"some/model is no folder here.*RepositoryNotFoundError"):
        fetch(Path("some/model"), ("transformer",))


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_a_busy_hub_is_asked_again(hub, monkeypatch, caplog, status):
    monkeypatch.setattr(folder, "_PAUSES_S", (0.01, 0.02))
    hub |= {"status": status, "code": ""}
    with pytest.raises(ValueError, match="some/model is no folder here"):
        fetch(Path("some/model"), ("transformer",))
    assert [record.getMessage().partition(":")[0] for record in caplog.records if record.name == folder.__name__] == [
        f"the model hub doesn't give some/model now; it is asked again in {pause} s" for pause in ("0.01", "0.02")
    ]


def test_a_hub_that_cannot_be_reached_is_asked_again_until_it_answers(hub, monkeypatch, caplog):
    """Nobody listens at the address at first; what is said in the end is the hub's own answer."""
    constants, reachable = huggingface_hub.constants, huggingface_hub.constants.ENDPOINT
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(folder.time, "sleep", lambda pause: monkeypatch.setattr(constants, "ENDPOINT", reachable))
    with pytest.raises(ValueError, match=r"^some/model is gated on the model hub"):
        fetch(Path("some/model"), ("transformer",))
    assert "it is asked again in 2 s" in caplog.text


@pytest.mark.parametrize(("status", "code"), [("403", "GatedRepo"), ("404", "RepoNotFound")])
def test_a_hub_that_refuses_is_asked_once(hub, caplog, status, code):
    hub |= {"status": status, "code": code}
    with pytest.raises(ValueError, match="some/model is"):
        fetch(Path("some/model"), ("transformer",))
    assert "asked again" not in caplog.text


@pytest.mark.parametrize("content", ["{", "[1]", '"x"'])
def test_damaged_json(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read_json(tmp_path / "config.json")


def test_missing_json(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name} has no model_index.json"):
        read_json(tmp_path / "model_index.json")


def test_a_class_of_another_family(tmp_path):
    with pytest.raises(ValueError, match="holds a FluxPipeline; family x takes APipeline or BPipeline"):
        check_class(tmp_path, {"_class_name": "FluxPipeline"}, "x", ("APipeline", "BPipeline"))


def test_components_are_there_or_named(tmp_path):
    (tmp_path / "vae").mkdir()
    index = {"_class_name": "P", "vae": ["diffusers", "AutoencoderKL"], "image_encoder": [None, None]}
    check_components(tmp_path, index)
    with pytest.raises(ValueError, match=r"lacks the component text_encoder \(CLIPTextModel in its model_index.json\)"):
        check_components(tmp_path, {**index, "text_encoder": ["transformers", "CLIPTextModel"]})
    with pytest.raises(ValueError, match=r"lacks the component tokenizer_3 \(left out in its model_index.json\)"):
        check_components(tmp_path, {**index, "tokenizer_3": [None, None]})


def test_a_damaged_component_is_found_by_its_header(tmp_path):
    (tmp_path / "vae").mkdir()
    file = tmp_path / "vae" / WEIGHTS
    save_file({"a": torch.zeros(64)}, file)
    index = {"vae": ["diffusers", "AutoencoderKL"]}
    check_components(tmp_path, index)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{WEIGHTS} is damaged"):
        check_components(tmp_path, index)


def test_shapes_are_read_from_the_header(tmp_path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    assert shapes_of(tmp_path / "x.safetensors") == {"a": (2, 3), "b": (4,)}


def test_tensors_must_be_the_networks(tmp_path):
    network = nn.Linear(3, 2)
    good = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    save_file(good, tmp_path / WEIGHTS)
    check_weights(tmp_path, network, ())
    for change, message in (
        ({"bias": torch.zeros(3)}, r"1 tensors don't fit its config.json: bias is \(3,\), wanted \(2,\)"),
        ({"extra": torch.zeros(3)}, r"config.json: extra is \(3,\), wanted none"),
    ):
        save_file(good | change, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            check_weights(tmp_path, network, ())
    check_weights(tmp_path, network, ("^ext",))
    save_file({"weight": good["weight"]}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"config.json: bias is absent, wanted \(2,\)"):
        check_weights(tmp_path, network, ())


def test_only_safetensors_are_read(tmp_path):
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=f"has no {WEIGHTS}; only safetensors are read"):
        check_weights(tmp_path, nn.Linear(1, 1), ())


def test_every_shard_is_wanted(tmp_path):
    save_file({"weight": torch.zeros(1, 1)}, tmp_path / "one.safetensors")
    (tmp_path / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"weight": "one.safetensors", "bias": "two.safetensors"}}')
    with pytest.raises(ValueError, match=r"has no two\.safetensors"):
        check_weights(tmp_path, nn.Linear(1, 1), ())
    save_file({"bias": torch.zeros(1)}, tmp_path / "two.safetensors")
    check_weights(tmp_path, nn.Linear(1, 1), ())
