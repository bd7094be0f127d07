"""Checkpoints of two real processes: what one finds wrong, both know."""

import pathlib

import pytest

from tests import processes

PLACE = str(pathlib.Path(__file__).with_name("many_checkpoints.py"))
PARTS = ["parameters/ocdbt.process_1/d/*", "rest/ocdbt.process_0/d/*", "progress/metadata", "parameters/manifest.ocdbt", "nothing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints 10 and 20 of two processes of two devices each."""
    folder = str(tmp_path_factory.mktemp("of_many") / "checkpoints")
    processes.call(PLACE, "save", 2, 2, folder, 10, 20)
    return folder


def test_damage_to_the_part_of_one_process_sends_all_to_the_checkpoint_before(folder):
    for found in processes.call(PLACE, "damage", 2, 2, folder, PARTS):
        assert found == [[10, True], [10, True], [10, True], [10, True], [20, True]]


def test_copies_are_used_only_where_every_process_has_its_own(tmp_path):
    save = str(tmp_path / "checkpoints")
    processes.call(PLACE, "save", 2, 2, save, 10)
    for found in processes.call(PLACE, "copies", 2, 2, save, str(tmp_path / "local")):
        assert found == [[14, 0, True], [12, 0, True], [10, 0, True]]


def test_a_write_that_fails_in_one_process_fails_in_all_and_none_waits_for_another(tmp_path):
    for said, there, step, exact in processes.call(PLACE, "one_disk_full", 2, 2, str(tmp_path / "c"), timeout=120):
        assert "40: could not be written for 2 s" in said
        assert there == [] and step == 50 and exact
