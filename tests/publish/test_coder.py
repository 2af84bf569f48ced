"""The text coder: what it writes is a program that prints the text again."""

import base64
import bz2
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import SpecError
from golf.publish.bundle import coder


def decode(text: str, digits: str) -> str:
    return coder.program(coder.DECODE)(len(text) + 2, iter(digits.encode()), 0)[0]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=200))
def test_any_ascii_text_comes_back(text):
    digits = coder.encode(text)
    assert set(digits) <= set(coder.DIGITS)
    assert decode(text, digits) == text


@pytest.mark.parametrize("text", ["", "\0", "a", "\x7f" * 40, "a\r\nb\\\"'\n", "abcabc" * 30])
def test_edges_come_back(text):
    assert decode(text, coder.encode(text)) == text


def test_the_script_prints_the_text_in_a_fresh_interpreter(tmp_path):
    text = Path(coder.__file__).read_text(encoding="utf-8")
    script = coder.self_expanding(text)
    assert script.isascii() and all(c.isprintable() or c == "\n" for c in script)
    (tmp_path / "x.py").write_text(script + "import sys;sys.stdout.write(T)")
    done = subprocess.run([sys.executable, "-I", tmp_path / "x.py"], capture_output=True, text=True, check=True)
    assert done.stdout == text


def test_it_takes_less_than_a_general_compressor():
    text = "".join(file.read_text() for file in sorted(Path(coder.__file__).parent.glob("re*.py")))
    assert len(coder.encode(text)) < 0.9 * len(base64.b85encode(bz2.compress(text.encode())))


def test_characters_beyond_ascii_are_refused():
    with pytest.raises(SpecError, match="'é' is no ASCII character"):
        coder.self_expanding("café")
