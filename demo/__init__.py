"""A small world of captioned videos and the tiny models trained on it. Neither package imports it."""
