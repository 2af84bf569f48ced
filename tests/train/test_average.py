import torch

from golf.train.average import Average
from golf.train.schedule import ema_decay


def test_average_is_the_closed_form():
    """Sum over updates of (1 - d_i) times the product of later decays, in float64."""
    torch.manual_seed(0)
    live = [torch.randn(3, 4), torch.randn(5)]
    average = Average(live, decay=0.6)
    values = [[tensor.double().clone() for tensor in live]]
    for step in range(12):
        for tensor in live:
            tensor += torch.randn_like(tensor)
        values.append([tensor.double().clone() for tensor in live])
        average.update(step)
    decays = [min(0.6, (1 + step) / (10 + step)) for step in range(12)]
    weights = torch.tensor([1.0] + [1 - decay for decay in decays], dtype=torch.float64)
    for index, decay in enumerate(decays):
        weights[: index + 1] *= decay
    assert abs(weights.sum().item() - 1) < 1e-12
    for index, shadow in enumerate(average.shadow):
        expected = sum(weight * value[index] for weight, value in zip(weights, values))
        torch.testing.assert_close(shadow.double(), expected, rtol=0, atol=1e-6)


def test_average_starts_as_a_copy_and_decay_zero_follows():
    live = [torch.ones(4)]
    average = Average(live, decay=0.0)
    live[0] += 1
    assert average.shadow[0].tolist() == [1.0] * 4
    average.update(0)
    assert average.shadow[0].tolist() == [2.0] * 4
    assert ema_decay(0, 0.999) == 0.1


def test_low_precision_tensors_are_averaged_in_float32():
    live = [torch.ones(2, dtype=torch.bfloat16)]
    average = Average(live, decay=0.99)
    live[0] += 1
    average.update(10_000)
    assert average.shadow[0].dtype == torch.float32
    assert abs(average.shadow[0][0].item() - 1.01) < 1e-6
