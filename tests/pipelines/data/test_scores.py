"""Scores of rows over routes, by CLIP's text encoder."""

import json

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizerFast

from fields.data.bucket import Bucket

ROUTES = {"local_edit": "remove the circle", "global_edit": "make the background black"}
PROMPTS = ("remove the red circle", "make it white", "a cat", "")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"uid": f"u{n}", "task": "edit", "prompt": p}) + "\n" for n, p in enumerate(PROMPTS)))
    return path


def arguments(table, output, clip, *more):
    routes = [part for route, text in ROUTES.items() for part in ("--route", f"{route}={text}")]
    return ["score", "--input", table, "--output", output, "--clip", clip, *(more or routes)]


def expected(folder, temperature):
    """The same by hand: the projection of the last token's state, one text at a time and without padding."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizerFast.from_pretrained(folder)

    def direction(text):
        with torch.no_grad():
            states = model.text_model(**tokenizer(text, return_tensors="pt")).pooler_output
            projected = (states @ model.text_projection.weight.T)[0].double()
        return projected / projected.norm()

    described = [direction(text) for text in ROUTES.values()]
    logits = torch.tensor([[float(direction(p) @ d) / temperature for d in described] for p in PROMPTS], dtype=torch.float64)
    return logits.exp() / logits.exp().sum(dim=1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_scores_are_the_softmax_of_cosines_to_the_routes_descriptions(table, tmp_path, prepared, tiny_clip, temperature):
    output = tmp_path / "scored.parquet"
    routes = [part for route, text in ROUTES.items() for part in ("--route", f"{route}={text}")]
    rows = prepared(output, *arguments(table, output, tiny_clip, *routes, "--temperature", temperature))
    assert [row.prompt for row in rows] == list(PROMPTS)
    assert all(tuple(route for route, _ in row.scores) == tuple(ROUTES) for row in rows)
    scores = torch.tensor([[score for _, score in row.scores] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(scores, expected(tiny_clip, temperature), rtol=0, atol=1e-4)
    assert float((scores[0] - scores[1]).abs().max()) > 1e-3, "prompts differ"
    assert Bucket(output).scores(0) == dict(rows[0].scores)


def test_scores_of_a_file_may_be_made_anew(table, tmp_path, prepared, tiny_clip):
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    rows = prepared(first, *arguments(table, first, tiny_clip))
    assert prepared(second, *arguments(first, second, tiny_clip)) == rows


def test_a_prompt_that_is_too_long_is_cut(table, tmp_path, prepared, tiny_clip):
    table.write_text(json.dumps({"uid": "long", "task": "edit", "prompt": "remove the red circle " * 50}))
    (row,) = prepared(tmp_path / "scored.parquet", *arguments(table, tmp_path / "scored.parquet", tiny_clip))
    assert sum(score for _, score in row.scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--route", "a=b"), "scores are over at least two routes; there is a"),
        (("--route", "a=b", "--route", "c=d", "--temperature", "0"), "temperature 0.0: it must be above 0"),
        (("--route", "a=b", "--route", "c=d", "--temperature", "nan"), "temperature nan: it must be above 0"),
    ],
)
def test_a_scorer_that_cannot_be_is_one_line(table, tmp_path, refused, tiny_clip, more, message):
    assert message in refused(*arguments(table, tmp_path / "out.parquet", tiny_clip, *more))


def test_a_folder_without_clip_is_named(table, tmp_path, refused):
    assert f"{tmp_path} is no CLIP model: it has no config.json" in refused(
        *arguments(table, tmp_path / "out.parquet", tmp_path)
    )
