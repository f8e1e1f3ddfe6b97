"""Saving and loading state: atomic, damage is told, fingerprints separate runs."""

import errno
import resource

import pytest
import torch

from llm.train import checkpoint


def state(value=1.0):
    return {"step": 3, "masters": {"w": torch.full((100, 100), value)}, "history": [{"loss": 0.5}]}


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "latest.pt", state())
    loaded = checkpoint.load(tmp_path / "latest.pt", ("step", "masters"))
    assert loaded["step"] == 3
    assert torch.equal(loaded["masters"]["w"], state()["masters"]["w"])
    assert checkpoint.load(tmp_path / "nothing.pt", ("step",)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["latest.pt"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "other keys"])
def test_damage_is_one_line_naming_the_file_and_the_way_out(tmp_path, damage):
    path = tmp_path / "latest.pt"
    checkpoint.save(path, state())
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    contents = {"truncated": raw[:-200], "flipped": raw, "foreign": b"not a checkpoint", "empty": b""}
    if damage == "other keys":
        checkpoint.save(path, {"something": 1})
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match="damaged checkpoint") as error:
        checkpoint.load(path, ("step", "masters"))
    assert str(path) in str(error.value)
    assert f"delete {tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "latest.pt"
    checkpoint.save(path, state(1.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # as if the disk were full after 20 kB
    try:
        with pytest.raises(
            OSError, match="could not be written .*File too large.*; the previous checkpoint is intact"
        ) as error:
            checkpoint.save(path, state(2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert float(checkpoint.load(path, ("masters",))["masters"]["w"][0, 0]) == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["latest.pt"]


def test_no_space_from_the_first_byte(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match="No space left on device.*free disk space.*no earlier checkpoint"):
        checkpoint.save(tmp_path / "latest.pt", state())
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_changes_with_params_and_inputs(tmp_path):
    data = tmp_path / "rows.bin"
    data.write_bytes(b"abc")
    base = checkpoint.fingerprint({"lr": 0.1}, data)
    assert base == checkpoint.fingerprint({"lr": 0.1}, data)
    assert len(base) == 16
    assert base != checkpoint.fingerprint({"lr": 0.2}, data)
    data.write_bytes(b"abd")
    assert base != checkpoint.fingerprint({"lr": 0.1}, data)


def test_fingerprint_changes_with_the_code(tmp_path, monkeypatch):
    source = tmp_path / "module.py"
    source.write_text("x = 1")
    monkeypatch.setitem(checkpoint.sys.modules, "llm.extra", type("M", (), {"__file__": str(source)}))
    base = checkpoint.fingerprint({})
    source.write_text("x = 2")
    assert base != checkpoint.fingerprint({})


def test_random_state_round_trip():
    torch.manual_seed(4)
    saved = checkpoint.random_state()
    expected = torch.rand(5)
    torch.manual_seed(9)
    checkpoint.set_random_state(saved)
    assert torch.equal(torch.rand(5), expected)
