"""Row counts and weight layouts at which matrix products treat every row alike.

A product of few rows runs another kernel than one of many, with another order of summation and other last bits.
Measured (float32, one and two threads, Intel with MKL): with weights stored input by input, a row's result depends
neither on the number of rows nor on its place among them, as long as that number is a multiple of 8; and 16 rows then
take the time of one, where in the library's layout they take three to seven times as long.
"""

import torch
from torch.nn.functional import pad

ROW_MULTIPLE = 8


def pad_rows(x_RD: torch.Tensor) -> torch.Tensor:
    """Rows of zeros added to [R, D] up to the next multiple of `ROW_MULTIPLE`."""
    return pad(x_RD, (0, 0, 0, -len(x_RD) % ROW_MULTIPLE))


def store_by_input(weight_NK: torch.Tensor) -> torch.Tensor:
    """The same matrix [N, K] with the values of one input, not of one output, side by side in memory."""
    return weight_NK.t().contiguous().t()
