"""The page About: what the numbers mean, where the method comes from, and which version this is."""

import streamlit as st

from inspector.explain.kinds import VERDICTS
from inspector.ui.components.markdown import plain
from inspector.version import __version__

_PAPERS = (
    ("Lin, Chen, Yan: Network In Network. ICLR 2014", "global average pooling in place of fully connected layers"),
    ("Zhou et al.: Learning Deep Features for Discriminative Localization. CVPR 2016", "class activation maps"),
    ("Oquab et al.: Is Object Localization for Free? CVPR 2015", "global max pooling"),
    (
        "Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks. Distill 2019",
        "the pixels that a cell sees",
    ),
    ("Ali et al.: XAI for Transformers. ICML 2022", "statistics of normalizing layers, frozen for one image"),
)


def show() -> None:
    """Draw the page."""
    with st.container(width=1000):  # longer lines are hard to read
        _show_texts()


def _show_texts() -> None:
    st.header("About Inspector", anchor=False)
    st.markdown(
        f"Version {plain(__version__)}, under the Apache License 2.0. Photos stay in the memory of the computer that "
        "runs this app; they are never written to its disk, and no other visitor sees them."
    )
    st.subheader("What exact means", anchor=False)
    st.markdown(
        "A classifier that ends in global average or global max pooling carries its own explanation. Its last feature "
        "maps `F[c, y, x]` are pooled over all cells, and a linear layer makes the logits of the pooled values. So "
        "each logit is a sum over cells; for global average pooling:"
    )
    st.code(
        "logit[k] = bias[k] + sum over y, x of map[k, y, x]\n"
        "map[k, y, x] = sum over c of weight[k, c] * F[c, y, x] / (h * w)",
        language=None,
        wrap_lines=True,
    )
    st.markdown(
        "Inspector computes these maps for every class in one forward pass, without gradients. For every class and "
        "every photo it compares the sum with the logit that the network itself gives, and shows the largest "
        "difference as the *residual*."
    )
    st.markdown("\n".join(f"- **{plain(name)}**: {plain(verdict.sentence)}" for name, verdict in VERDICTS.items()))
    st.subheader("Papers", anchor=False)
    st.markdown("\n".join(f"- {plain(paper)}: {plain(use)}." for paper, use in _PAPERS))
