"""What Streamlit would lose is kept. The half that needs a browser is in browser/test_simultaneous_events.py."""

import logging

import pytest
import streamlit as st
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import forward_msg_queue
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

from inspector.ui.state import keys, streamlit_fixes
from inspector.ui.state.streamlit_fixes import apply_streamlit_fixes, find_obstacle


@pytest.mark.parametrize("fragments", [None, ["one"]])
def test_a_new_run_keeps_the_answer_to_an_upload(fragments: list[str] | None) -> None:
    apply_streamlit_fixes()
    queue = ForwardMsgQueue()
    answer, element, started = ForwardMsg(), ForwardMsg(), ForwardMsg()
    answer.file_urls_response.response_id = "asked"
    element.delta.new_element.text.body = "of the previous run"
    element.delta.fragment_id = "one"
    started.new_session.name = "app"
    for message in (answer, element, started):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=fragments)
    assert sorted(str(message.WhichOneof("type")) for message in queue.flush()) == ["file_urls_response", "new_session"]
    # An answer that was sent is not kept and sent again.
    assert queue.is_empty()
    queue.enqueue(answer)
    queue.clear()
    assert queue.is_empty()


def test_the_installed_streamlit_is_one_that_is_fixed() -> None:
    assert find_obstacle(st.__version__, ForwardMsgQueue) is None


@pytest.mark.parametrize(
    ("version", "applies"),
    [("1.59.0", False), ("1.60.0", True), ("1.67.1", True), ("1.68.0", False), ("2.0.0", False), ("2.61.0", False)],
)
def test_only_tested_versions_are_fixed(version: str, applies: bool) -> None:
    reason = find_obstacle(version, ForwardMsgQueue)
    assert (
        reason is None
        if applies
        else reason == (f"the fix is tested with Streamlit 1.60 to 1.67, and this is {version}.")
    )


class OtherParameters(ForwardMsgQueue):
    def clear(self, keep: bool = False) -> None:  # type: ignore[override]
        """Clear with parameters of other names."""


class OtherMessages:
    def __init__(self) -> None:
        self.messages: list[ForwardMsg] = []

    def clear(self, retain_lifecycle_msgs: bool = False) -> None:
        """Clear messages that have another name."""


@pytest.mark.parametrize("queue", [OtherParameters, OtherMessages, None])
def test_a_queue_of_another_kind_is_left_alone(queue: object) -> None:
    reason = find_obstacle("1.67.0", queue)
    assert reason is not None
    assert reason.startswith("Streamlit's queue of messages is another than expected")


def test_where_the_fix_does_not_apply_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = forward_msg_queue.ForwardMsgQueue.clear
    monkeypatch.setattr(streamlit_fixes, "LAST_TESTED", (1, 60))
    with caplog.at_level(logging.WARNING):
        apply_streamlit_fixes.__wrapped__()
    assert forward_msg_queue.ForwardMsgQueue.clear is before
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Uploads during a run of the page may be lost",
        "Downloads at the end of a run of the page may be lost",
        "The size of uploads is limited by browsers only",
    ]


def test_the_widgets_outside_the_fragments_are_keys() -> None:
    known = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    assert set(keys.OUTSIDE_FRAGMENTS) <= known
