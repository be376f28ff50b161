from __future__ import annotations

from podrace.loadtests.servers import leftovers, run_id
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.embedded import EmbeddedServer


def test_what_the_pods_leave_is_counted_and_all_of_the_run_is_deleted(server: EmbeddedServer) -> None:
    run = Server(url=server.url, info=server.info(), prefix="mirix:")
    with connect(server.url) as client:
        client.flushall()
        client.mset({"mirix:status:x": "{}", "mirix:store:upload_status:x": "{}", "mirix:done:x": "1", "theirs": "1"})
        client.set("mirix:lock:u", "A", ex=30)
        client.set("mirix:late", "A", ex=3600)
        assert leftovers(run, run_id(run), ["done:*"]) == (2, "")
        assert client.keys("*") == [b"theirs"]
        client.flushall()


def test_a_server_that_was_started_again_meanwhile_is_told(server: EmbeddedServer) -> None:
    run = Server(url=server.url, info=server.info(), prefix="mirix:")
    assert "started again" in leftovers(run, "of the one before", [])[1]
