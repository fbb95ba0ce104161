"""Captions of the demo target as they were once written, which no change of the code may change."""
