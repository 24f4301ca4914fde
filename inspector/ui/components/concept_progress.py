"""The progress of work of the page Concepts."""

import streamlit as st

from inspector.ui.components.markdown import plain
from inspector.ui.state import keys
from inspector.ui.state.concept_work import ConceptWork
from inspector.ui.state.jobs import describe_place


def show_progress(work: ConceptWork) -> None:
    """Show work in progress, with a button to stop it. Run the page again when it has ended."""

    def watch() -> None:
        if not work.job.running:
            st.rerun()
        place = f", {describe_place(work.job.place)}: others work first" if work.job.place else ""
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(work.job.progress, plain(f"{work.describe()}: {work.job.progress:.0%}{place}"))
            if st.button("Stop", key=keys.CONCEPT_STOP, icon=":material/stop:"):
                work.job.stop.set()
                work.job.thread.join(10)
                st.rerun()

    st.fragment(watch, run_every=0.5)()
