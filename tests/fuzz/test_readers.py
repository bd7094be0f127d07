"""Whatever the bytes of a file, its reader gives a value or a line that its user can read, soon and in little memory.

Here each reader meets a few hundred damaged files, the same ones every time; `make fuzz` goes on for as long as it is given
(docs/results/fuzzing.md).
"""

import resource
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import damage
from tests.fuzz.readers import READERS

SECONDS = 2.0  # of CPU for one file; the good ones take milliseconds
MEMORY = 512 << 20  # bytes that a reader may add to the process, over all its files


def lines(error) -> list[str]:
    return str(error).splitlines()


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_good_file_is_read(reader, tmp_path):
    reader.read(tmp_path, reader.good(tmp_path))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_damaged_file_is_read_or_refused_in_plain_words(reader, tmp_path):
    good = reader.good(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=reader.files, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def feed(data):
        content = data.draw(damage.damaged(good, reader.is_json))
        begin = time.process_time()
        try:
            reader.read(tmp_path, content)
        except reader.refuses as error:
            assert str(error) and max(map(len, lines(error))) < 2000 and len(lines(error)) < 60
        assert time.process_time() - begin < SECONDS

    feed()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY
