"""The demo target and its drafter: the defaults of commands for which no target is named."""

from pathlib import Path

DEMO_WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"
DEMO = {"target": str(DEMO_WEIGHTS / "target"), "draft": str(DEMO_WEIGHTS / "drafter")}
