"""Training that begins alike with and without warm-up passes; one that knows more, or learns unseen, does not."""

from __future__ import annotations

from golf.eval.validity import warmup
from golf.eval.validity.verdict import Status


def told(*steps):
    return [{"path": f"step:{number}", "weights": step[0] * 64, "gradients": int(step[1])}
            for number, step in enumerate(steps, 1)]  # fmt: skip


def test_weights_say_what_warm_up_left():
    same = {0: told("a1", "b2"), 2: told("a3", "b4")}
    assert warmup.pure(same).status is Status.PASS
    found = warmup.pure({0: told("a1", "b2"), 2: told("a3", "c4")})
    assert found.status is Status.FAIL and found.evidence["position"] == 2
    assert warmup.pure({1: told("a2", "b3"), 3: told("a4", "b5")}).status is Status.PASS


def test_gradients_say_what_is_learned_unseen():
    found = warmup.pure({0: told("a4", "b5"), 2: told("a6", "b7")})
    assert found.status is Status.FAIL and found.evidence["numbers"] == [4, 1]
