"""The tree of a network's modules."""

from torch import Tensor, nn

from inspector.analysis.layers import list_layers
from inspector.explain.classifier import Classifier
from inspector.ui.components.layer_tree import make_tree


class Blocks(nn.Module):
    """Its list does not run itself, and its activation runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(4, 5, 3))])
        self.act, self.fc = nn.ReLU(), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.act(block(x))
        return self.fc(x.mean((2, 3)))


def test_groups_that_do_not_run_hold_their_modules_and_runs_have_rows_of_their_own() -> None:
    classifier = Classifier.wrap(Blocks().eval(), ["a", "b"], size=(16, 16))
    nodes = make_tree(list_layers(classifier))
    assert [(node.label, node.name, node.level, node.selectable) for node in nodes] == [
        ("blocks.", "blocks", 0, False),
        ("blocks.0", "0", 1, True),
        ("blocks.0.0", "0", 2, True),
        ("blocks.1", "1", 1, True),
        ("blocks.1.0", "0", 2, True),
        ("act (run 1)", "act (run 1)", 0, True),
        ("act (run 2)", "act (run 2)", 0, True),
        ("fc", "fc", 0, False),
    ]
    assert nodes[3].size == "5 x 12 x 12"
    assert nodes[3].note == "blocks.1: Sequential, output 1 x 5 x 12 x 12, receptive field 5 x 5 pixels of the input"
