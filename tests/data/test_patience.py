"""A read that fails for a moment is read again; one that fails for good says so, and what cannot be cured is not waited for."""

import numpy as np
import pytest
import tensorstore as ts

from kaiyuan_jax.data import patience


class Disk:
    """Reads that fail a number of times with an error."""

    def __init__(self, failures: int, error: Exception):
        self.failures, self.error, self.reads = failures, error, 0

    def __call__(self):
        self.reads += 1
        if self.reads <= self.failures:
            raise self.error
        return np.arange(3)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("UNAVAILABLE: Error reading local file")])
def test_a_read_that_fails_a_few_times_gives_its_tokens_and_every_failure_is_said(error, capsys):
    disk = Disk(4, error)
    np.testing.assert_array_equal(patience.patiently(disk, "stores/x"), np.arange(3))
    said = capsys.readouterr().err.splitlines()
    assert disk.reads == 5 and len(said) == 4 and all("stores/x" in line and "trying again" in line for line in said)


def test_a_read_that_fails_for_good_ends_in_an_error_that_a_later_start_may_not_meet():
    disk = Disk(99, OSError(5, "Input/output error"))
    with pytest.raises(patience.ReadError, match="stores/x.*Input/output error.*4 further tries"):
        patience.patiently(disk, "stores/x")
    assert disk.reads == 5
    assert not issubclass(patience.ReadError, (ValueError, OSError)), "verify_store would take it for a damaged store"


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), ValueError("DATA_LOSS: Digest mismatch"), IndexError("tokens")])
def test_what_no_waiting_cures_is_not_tried_again(error):
    disk = Disk(99, error)
    with pytest.raises(type(error)):
        patience.patiently(disk, "stores/x")
    assert disk.reads == 1


def test_tensorstore_names_its_status_first(tmp_path):
    with pytest.raises(ValueError, match="^NOT_FOUND") as caught:
        ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path)}}, read=True).result()
    assert not str(caught.value).startswith(patience._PASSING)
