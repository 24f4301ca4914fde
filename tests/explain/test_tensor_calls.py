"""Notes on tensors follow identity and keep nothing alive; frozen functions take arguments as torch does."""

from weakref import ref

import pytest
import torch
from torch import nn

from inspector.explain.frozen_ops import FrozenOps
from inspector.explain.tracing.module_hooks import register_hooks
from inspector.explain.tracing.tensor_calls import TensorNotes, op_name


def test_a_note_belongs_to_one_tensor_and_not_to_an_equal_one() -> None:
    notes = TensorNotes[str]()
    tensor = torch.zeros(2)
    notes[tensor] = "first"
    assert notes.get(tensor) == "first"
    assert tensor in notes
    for other in (torch.zeros(2), tensor.view(2), tensor.detach(), 3, None):
        assert notes.get(other) is None
        assert other not in notes


def test_a_new_note_replaces_the_last() -> None:
    notes, tensor = TensorNotes[int](), torch.zeros(2)
    notes[tensor] = 1
    notes[tensor] = 2
    assert notes.get(tensor) == 2


def test_notes_keep_no_tensor_alive_and_are_not_found_for_one_that_reuses_its_id() -> None:
    notes = TensorNotes[int]()
    reused = 0
    for n in range(100):
        tensor = torch.zeros(2)
        reused += id(tensor) in notes._entries
        assert notes.get(tensor) is None
        notes[tensor] = n
        alive = ref(tensor)
        del tensor
        assert alive() is None
    assert reused


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_note_on_the_base_of_a_view_stays_while_only_the_view_is_used(mode: type) -> None:
    notes = TensorNotes[int]()
    with mode():
        base = torch.ones(4) * 2
        notes[base] = 1
        view, base = base.view(2, 2), None
        if view._base is not None:
            assert notes.get(view._base) == 1
        assert notes.get(view) is None


@pytest.mark.parametrize("function", [torch.relu, torch.Tensor.relu, torch.ops.aten.relu.default])
def test_an_op_has_one_name_however_it_is_called(function: object) -> None:
    assert op_name(function) == "relu"


def test_hooks_are_removed_after_an_error_too() -> None:
    network = nn.Sequential(nn.Linear(2, 2))

    def fail_inside() -> None:
        with register_hooks(network, lambda *_: None, lambda *_: None):
            assert network[0]._forward_hooks
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail_inside()
    assert not network[0]._forward_hooks


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (torch.layer_norm, {"normalized_shape": (4,)}),
        (torch.rms_norm, {"normalized_shape": (4,), "eps": 1e-5}),
        (torch.group_norm, {"num_groups": 2}),
        (nn.functional.normalize, {"p": 2.0}),
    ],
)
def test_a_frozen_normalization_gives_the_values_of_torch_with_arguments_by_keyword(
    function: object, arguments: dict[str, object]
) -> None:
    values = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    expected = function(values, **arguments)
    torch.testing.assert_close(FrozenOps()(function, (values,), arguments), expected)
    torch.testing.assert_close(FrozenOps()(function, (), {"input": values} | arguments), expected)
