"""Files of checkpoints and weights after a kill, on a full disk, damaged, or malicious."""

import os
import pickle
import zipfile
from itertools import count, groupby

import pytest
import torch
from killing import KILLED_WRITING, bits, die_at_line, in_child, limit_files
from malice import Malice, sealed
from safetensors.torch import load_file
from torch import nn

from torchann.training import checkpoint
from torchann.training.checkpoint import DAMAGED, LAST, PREVIOUS, CheckpointError

SIXTEENTHS = range(16)


def state_of(epoch):
    """Tensors and plain values, as in the state of a run."""
    return {
        "network": {"weight": torch.randn(3, 5), "bias": torch.randn(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "rows": [{"loss": 0.1}],
        "epoch": epoch,
    }


FIRST, SECOND, THIRD = (state_of(epoch) for epoch in (1, 2, 3))


@pytest.fixture
def folder(tmp_path):
    """A folder with two checkpoints."""
    checkpoint.save(tmp_path, FIRST)
    checkpoint.save(tmp_path, SECOND)
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def load(folder, **options):
    """The state without its format, and the warnings."""
    warnings = []
    state = checkpoint.load(folder, warn=warnings.append, **options)
    assert state.pop("format") == 1
    return state, warnings


def assert_one_line(text, *parts):
    assert len(text.splitlines()) == 1
    for part in parts:
        assert str(part) in text


# --- Run in a child process -------------------------------------------------------------------------------------------


def save_and_die_at_line(folder, state, number):
    die_at_line(checkpoint, number)
    checkpoint.save(folder, state)


def save_directly(folder, state):
    checkpoint.write(folder / LAST, lambda file: torch.save(state, file))


def save_within(size, folder, state, die, save=checkpoint.save):
    limit_files(size, die)
    try:
        save(folder, state)
    except CheckpointError as error:
        # The result is the exit status, since the limit also holds for any file that could carry the message.
        os._exit(3 if str(error) == f"{folder / LAST}: expected to write it, got File too large" else 4)


# --- The tests --------------------------------------------------------------------------------------------------------


class TestSave:
    def test_loads_the_same_bits(self, folder):
        state, warnings = load(folder)
        assert bits(state) == bits(SECOND)
        assert warnings == []

    def test_keeps_the_checkpoint_before(self, folder):
        (folder / LAST).unlink()
        state, (warning,) = load(folder)
        assert bits(state) == bits(FIRST)
        assert_one_line(warning, folder / LAST, "got no file", folder / PREVIOUS)

    @pytest.mark.slow
    def test_killed_at_any_line_one_checkpoint_is_good(self, folder, tmp_path_factory):
        """Killed before each line of the module that `save` executes, one after the other."""
        found = []
        for line in count(1):
            copy = tmp_path_factory.mktemp("killed")
            for name, content in contents(folder).items():
                (copy / name).write_bytes(content)
            if in_child(save_and_die_at_line, copy, THIRD, line) == 0:
                break
            state, warnings = load(copy)
            assert bits(state) == bits({2: SECOND, 3: THIRD}[state["epoch"]])
            found.append((state["epoch"], len(warnings)))
            checkpoint.save(copy, THIRD)  # the files that the killed process left are not in the way
            assert set(contents(copy)) == {LAST, PREVIOUS}
        before, between, after = (2, 0), (2, 1), (3, 0)  # the two renames; between them `last.pt` is missing
        assert [key for key, _ in groupby(found)] == [before, between, after]

    @pytest.mark.parametrize("sixteenth", SIXTEENTHS)
    def test_killed_in_the_middle_of_a_write_the_former_checkpoint_is_good(self, folder, sixteenth):
        size = len(contents(folder)[LAST]) * sixteenth // 16
        assert in_child(save_within, size, folder, THIRD, True) == KILLED_WRITING
        state, warnings = load(folder)
        assert bits(state) == bits(SECOND)
        assert warnings == []

    @pytest.mark.parametrize("save", [checkpoint.save, save_directly])
    @pytest.mark.parametrize("sixteenth", SIXTEENTHS)
    def test_a_full_disk_changes_nothing(self, folder, sixteenth, save):
        before = contents(folder)
        assert in_child(save_within, len(before[LAST]) * sixteenth // 16, folder, THIRD, False, save) == 3
        assert contents(folder) == before

    def test_an_exception_in_the_middle_of_a_write_changes_nothing(self, folder):
        def write_to(file):
            file.write(b"some of it")
            raise KeyboardInterrupt

        before = contents(folder)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write(folder / LAST, write_to)
        assert contents(folder) == before

    def test_does_not_write_through_a_link_in_place_of_the_temporary_file(self, folder):
        elsewhere = folder / "elsewhere"
        elsewhere.write_text("mine")
        (folder / f"{LAST}.tmp").symlink_to(elsewhere)
        checkpoint.save(folder, THIRD)
        assert elsewhere.read_text() == "mine"

    @pytest.mark.parametrize(("path", "reason"), [("no folder/a file", "No such file"), ("a folder", "Is a directory")])
    def test_says_why_it_cannot_write(self, tmp_path, path, reason):
        (tmp_path / "a folder").mkdir()
        with pytest.raises(CheckpointError) as caught:
            checkpoint.write(tmp_path / path, lambda file: file.write(b"x"))
        assert_one_line(str(caught.value), tmp_path / path, reason)
        assert [path.name for path in tmp_path.iterdir()] == ["a folder"]


# --- Damage ---------------------------------------------------------------------------------------------------------------

UNREADABLE = "a file that is truncated or damaged, or none that a run wrote"
MORE = "one with more in it than tensors and plain values; it was not executed"


def malicious(path):
    return {"format": 1, **SECOND, "epoch": Malice(path.with_name("executed"))}


def without(key):
    return {name: value for name, value in {"format": 1, **SECOND}.items() if name != key}


def with_other(**values):
    return {"format": 1, **SECOND, **values}


def saved(state, **options):
    return sealed(lambda path: torch.save(state, path, **options))


def write_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(malicious(path)))


# What stands in the place of a checkpoint, what writes it there, and what the message says of it.
DAMAGE = [
    ("a folder", lambda path: path.mkdir(), "no file"),
    ("an empty file", lambda path: path.touch(), UNREADABLE),
    ("text", lambda path: path.write_text("a note"), UNREADABLE),
    ("other bytes", lambda path: path.write_bytes(bytes(range(256)) * 20), UNREADABLE),
    ("weights", lambda path: checkpoint.save_weights(path, SECOND["network"]), UNREADABLE),
    ("without the digest", lambda path: torch.save(with_other(), path), UNREADABLE),
    ("a pickle", lambda path: path.write_bytes(pickle.dumps(malicious(path))), UNREADABLE),
    ("a sealed pickle", sealed(lambda path: path.write_bytes(pickle.dumps(malicious(path)))), MORE),
    ("a malicious checkpoint", sealed(lambda path: torch.save(malicious(path), path)), MORE),
    ("one in the old format", sealed(lambda path: torch.save(malicious(path), path, _use_new_zipfile_serialization=False)), MORE),
    ("a malicious archive", sealed(write_archive), ""),
    ("nothing, sealed", sealed(lambda path: path.touch()), ""),
    ("text, sealed", sealed(lambda path: path.write_text("a note")), ""),
    ("a whole module", saved(nn.Linear(5, 3)), MORE),
    ("a list", saved([1, 2]), "one without 'format': 1"),
    ("no format", saved(without("format")), "one without 'format': 1"),
    ("a later format", saved(with_other(format=2)), "one without 'format': 1"),
    ("no network", saved(without("network")), "one without 'network'"),
    ("no epoch", saved(without("epoch")), "one without 'epoch'"),
    ("another network's", saved(with_other(network=nn.Linear(5, 4).state_dict())), "size mismatch for weight"),
    ("something else for a network", saved(with_other(network=3)), "int"),
]  # fmt: skip


def check(state):
    nn.Linear(5, 3).load_state_dict(state["network"])
    assert isinstance(state["epoch"], int)


@pytest.mark.parametrize(("write", "reason"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
class TestDamage:
    def test_is_named_and_the_good_checkpoint_loaded(self, folder, write, reason):
        (folder / LAST).unlink()
        write(folder / LAST)
        state, (warning,) = load(folder, check=check)
        assert bits(state) == bits(FIRST)
        assert_one_line(warning, folder / LAST, reason, DAMAGED, f"going on from {folder / PREVIOUS}")
        assert not (folder / "executed").exists()

    def test_never_replaces_the_good_checkpoint(self, folder, write, reason):
        (folder / LAST).unlink()
        write(folder / LAST)
        load(folder, check=check)
        good = (folder / PREVIOUS).read_bytes()
        checkpoint.save(folder, THIRD)
        assert (folder / PREVIOUS).read_bytes() == good

    def test_of_the_only_checkpoint_is_an_error(self, tmp_path, write, reason):
        write(tmp_path / LAST)
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path, check=check)
        assert_one_line(str(caught.value), tmp_path / LAST, reason)
        assert [path.name for path in tmp_path.iterdir()] == [LAST]  # not renamed, and nothing was executed

    def test_of_both_checkpoints_is_an_error_that_names_both(self, folder, write, reason):
        for name in (LAST, PREVIOUS):
            (folder / name).unlink()
            write(folder / name)
        with pytest.raises(CheckpointError) as caught:
            load(folder, check=check)
        assert_one_line(str(caught.value), folder / LAST, folder / PREVIOUS, reason)


class TestBytes:
    """A checkpoint that is truncated, or has a bit flipped in any of its bytes, is noticed."""

    @pytest.mark.parametrize("sixteenth", SIXTEENTHS)
    def test_truncated(self, folder, sixteenth):
        whole = (folder / LAST).read_bytes()
        (folder / LAST).write_bytes(whole[: len(whole) * sixteenth // 16])
        state, (warning,) = load(folder)
        assert bits(state) == bits(FIRST)
        assert_one_line(warning, folder / LAST, UNREADABLE)

    def test_flipped(self, folder):
        (folder / PREVIOUS).unlink()
        whole = (folder / LAST).read_bytes()
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << position % 8
            (folder / LAST).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=UNREADABLE):
                load(folder)

    def test_the_malice_works(self, tmp_path):
        """Without this, the tests that nothing was executed would prove nothing."""
        pickle.loads(pickle.dumps(Malice(tmp_path / "executed")))
        assert (tmp_path / "executed").exists()

    def test_a_folder_without_checkpoints(self, tmp_path):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        assert str(caught.value) == f"{tmp_path / LAST}: expected a checkpoint, got no file"

    def test_warns_on_stderr(self, folder, capsys):
        (folder / LAST).write_bytes(b"")
        checkpoint.load(folder)
        out, err = capsys.readouterr()
        assert out == ""
        assert_one_line(err, folder / LAST)


WEIGHTS = {"wide": torch.ones(2, 3).cumsum(1).T, "half": torch.ones(3, dtype=torch.bfloat16), "none": torch.ones(0)}


def test_weights_are_what_safetensors_reads(tmp_path):
    checkpoint.save_weights(tmp_path / "model.safetensors", WEIGHTS)
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), WEIGHTS, rtol=0, atol=0)
