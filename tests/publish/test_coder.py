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


def comes_back(text: str, known: str) -> bool:
    digits = coder.encode(text, known)
    length = len(known) + len(text) + 2
    return (
        set(digits) <= set(coder.DIGITS)
        and text == coder.program(coder.DECODE)(length, iter(digits.encode()), 0, known)[0]
    )


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=100), st.text(st.characters(max_codepoint=127), max_size=50))
def test_any_ascii_text_comes_back(text, known):
    assert comes_back(text, known)


@pytest.mark.parametrize("text", ["", "\0", "a", "\x7f" * 40, "a\r\nb\\\"'\n", "abcabc" * 30])
def test_edges_come_back(text):
    assert comes_back(text, "def known(): pass")


def test_the_script_prints_the_text_in_a_fresh_interpreter(tmp_path):
    text = Path(coder.__file__).read_text(encoding="utf-8")
    script = coder.self_expanding(text)
    assert script.isascii() and all(c.isprintable() or c == "\n" for c in script)
    (tmp_path / "x.py").write_text(script + "import sys;sys.stdout.write(T)")
    done = subprocess.run([sys.executable, "-I", tmp_path / "x.py"], capture_output=True, text=True, check=True)
    assert done.stdout == text


def test_it_takes_less_than_a_general_compressor():
    text = Path(coder.__file__).with_name("tidy.py").read_text()
    assert len(coder.encode(text)) < 0.9 * len(base64.b85encode(bz2.compress(text.encode())))


def test_every_machine_writes_these_digits():
    text = "def f(x):return 3*x\ndef g(x):return 4*x\n"
    assert coder.encode(text, "") == "4j:fP@o462(G=H},`XC5;K#'kHky5sO'7"


def test_characters_beyond_ascii_are_refused():
    with pytest.raises(SpecError, match="'é' is no ASCII character"):
        coder.self_expanding("café")
