"""Configurations that are broken, or made to break who reads them: one line, at once."""

import os
from pathlib import Path

import pytest

from pipelines.config.errors import ConfigError, complain, input_refused
from pipelines.config.load import load_config
from pipelines.distill import main

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"run: {name: \xff}", "is no text in UTF-8"),
        (BOMB.encode() + b"run: {name: *a9}\n", "its aliases stand for more than 100000 values"),
        (BOMB.encode() + b"run: {<<: [*a9, *a9]}\n", "its aliases stand for more than 100000 values"),
        (b"run: {steps: 1}\nrun: {steps: 2}\n", "the key 'run' comes twice"),
        (b"run: {steps: 1, steps: 2}\n", "the key 'steps' comes twice"),
        (b"run: " + b"[" * 5000, "is not YAML"),
        (b"learner: {lag: 2020-13-45}\n", "is not YAML"),
        (b"run: {steps: " + b"9" * 5000 + b"}\n", "is not YAML"),
        (b"run: !!python/object/apply:os.system ['touch executed']\n", "is not YAML"),
        (b"# " + b"x" * 2**20, "bytes; a configuration has 1048576 at most"),
        (b"\x00", "is not YAML"),
        (b"", "a configuration is a mapping of sections, not NoneType"),
        (b"- 1", "a configuration is a mapping of sections, not list"),
    ],
)
def test_a_broken_file_is_refused_in_a_line(tmp_path: Path, capsys, content: bytes, said: str):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not Path("executed").exists()


def test_what_is_no_file_is_not_read(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"{path} is no file"):
            load_config(path, [])


def test_an_anchor_stands_for_what_it_names(config_file: Path):
    text = config_file.read_text().replace("num_cpus: 0.1", "num_cpus: &few 0.1", 1).replace("lag: 0", "lag: 0\n  clip: *few")
    config_file.write_text(text)
    assert load_config(config_file, []).learner.clip == 0.1


def test_defaults_may_be_layered(config_file: Path):
    layers = "{<<: &a {lag: 1, clip: 0.5}, <<: &b {num_cpus: 0.1}, batch_size: 12}"
    text = config_file.read_text().split("learner:")
    config_file.write_text(f"{text[0]}learner: {layers}\ncheckpoint:{text[1].split('checkpoint:')[1]}")
    learner = load_config(config_file, []).learner
    assert (learner.lag, learner.clip, learner.num_cpus) == (1, 0.5, 0.1)


@pytest.mark.parametrize("override", ["x.y=[[[[" + "[" * 5000, "learner.lag=2020-13-45", "learner.lag=" + "9" * 5000])
def test_an_override_that_is_no_value(config_file: Path, override: str):
    with pytest.raises(ConfigError, match="the value is not YAML"):
        load_config(config_file, [override])


def test_a_line_stays_one_and_short(capsys, config_file: Path):
    with pytest.raises(ConfigError) as refused:
        load_config(config_file, [f"run.name={['x' * 100] * 100}"])
    assert len(str(refused.value)) < 400
    complain(ConfigError("a name\nwith lines\n" + "x" * 100_000))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a name with lines xxx")
    assert len(line) < 2100


def test_only_what_reading_raises_is_input():
    for error in (OSError("x"), ValueError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), RecursionError("x")):
        with pytest.raises(ConfigError), input_refused():
            raise error
    with pytest.raises(TypeError), input_refused():
        raise TypeError("a mistake of ours")
