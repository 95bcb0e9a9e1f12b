"""The student's trainable tensors as they are published, and the checksum that names them."""

import hashlib
from dataclasses import dataclass

import torch

from fields.carriers.carrier import Carrier, Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights(Carrier):
    """The student's trainable tensors at one policy version, with their SHA-256."""

    policy_version: int
    checksum: str
    tensors: Tensors

    @staticmethod
    def of(policy_version: int, tensors: Tensors) -> "Weights":
        """A copy of the tensors as they are now."""
        copied = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        return Weights(policy_version=policy_version, checksum=checksum(copied), tensors=copied)

    def __post_init__(self) -> None:
        if (actual := checksum(self.tensors)) != self.checksum:
            raise ValueError(f"weights of policy version {self.policy_version} are damaged: {actual} is not {self.checksum}")


def checksum(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
