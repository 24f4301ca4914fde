"""A network with everything that a pass could change by mistake."""

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Everything that a pass could change: BatchNorm and dropout, some in training mode, a frozen layer, a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 2)
        self.break_it = False
        self.train()
        self.linear.eval()
        self.conv.bias.requires_grad_(False)
        self.linear.weight.grad = torch.ones_like(self.linear.weight)
        self.conv.register_forward_hook(lambda module, inputs, output: None)

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = self.dropout(self.norm(self.conv(inputs)).relu()).mean((2, 3))
        if self.break_it:
            raise ValueError("broken on purpose\nwith a message of two lines")
        return self.linear(pooled)
