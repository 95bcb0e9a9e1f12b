"""The student's trainable tensors as they are published, and the checksum that names them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from fields.carriers.carrier import Carrier, Tensors, pack, unpack


@dataclass(frozen=True, kw_only=True)
class Weights(Carrier):
    """The student's trainable tensors at one policy version, on the host.

    They are hashed when somebody asks for their checksum, once; who receives them with it verifies it.
    """

    policy_version: int
    tensors: Tensors

    @staticmethod
    def of(policy_version: int, tensors: Tensors) -> "Weights":
        """A copy of the tensors as they are now."""
        # From a GPU into pinned memory, all on their way at once.
        copied = {name: tensor.detach().to("cpu", copy=True, non_blocking=True) for name, tensor in tensors.items()}
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return Weights(policy_version=policy_version, tensors=copied)

    @staticmethod
    def verified(policy_version: int, tensors: Tensors, checksum: str) -> "Weights":
        """Tensors that come from elsewhere, with the checksum that they had there.

        Raises:
            ValueError: if they have another one.
        """
        weights = Weights(policy_version=policy_version, tensors=tensors)
        if weights.checksum != checksum:
            raise ValueError(f"weights of policy version {policy_version} are damaged: {weights.checksum} is not {checksum}")
        return weights

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the tensors, as `checksum` says."""
        return checksum(self.tensors)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _received, (self.policy_version, pack(self.tensors), self.__dict__.get("checksum"))


def _received(policy_version: int, packed: Mapping[str, Any], checksum: str | None) -> Weights:
    if checksum is None:
        return Weights(policy_version=policy_version, tensors=unpack(packed))
    return Weights.verified(policy_version, unpack(packed), checksum)


def checksum(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
