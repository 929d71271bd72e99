"""Finding profiles by name, the user's folder, saving."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.devices.catalog import (
    HOST,
    SHIPPED,
    load_profile,
    names,
    profile_path,
    save_profile,
    user_directory,
)
from edgeport.devices.profile_file import read_profile
from edgeport.devices.profile_keys import (
    CONSTRAINT_KEYS,
    GPU_KEYS,
    KERNEL_KEYS,
    PROFILE_KEYS,
    PUBLISHED_KEYS,
)
from edgeport.errors import UsageError

REQUIRED = {"edge", "raspberry-pi-5-8gb", "laptop", "cpu-server", "workstation-gpu", "multi-gpu", "host"}


def test_the_promised_devices_are_there() -> None:
    assert set(names()) >= REQUIRED


def test_unknown_name_lists_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match="no device called 'labtop', did you mean 'laptop'") as caught:
        load_profile("labtop")
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in REQUIRED)


@pytest.mark.parametrize("name", ["../edge", "data/edge", "edge.toml", ""])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="no device called"):
        load_profile(name)


def test_a_user_profile_wins_and_is_listed(user_devices: Path) -> None:
    user_devices.mkdir()
    text = (SHIPPED / "edge.toml").read_text()
    (user_devices / "edge.toml").write_text(text.replace("cores = 4", "cores = 2"))
    (user_devices / "mine.toml").write_text(text)
    assert load_profile("edge").cores == 2
    assert load_profile("mine").name == "mine"
    assert "mine" in names()
    assert profile_path("mine") == user_devices / "mine.toml"


def test_a_user_file_may_hold_every_table(user_devices: Path) -> None:
    """The same tables as a shipped file, and the same refusals."""
    user_devices.mkdir()
    text = (SHIPPED / "jetson-orin-nano-super-8gb.toml").read_text()
    mine = user_devices / "my-jetson.toml"
    mine.write_text(text + '\n[[kernels]]\nengine = "llama.cpp"\nbits = 4\ndecode_bandwidth_gb_per_s = 60\n')
    profile = load_profile("my-jetson")
    shipped = load_profile("jetson-orin-nano-super-8gb")
    assert (profile.gpu, profile.published) == (shipped.gpu, shipped.published)
    assert [rates.decode_bandwidth_bytes_per_s for rates in profile.kernels] == [60_000_000_000]
    mine.write_text(text.replace("shares_ram", "shared_ram"))
    with pytest.raises(UsageError, match="unknown key, did you mean 'shares_ram'"):
        load_profile("my-jetson")


def test_the_user_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPORT_DEVICES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert user_directory() == tmp_path / "config/edgeport/devices"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_directory() == tmp_path / "home/.config/edgeport/devices"


def test_saved_profile_loads_under_its_new_name(user_devices: Path) -> None:
    edge = load_profile("edge")
    path = save_profile(edge, "my-box", comment="one line\nand another")
    assert path == user_devices / "my-box.toml"
    assert path.read_text().startswith("# one line\n# and another\n")
    loaded = load_profile("my-box")
    assert (loaded.name, loaded.ram_bytes, loaded.engines) == ("my-box", edge.ram_bytes, edge.engines)
    assert list(user_devices.iterdir()) == [path], "a temporary file was left behind"


def test_saving_does_not_replace_unless_asked() -> None:
    edge = load_profile("edge")
    save_profile(edge, "box")
    with pytest.raises(UsageError, match="exists already"):
        save_profile(edge, "box")
    save_profile(load_profile("laptop"), "box", overwrite=True)
    assert load_profile("box").cores == load_profile("laptop").cores


@pytest.mark.parametrize("name", [HOST, "detect", "a/b", "Größe", "", ".hidden", "UPPER"])
def test_names_that_cannot_be_saved(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a device name"):
        save_profile(load_profile("edge"), name)


def test_an_unwritable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPORT_DEVICES", str(tmp_path / "file" / "below"))
    with pytest.raises(UsageError, match="cannot write"):
        save_profile(load_profile("edge"), "box")


def test_the_documentation_has_every_key_and_an_example_that_reads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/add-a-device.md").read_text(encoding="utf-8")
    example = tmp_path / "my-board.toml"
    example.write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert read_profile(example).published
    keys = (PROFILE_KEYS, GPU_KEYS, CONSTRAINT_KEYS, KERNEL_KEYS, PUBLISHED_KEYS)
    assert [name for table in keys for name in table if f"`{name}`" not in page] == []
