"""Sources of the token, and refusal to serve without a token unless the user asks for that."""

from pathlib import Path

import pytest

from pipeline.serving.auth import chosen_token
from sparrow_core.errors import ConfigError


def test_token_of_file_or_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert chosen_token(file, False, {"SPARROW_API_TOKEN": "from-environment"}) == "from-file"
    assert chosen_token(None, False, {"SPARROW_API_TOKEN": "from-environment"}) == "from-environment"


def test_no_token_needs_an_explicit_word(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for file, environment in ((None, {}), (None, {"SPARROW_API_TOKEN": ""}), (empty, {}), (tmp_path / "none", {})):
        with pytest.raises(ConfigError):
            chosen_token(file, False, environment)
    assert chosen_token(None, True, {}) is None
    with pytest.raises(ConfigError, match="drop one"):
        chosen_token(None, True, {"SPARROW_API_TOKEN": "x"})
