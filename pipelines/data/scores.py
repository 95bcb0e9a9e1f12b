"""Which routes' skills a row needs, as a scorer says.

Scores are made once, when data are prepared: a run draws from them and needs no scorer.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from fields.data.rows import Row
from fields.evaluation.clip import ClipScorer
from pipelines.data.prompts import read_prompts
from pipelines.data.writer import RowWriter

_BATCH = 64


def write_scores(source: Path, output: Path, scorer: ClipScorer) -> list[Path]:
    """Write the rows of a .parquet, .json, .jsonl or .csv file with the scorer's scores.

    Raises:
        ValueError: names the file, the row and what is wrong; nothing is written then.
    """
    with RowWriter(output, inputs=[source]) as writer:
        for row in _scored(read_prompts(source), scorer):
            writer.write(row)
    return [output]


def _scored(rows: Iterator[Row], scorer: ClipScorer) -> Iterator[Row]:
    while batch := list(islice(rows, _BATCH)):
        for row, scores in zip(batch, scorer.scores([row.prompt for row in batch]), strict=True):
            yield replace(row, scores=scores)
