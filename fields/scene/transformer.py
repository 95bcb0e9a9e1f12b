"""A small diffusion transformer: text tokens, source-image tokens and noisy-image tokens in one sequence.

It predicts the clean image inside and returns the velocity `v = (x_t - x_0) / t`: a patch of one cell has more values
(192) than the model is wide (128), and such a patch can carry a clean image through the width, but not noise.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fields.scene.grammar import TEXT_LENGTH, VOCABULARY
from fields.scene.world import CELL, CELLS, GRID

SMALLEST_T = 0.05  # below this t the division by t is held: the velocity of a nearly clean state stays bounded


class SceneTransformer(nn.Module):
    """The velocity network of the scene world.

    Args:
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads; must divide the width.
    """

    def __init__(self, width: int = 128, depth: int = 6, heads: int = 4):
        super().__init__()
        self.config = {"width": width, "depth": depth, "heads": heads}
        self.recomputes = False
        self.words = nn.Embedding(len(VOCABULARY) + 1, width)
        self.phrases = nn.Conv1d(width, width, kernel_size=3, padding=1)  # what a word is next to: "red" by "circle"
        self.word_places = nn.Parameter(torch.empty(TEXT_LENGTH, width))
        self.groups = nn.Parameter(torch.empty(3, width))  # text, source image, noisy image
        self.cell_places = nn.Parameter(_sincos_2d(GRID, width), requires_grad=False)  # until `learn_places`
        self.patch_in = nn.Linear(3 * CELL * CELL, width)
        self.time_in = nn.Linear(width, width)
        self.time_out = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, 3 * CELL * CELL)
        self._initialise()

    def _initialise(self) -> None:
        for table in (self.words.weight, self.word_places, self.groups):
            nn.init.normal_(table, std=0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith("modulation.weight") or name == "patch_out.weight":  # every block starts as the identity
                nn.init.zeros_(parameter)

    def learn_places(self, amplitude: float) -> None:
        """Give every cell a random place that is trained: the sines and cosines hardly tell nine cells apart."""
        nn.init.normal_(self.cell_places, std=amplitude)
        self.cell_places.requires_grad_(True)

    def enable_gradient_checkpointing(self) -> None:
        """Compute each block's activations again in the backward instead of keeping them, as networks of diffusers do."""
        self.recomputes = True

    def forward(
        self,
        x_t: Float[Tensor, "batch 3 24 24"],
        t: Float[Tensor, " batch"],
        words: Int[Tensor, "batch length"],
        source: Float[Tensor, "batch 3 24 24"] | None = None,
    ) -> Float[Tensor, "batch 3 24 24"]:
        """Velocity `eps - x_0` at (x_t, t), t in [0, 1]; images in [-1, 1]; `source` is the image to edit."""
        text = self.words(words)
        text = text + F.gelu(self.phrases(text.transpose(1, 2))).transpose(1, 2)
        tokens = [text + self.word_places + self.groups[0]]
        if source is not None:
            tokens.append(self.patch_in(_patches(source)) + self.cell_places + self.groups[1])
        tokens.append(self.patch_in(_patches(x_t)) + self.cell_places + self.groups[2])
        h = torch.cat(tokens, dim=1)
        c = F.silu(self.time_out(F.silu(self.time_in(time_features(t, h.shape[-1])))))
        for block in self.blocks:
            h = checkpoint(block, h, c, use_reentrant=False) if self.recomputes and torch.is_grad_enabled() else block(h, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        x_0 = _unpatch(self.patch_out(self.norm(h[:, -CELLS:]) * (1 + scale) + shift))
        return (x_t - x_0) / t.clamp(min=SMALLEST_T)[:, None, None, None]


class Block(nn.Module):
    """Attention and feed-forward over the whole sequence, modulated by the time (adaLN-zero), with qk-norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.norm_q = nn.RMSNorm(width // heads)
        self.norm_k = nn.RMSNorm(width // heads)
        self.to_out = nn.Linear(width, width)
        self.ff_in = nn.Linear(width, 4 * width)
        self.ff_out = nn.Linear(4 * width, width)

    def forward(
        self, h: Float[Tensor, "batch tokens width"], c: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch tokens width"]:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        h = h + gate_1 * self._attention(self.norm_1(h) * (1 + scale_1) + shift_1)
        return h + gate_2 * self.ff_out(F.gelu(self.ff_in(self.norm_2(h) * (1 + scale_2) + shift_2), approximate="tanh"))

    def _attention(self, h: Tensor) -> Tensor:
        q, k, v = self.to_qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v)
        return self.to_out(out.transpose(1, 2).flatten(2))


def _patches(image: Tensor) -> Tensor:
    """(B, 3, 24, 24) -> (B, 9, 192): one token per cell."""
    return image.unflatten(3, (GRID, CELL)).unflatten(2, (GRID, CELL)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _unpatch(tokens: Tensor) -> Tensor:
    """(B, 9, 192) -> (B, 3, 24, 24)."""
    cells = tokens.unflatten(2, (3, CELL, CELL)).unflatten(1, (GRID, GRID))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def time_features(t: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sines and cosines of t at frequencies from 1 to 1000, (B, width)."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _sincos_2d(grid: int, width: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions at full amplitude, (grid * grid, width)."""
    frequencies = torch.exp(torch.linspace(0.0, -math.log(100.0), width // 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies * math.pi / 2 for axis in (rows, columns)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)
