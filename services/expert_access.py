"""How one expert is reached, wherever it is of."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.encoders import Encoders
from services.expert_client import ExpertClient


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertAccess:
    """An expert's service, and what has to be encoded for it.

    Attributes:
        client: of the application that holds it.
        encoders: of the run's own model and of the others.
        models: beside the run's own, that the expert's networks are of.
    """

    client: ExpertClient
    encoders: Encoders
    models: Sequence[str]
