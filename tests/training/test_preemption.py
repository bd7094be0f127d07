"""A run told by the machine that it will be taken away saves and ends."""

import http.server
import threading
import time

import jax
import pytest

from kaiyuan_jax.training import checkpoint, loop, preemption


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server on this machine; what it says of maintenance is its `event`."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            if not server.event:  # as a server that is being started
                server.event = "TERMINATE_ON_HOST_MAINTENANCE"
                self.wfile.write(b"no HTTP\r\n")
                return
            value = {"/computeMetadata/v1/instance/maintenance-event": server.event, "/computeMetadata/v1/instance/preempted": "FALSE"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(value[self.path].encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.event = "NONE"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


def test_a_maintenance_notice_stops_the_run_with_everything_saved(tiny, metadata, capsys):
    metadata.event = "TERMINATE_ON_HOST_MAINTENANCE"
    result = loop.train(tiny(), jax.devices()[:1])
    assert 0 < result.step < 100
    assert checkpoint.steps(result.folder / "checkpoints")[-1] == result.step
    assert f"maintenance notice: saved step {result.step} of 100" in capsys.readouterr().out
    metadata.event = "NONE"
    assert loop.train(tiny(), jax.devices()[:1]).finished


def test_an_answer_that_is_none_does_not_end_the_listening(metadata, monkeypatch):
    monkeypatch.setattr(preemption, "POLL", 0.05)
    metadata.event = ""
    with preemption.listening() as stop:
        end = time.monotonic() + 10
        while not stop.flag and time.monotonic() < end:
            time.sleep(0.02)
    assert preemption.REASONS[stop.flag] == preemption.NOTICE


def test_no_notice_and_no_server_are_no_reason(metadata):
    host = preemption.metadata_host()
    assert not preemption.noticed(host)
    metadata.shutdown()
    metadata.server_close()
    with pytest.raises(OSError):
        preemption.noticed(host)
