"""Padding of row counts to the sizes at which matrix products treat every row alike.

A product of few rows runs another kernel than one of many, with another order of summation and other last bits.
Measured (float32 and bfloat16, one and two threads, Intel with MKL): from one multiple of 16 to the next a row's result
depends neither on the number of rows nor on its place among them; at other sizes it does.
"""

import torch
from torch.nn.functional import pad

ROW_MULTIPLE = 16


def pad_rows(x_RD: torch.Tensor) -> torch.Tensor:
    """Rows of zeros added to [R, D] up to the next multiple of `ROW_MULTIPLE`."""
    return pad(x_RD, (0, 0, 0, -len(x_RD) % ROW_MULTIPLE))
