"""Configuration: four sources, the later wins, and whatever is not known is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.config import ClientConfig, ControlConfig, HostConfig, OnExit, load, split_address
from pandastack.errors import InvalidRequest


def write(folder: Path, text: str) -> Path:
    file = folder / "pandastack.toml"
    file.write_text(text)
    return file


def test_defaults_stand_without_any_source() -> None:
    assert load(ControlConfig) == ControlConfig()


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = write(tmp_path, '[control]\nlisten = "file:1"\nworkspace = "file"\nlog_level = "file"\n')
    config = load(
        ControlConfig,
        file=file,
        environment={"PANDASTACK_WORKSPACE": "environment", "PANDASTACK_LOG_LEVEL": "environment"},
        flags={"log_level": "flag", "on_exit": None},
    )
    assert (config.listen, config.workspace, config.log_level) == ("file:1", "environment", "flag")


def test_text_of_the_environment_becomes_the_fields_type() -> None:
    environment = {
        "PANDASTACK_CONCURRENT_CREATES": "7",
        "PANDASTACK_QUEUE_SECONDS": "1.5",
        "PANDASTACK_ON_EXIT": "destroy",
        "PANDASTACK_STATE_DIR": "~/state",
    }
    config = load(ControlConfig, environment=environment)
    assert (config.concurrent_creates, config.queue_seconds) == (7, 1.5)
    assert config.on_exit is OnExit.DESTROY
    assert config.state_dir == Path.home() / "state"


def test_a_list_in_the_environment_is_words_with_commas() -> None:
    servers = load(HostConfig, environment={"PANDASTACK_NAME_SERVERS": "192.0.2.1, [2001:db8::1]:53,"})
    assert servers.name_servers == ("192.0.2.1", "[2001:db8::1]:53")
    assert load(HostConfig, environment={"PANDASTACK_READY_TEMPLATES": ""}).ready_templates == ()


def test_a_table_of_another_process_is_left_alone(tmp_path: Path) -> None:
    file = write(tmp_path, '[host]\ncache_dir = "/c"\n[client]\napi = "http://h"\n')
    assert load(ControlConfig, file=file) == ControlConfig()
    assert load(HostConfig, file=file).cache_dir == Path("/c")
    assert load(ClientConfig, file=file).api == "http://h"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[control]\nlissten = 1\n", "did you mean 'listen'?"),
        ("[controll]\n", "did you mean 'control'?"),
        ("[control]\nquota_sandboxes = 0\n", "quota_sandboxes"),
        ('[control]\nlisten = ["a"]\n', "listen"),
        ("control = 3\n", "is a table"),
        ("[control\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words.replace("?", "[?]")):
        load(ControlConfig, file=write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load(ControlConfig, file=tmp_path / "none.toml")


def test_a_slip_in_the_environment_is_refused_and_a_strangers_variable_is_not() -> None:
    with pytest.raises(InvalidRequest, match="PANDASTACK_LISTN exists; did you mean 'listen'"):
        load(ControlConfig, environment={"PANDASTACK_LISTN": "x"})
    others = {
        "PANDASTACK_API_KEY": "k",
        "PANDASTACK_EXEC_READY_TIMEOUT": "20",
        "PANDASTACK_XYZ": "",
        "HOME": "/",
    }
    assert load(ControlConfig, environment=others) == ControlConfig()


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="command line: no setting 'listen_on'"):
        load(ControlConfig, flags={"listen_on": "x"})


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), (":80", ("127.0.0.1", 80))],
)
def test_an_address_is_split(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "host", "host:", "host:http", "host:70000"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="host:port"):
        split_address(text)
