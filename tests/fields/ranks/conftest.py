"""The steps that the tests of ranks take."""

from dataclasses import replace

import pytest
from distiller_cases import answered

from fields.carriers import Example


@pytest.fixture
def steps(ask, base_field, local_field):
    """Three steps of unequal groups. The last has no source image, so a full network's parameters for it have no gradient."""

    def without_source(example: Example) -> Example:
        query = example.query
        words = {name: tensor for name, tensor in query.condition.tensors.items() if name != "source"}
        bare = replace(query.condition, tensors=words, source_names=())
        return replace(example, query=replace(query, condition=bare, routes=("text_to_image",) * len(query.sample_ids)))

    first = [answered(ask(0, 1, 2), local_field), answered(ask(3), local_field), answered(ask(4, 5, 6, 7), base_field)]
    second = [answered(ask(7, 2), local_field), answered(ask(1, 0, 3, 5, 6), local_field)]
    third = [without_source(answered(ask(*rows), local_field)) for rows in ((0, 1), (2, 3), (4,))]
    return [first, second, third]
