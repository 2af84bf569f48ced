"""Questions about a file just written are left out; whatever else a statement does stays."""

import ast
import textwrap

import pytest

from golf.publish.bundle.trust import trusting


def lean(text):
    tree = ast.parse(ast.unparse(trusting(ast.parse(textwrap.dedent(text)))))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list) and len(node.body) > 1:
            node.body = [each for each in node.body if not isinstance(each, ast.Pass)] or node.body[:1]
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(x):\n    if len(x) > 3:\n        raise ArtifactError(1)\n    return x", "def f(x):\n    return x"),
        (
            "def f(x):\n    n = sum(x)\n    if n != 2:\n        raise ArtifactError(1)\n    return x",
            "def f(x):\n    return x",
        ),
        (
            "def f(x):\n    try:\n        return g(x)\n    except E as e:\n        raise ArtifactError(2) from e",
            "def f(x):\n    return g(x)",
        ),
        (
            "def check(x):\n    for y in x:\n        if y:\n            raise ArtifactError(3)\n"
            "def f(x):\n    check(x)\n    return x",
            "def check(x):\n    pass\n\ndef f(x):\n    return x",
        ),
    ],
)
def test_questions_go(before, after):
    assert lean(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    if len(x) > 3:\n        raise DataError(1)\n    return x",
        "def f(x):\n    if x:\n        raise ChecksumError(1)\n    return x",
        "def f(x):\n    if x.pop():\n        raise ArtifactError(1)\n    return x",
        "def f(x):\n    if (y := x):\n        raise ArtifactError(1)\n    return y",
        "def f(x):\n    if x:\n        raise ArtifactError(1)\n    else:\n        x = 1\n    return x",
        "def f(x):\n    y = x.pop()\n    return x",
        "def f(x):\n    try:\n        g()\n    except E:\n        raise\n    except:\n        x = 1\n    return x",
        "def quiet(event):\n    pass\n\ndef f(quiet):\n    quiet(1)",
    ],
)
def test_what_does_something_stays(text):
    assert lean(text) == text
