"""The memory of a rank falls with the number of ranks, in a network large enough to see it."""

import pytest
from memory_process import ADAPTER, peaks

from fields.lora.adapter import add_lora
from fields.scene.family import save_transformer
from fields.scene.transformer import SceneTransformer

WIDTH, DEPTH, FLOAT32 = 512, 16, 4
MARGIN = 60e6  # activations, and what gloo keeps


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Its folder; the bytes of all of it, of one of its blocks, and of an adapter."""
    network, folder = SceneTransformer(width=WIDTH, depth=DEPTH, heads=8), tmp_path_factory.mktemp("large")
    save_transformer(network, folder)
    everything, block = (FLOAT32 * sum(p.numel() for p in module.parameters()) for module in (network, network.blocks[0]))
    adapter = FLOAT32 * sum(tensor.numel() for tensor in add_lora(network, ADAPTER, seed=0).values())
    return folder, everything, block, adapter


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_that_share_the_base_hold_their_part_and_two_blocks(network, tmp_path, size):
    folder, everything, block, adapter = network
    expected = everything / size + (2 * block if size > 1 else 0)
    for peak in peaks(folder, "lora", size, tmp_path):
        assert 0.9 * expected < peak < expected + 8 * adapter + MARGIN


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_that_share_a_full_student_hold_their_part_of_everything(network, tmp_path, size):
    """Weights, gradient, two moments and the average."""
    folder, everything, block, _ = network
    expected = 5 * everything / size
    gathered = 4 * block if size > 1 else 0
    for peak in peaks(folder, "full", size, tmp_path):
        assert 0.9 * expected < peak < 1.1 * expected + gathered + MARGIN
