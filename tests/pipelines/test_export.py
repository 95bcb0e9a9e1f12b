"""A finished run leaves its folder: into another folder, and to a hub that speaks the real one's protocol."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from local_server import Quiet, served
from safetensors.torch import load_file

from fields import checkpoint
from fields.lora.peft_files import read_adapter
from pipelines.config.run import RunConfig
from pipelines.distill import main as distill
from pipelines.export import main

TOKEN = "hf_of_the_test"


@pytest.fixture
def finished(config_file: Path, make_config, capsys) -> RunConfig:
    settings = ("run.name=shipped", "run.steps=4")
    assert distill([str(config_file), "--reference", *settings]) == 0
    capsys.readouterr()
    return make_config(*settings)


def front_and_text(card: str) -> tuple[dict, str]:
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_folder_holds_the_moving_average_and_a_card_of_how_it_came_about(finished, tmp_path, capsys):
    to = tmp_path / "exported"
    assert main([str(finished.folder), "--to", str(to), "--licence", "apache-2.0"]) == 0
    assert capsys.readouterr().out == f"exported to {to}\n"
    names = {"README.md", "report.html", "adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"}
    assert {path.name for path in to.iterdir()} == names
    saved = checkpoint.read(checkpoint.folder_of(finished.folder / "checkpoints", 4))
    exported = read_adapter(to).tensors
    assert exported.keys() == saved.ema.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in saved.ema.items())
    front, text = front_and_text((to / "README.md").read_text())
    assert front["base_model"] == str(finished.model.path)
    assert front["license"] == "apache-2.0"
    assert "lora" in front["tags"]
    assert "A LoRA over" in text
    assert "of rank 8 that was distilled from 3 expert models" in text
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary["weights_sha256"] in text
    samples = [line.split("|") for line in text.splitlines() if line.startswith("| local_edit |")]
    assert [cell.strip() for cell in samples[0][2:4]] == ["local_edit", "`local_edit`"]
    assert samples[0][5].strip() == "48", "rows of the data set"
    table = [
        line.split("|")
        for line in text.splitlines()
        if line.startswith(("| text_to_image |", "| local_edit |", "| global_edit |"))
    ]
    assert sum(int(row[4]) for row in table) == 4 * 12 == summary["samples"]
    assert str(finished.folder) not in text, "nobody's folders but the base's"
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["rollout"]["steps"] == 8


def test_a_card_without_a_licence_says_so(finished, tmp_path, capsys):
    assert main([str(finished.folder), "--to", str(tmp_path / "exported")]) == 0
    assert "warning: the card names no licence; --licence gives one" in capsys.readouterr().out
    front, text = front_and_text((tmp_path / "exported" / "README.md").read_text())
    assert "license" not in front
    assert "Not given." in text


def test_what_cannot_be_exported(finished, tmp_path, capsys):
    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "there").mkdir()
    assert f"--to: {tmp_path / 'there'} exists; allowed is a folder that doesn't" in refused(
        str(finished.folder), "--to", str(tmp_path / "there")
    )
    assert "no run 'elsewhere'" in refused("elsewhere", "--to", str(tmp_path / "new"))
    weights = finished.folder / "checkpoints" / "step-000004" / "ema" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is no complete checkpoint: ema/adapter_model.safetensors is damaged" in refused(
        str(finished.folder), "--to", str(tmp_path / "new")
    )
    (finished.folder / "summary.json").unlink()
    assert "is not finished: it has no summary.json" in refused(str(finished.folder), "--to", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


class _Hub(Quiet):
    """What `HfApi.create_repo` and `upload_folder` ask of the hub: large files by Git LFS, small ones in the commit."""

    files: dict[str, bytes]
    large: dict[str, bytes]

    def do_POST(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return
        body = self._body()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self._answer(200, {"url": f"http://{self.headers['Host']}/{asked['organization']}/{asked['name']}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            where = f"http://{self.headers['Host']}/lfs/"
            objects = [
                {**wanted, "actions": {"upload": {"href": where + wanted["oid"], "header": {}}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.files[line["value"]["path"]] = self.large[line["value"]["oid"]]
            self._answer(
                200,
                {
                    "commitUrl": f"http://{self.headers['Host']}/somebody/shipped/commit/1",
                    "commitOid": "1" * 40,
                    "success": True,
                },
            )
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        body = self._body()
        assert hashlib.sha256(body).hexdigest() == self.path.rsplit("/", 1)[1]
        self.large[self.path.rsplit("/", 1)[1]] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(404, {"error": self.path})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    _Hub.files, _Hub.large = {}, {}
    with served(_Hub) as server:
        yield server


def exported(hub: ThreadingHTTPServer, run: Path, token: str) -> "subprocess.CompletedProcess[str]":
    address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "pipelines.export", str(run), "--to", "hub:somebody/shipped"]
    return subprocess.run(command, env={**os.environ, **address}, capture_output=True, text=True, check=False)


def test_the_hub_gets_the_same_files(finished, hub, tmp_path):
    done = exported(hub, finished.folder, TOKEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"exported to http://127.0.0.1:{hub.server_port}/somebody/shipped"
    assert main([str(finished.folder), "--to", str(tmp_path / "exported")]) == 0
    here = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    assert _Hub.files.pop(".gitattributes", b"") == b""
    card = here.pop("README.md").decode().replace(str(tmp_path / "exported"), "somebody/shipped")
    assert _Hub.files.pop("README.md").decode() == card
    assert _Hub.files == here


def test_what_the_hub_refuses_is_said_in_a_line(finished, hub):
    done = exported(hub, finished.folder, "hf_of_somebody_else")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --to: hub:somebody/shipped: Client error '401 Unauthorized'")
    assert "hf_of_somebody_else" not in line


def test_an_exported_adapter_is_what_diffusers_loads(finished, tmp_path):
    assert main([str(finished.folder), "--to", str(tmp_path / "exported")]) == 0
    theirs = load_file(tmp_path / "exported" / "pytorch_lora_weights.safetensors")
    ours = read_adapter(tmp_path / "exported").tensors
    assert len(theirs) == len(ours)
