"""The page Layers: the feature maps of any layer, or the logit as a sum over the channels before the pooling."""

from inspector.ui.components.controls import choose_segment
from inspector.ui.pages import layer_maps
from inspector.ui.state import keys
from inspector.ui.state.selection import CHANNELS, FEATURE_MAPS
from inspector.ui.state.top_bar import PageSelection


def show(chosen: PageSelection) -> None:
    """Draw the page."""
    text = "Feature maps: any layer of the network. Channels: what each channel before the pooling adds to a logit."
    view = choose_segment("Show", [FEATURE_MAPS, CHANNELS], key=keys.SUBPAGE, help=text, label_visibility="collapsed")
    if view == CHANNELS:
        # Imported here, because Altair, which draws its charts, takes 40 MB.
        from inspector.ui.pages import channels

        channels.show(chosen)
    else:
        layer_maps.show(chosen)
