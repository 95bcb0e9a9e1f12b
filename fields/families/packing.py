"""Latents as sequences of tokens, a token being a patch of 2 x 2 cells: what FLUX.1 and Qwen-Image read."""

import torch
from jaxtyping import Float
from torch import Tensor


def pack(latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch tokens d"]:
    """Patches in row order; within one, channel before row before column: d = 4 c."""
    batch, c, h, w = latents.shape
    patches = latents.reshape(batch, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, h // 2 * (w // 2), 4 * c)


def unpack(tokens: Float[Tensor, "batch tokens d"], h: int, w: int) -> Float[Tensor, "batch c h w"]:
    """The inverse of `pack` for latents of h x w cells."""
    batch, _, d = tokens.shape
    patches = tokens.reshape(batch, h // 2, w // 2, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, d // 4, h, w)


def positions(h: int, w: int, first: int, device: torch.device) -> Float[Tensor, "tokens 3"]:
    """(first, row, column) of each of h x w tokens: `first` tells images apart."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    ids = torch.stack([torch.full_like(rows, first), rows, columns], dim=-1)
    return ids.reshape(-1, 3).float().to(device)
