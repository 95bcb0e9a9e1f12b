"""Whatever is sent, the endpoint answers as its OpenAPI document says, and never with a 500."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

load_all_checks()

# Which words a prompt may have and which bytes are an image is no matter of a JSON schema: such bodies are refused with 400.
NOT_EXPECTED = CHECKS.get_by_names(["positive_data_acceptance"])


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_described(make_api, mode):
    statuses = set()
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_api()).include(method="POST")
    operations = list(schema.get_all_operations())
    assert len(operations) == 2
    for operation in operations:

        @settings(max_examples=100, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            answer = case.call()
            statuses.add(answer.status_code)
            case.validate_response(answer, excluded_checks=NOT_EXPECTED)

        check()
    assert 400 in statuses
