"""What Streamlit would lose is kept; browser/test_simultaneous_events.py has the half that takes a browser."""

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

from inspector.ui.state.streamlit_fixes import apply_streamlit_fixes


@pytest.mark.parametrize("fragments", [None, ["one"]])
def test_a_new_run_throws_no_answer_to_an_upload_away(fragments: list[str] | None) -> None:
    apply_streamlit_fixes()
    queue = ForwardMsgQueue()
    answer, element, started = ForwardMsg(), ForwardMsg(), ForwardMsg()
    answer.file_urls_response.response_id = "asked"
    element.delta.new_element.text.body = "of the run before"
    element.delta.fragment_id = "one"
    started.new_session.name = "app"
    for message in (answer, element, started):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=fragments)
    assert sorted(str(message.WhichOneof("type")) for message in queue.flush()) == ["file_urls_response", "new_session"]
    # What was sent is not kept, and sent again.
    assert queue.is_empty()
    queue.enqueue(answer)
    queue.clear()
    assert queue.is_empty()
