import numpy as np
import pytest
import torch

from fields.evaluation.mismatch import mismatch


def test_it_is_the_error_in_units_of_the_students_effect():
    rolled_out, learned, base = torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    errors = [np.sqrt(((one - learned).double().numpy() ** 2).sum()) for one in (rolled_out, base)]
    assert mismatch(rolled_out, learned, base) == pytest.approx(errors[0] / errors[1], rel=1e-6)


def test_one_student_is_no_mismatch_even_where_it_is_the_base():
    velocity = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert mismatch(velocity, velocity, 2 * velocity) == 0
    assert mismatch(velocity, velocity, velocity) == 0
