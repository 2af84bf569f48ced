import pytest
import torch
from torch import nn
from train_toy import Toy

from golf.contracts import Role, SpecError
from golf.train import banks


def test_every_parameter_lies_in_exactly_one_bank():
    torch.manual_seed(0)
    model = Toy()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    built = banks.build(model, model.roles(), world=1)
    names = [name for bank in built for name, *_ in bank.places]
    assert sorted(names) == sorted(before)
    assert [bank.label for bank in built] == ["matrix 48x16", "matrix 16x48", "head", "control"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_parameters_and_gradients_are_views_of_their_bank():
    model = Toy()
    built = banks.build(model, model.roles(), world=1)
    for bank in built:
        bank.values.fill_(0.5)
        bank.grads.fill_(0.0)
    assert all(bool((parameter == 0.5).all()) for parameter in model.parameters())
    ids = torch.arange(8)[None]
    model.loss(ids, ids).backward()
    gathered = {name: view for bank in built for name, view in bank.named(bank.grads)}
    for name, parameter in model.named_parameters():
        assert parameter.grad.data_ptr() == gathered[name].data_ptr()
    assert sum(float(bank.grads.abs().sum()) for bank in built) > 0


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_matrix_banks_are_padded_to_the_ranks(world):
    model = Toy()
    built = banks.build(model, model.roles(), world)
    for bank in built[:2]:
        assert len(bank.values) % world == 0 and len(bank.values) - world < 2
    assert all(
        view.shape == dict(model.named_parameters())[name].shape
        for bank in built
        for name, view in bank.named(bank.values)
    )


def test_a_stack_of_matrices_counts_as_its_matrices():
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack, self.single = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(4, 5))

    model = Stacked()
    (bank,) = banks.build(model, {"stack": Role.MATRIX, "single": Role.MATRIX}, world=1)
    assert bank.values.shape == (4, 4, 5)
    assert torch.equal(bank.values[3], model.single) and torch.equal(bank.values[:3], model.stack)


def wrong_roles():
    roles = Toy().roles()
    yield {name: role for name, role in roles.items() if name != "gain"}, "parameter 'gain' has no role"
    yield roles | {"ghost": Role.CONTROL}, "'ghost', which is no parameter"
    yield roles | {"gain": Role.MATRIX}, "parameter 'gain' has 1 dimensions"


@pytest.mark.parametrize(("roles", "told"), list(wrong_roles()), ids=["missing", "unknown", "vector"])
def test_roles_must_cover_the_parameters(roles, told):
    with pytest.raises(SpecError, match=told):
        banks.build(Toy(), roles, world=1)


def test_masters_are_float32():
    model = Toy()
    model.table.data = model.table.data.bfloat16()
    with pytest.raises(SpecError, match=r"'table' is torch\.bfloat16"):
        banks.build(model, model.roles(), world=1)
