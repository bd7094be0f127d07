"""Checkpoints of two real processes: what one finds wrong, both know."""

import pathlib

import pytest

from tests import processes

PLACE = str(pathlib.Path(__file__).with_name("many_checkpoints.py"))
PARTS = ["parameters/ocdbt.process_1/d/*", "rest/ocdbt.process_0/d/*", "progress/metadata", "parameters/manifest.ocdbt", "nothing"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes of two devices found."""
    return processes.call(PLACE, "everything", 2, 2, str(tmp_path_factory.mktemp("of_many")), PARTS)


def test_damage_to_the_part_of_one_process_sends_all_to_the_checkpoint_before(found):
    for process in found:
        assert process["damage"] == [[10, True], [10, True], [10, True], [10, True], [20, True]]


def test_copies_are_used_only_where_every_process_has_its_own(found):
    for process in found:
        assert process["copies"] == [[14, 0, True], [12, 0, True], [10, 0, True]]


def test_a_write_that_fails_in_one_process_fails_in_all_and_none_waits_for_another(found):
    for process in found:
        said, there, step, exact = process["one_disk_full"]
        assert "40: could not be written for 2 s" in said
        assert there == [] and step == 50 and exact


def test_a_write_that_fails_in_every_process_is_tried_again_for_as_long_as_one_that_fails_in_one(found):
    for process in found:
        said, step, exact = process["two_disks_full"]
        assert "could not be written for 3 s" in said and step == 50 and exact


def test_a_write_that_one_process_cannot_begin_is_begun_again_by_all(found):
    assert [process["one_cannot_begin"] for process in found] == [[30, True, True]] * 2
