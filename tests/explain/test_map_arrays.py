"""The check of every image in NumPy: sums of class maps against logits."""

import warnings

import numpy as np
import pytest

from inspector.explain.map_arrays import Floats, compare_sums

VALUES = np.array([[[1, -2], [3, 4]], [[0, 0], [0, 0]]], np.float32)  # sums 6 and 0, of absolute values 10 and 0
BIAS = np.array([2, 0], np.float32)


def array(*numbers: float) -> Floats:
    return np.array(numbers, np.float32)


def test_a_difference_is_compared_with_the_sum_of_all_absolute_summands() -> None:
    tolerance = 0.25 / 12  # 12: with the bias
    assert compare_sums(VALUES, BIAS, array(8, 0), tolerance) == (0, [])
    assert compare_sums(VALUES, BIAS, array(8.25, 0), tolerance) == (0.25, [])
    assert compare_sums(VALUES, BIAS, array(7.5, 0), tolerance) == (0.5, [0])


def test_the_classes_that_differ_are_named() -> None:
    residual, classes = compare_sums(VALUES, BIAS, array(8, 1e-7), 1e-5)
    assert residual == pytest.approx(1e-7)
    assert classes == [1]  # all its summands are zero, so its logit must be


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["values", "bias", "logits", "values and logits"])
def test_what_is_not_a_number_is_not_exact(number: float, where: str) -> None:
    values, bias, logits = VALUES.copy(), BIAS.copy(), array(8, 0)
    for name, one in (("values", values), ("bias", bias), ("logits", logits)):
        if name in where.split():
            one.flat[0] = number
    with warnings.catch_warnings(action="error"):
        _, classes = compare_sums(values, bias, logits, 1e-5)
    assert classes == [0]
