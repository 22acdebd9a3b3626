"""Which server and which key: arguments, environment, file, default."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pandastack.client import ConfigFile, Surroundings, read_config, settle

FILE = ConfigFile(api_url="http://file:1", token="from-file")


def test_the_default_is_this_machine() -> None:
    settings = settle(Surroundings({}))
    assert (settings.api_url, settings.api_key) == ("http://127.0.0.1:8080", None)


def test_arguments_win_over_environment_over_file() -> None:
    environ = {"PANDASTACK_API": "http://env:1/", "PANDASTACK_API_KEY": "from-env"}
    assert settle(Surroundings(environ, FILE), api_url="http://arg:1", api_key="a").api_url == "http://arg:1"
    settings = settle(Surroundings(environ, FILE))
    assert (settings.api_url, settings.api_key) == ("http://env:1", "from-env")
    settings = settle(Surroundings({}, FILE))
    assert (settings.api_url, settings.api_key) == ("http://file:1", "from-file")


def test_an_empty_key_is_a_key_that_was_given() -> None:
    assert settle(Surroundings({"PANDASTACK_API_KEY": "e"}), api_key="").api_key == ""


def test_a_key_is_never_sent_to_another_server_than_its_own() -> None:
    assert settle(Surroundings({}, FILE), api_url="http://elsewhere:1").api_key is None
    assert settle(Surroundings({"PANDASTACK_API": "http://elsewhere:1"}, FILE)).api_key is None
    assert settle(Surroundings({}, FILE), api_url="http://file:1/v1").api_key == "from-file"
    assert settle(Surroundings({}, ConfigFile(api_key="k")), api_url="http://any:1").api_key == "k"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": 3}'])
def test_a_broken_file_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert read_config(path) == ConfigFile()
    assert read_config(tmp_path / "absent") == ConfigFile()


def test_other_programs_keys_in_the_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"api_url": "http://a:1", "token": "t", "expires_at": 5}')
    assert read_config(path) == ConfigFile("http://a:1", "t")


def test_the_retry_budget_has_three_sources(caplog: pytest.LogCaptureFixture) -> None:
    name = "PANDASTACK_MAX_CREATE_RETRY_SECONDS"
    assert settle(Surroundings({})).create_retry_seconds == 60
    assert settle(Surroundings({name: "7"})).create_retry_seconds == 7
    assert settle(Surroundings({name: "7"}), create_retry_seconds=0).create_retry_seconds == 0
    with caplog.at_level(logging.WARNING, "pandastack.client"):
        assert settle(Surroundings({name: "many"})).create_retry_seconds == 60
    assert name in caplog.text
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            settle(Surroundings({}), create_retry_seconds=wrong)
