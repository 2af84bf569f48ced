"""Text as printable characters: bits predicted by mixed contexts, then a range coder in base 93.

The predictor is a small relative of lpaq (M. Mahoney). A character is seven bits, met on the way down a tree. Fifteen
contexts (the last character and how many brackets are open, the last two and three, the last four and seven with all
capitals alike, the word so far with and without the last character, the last steps of the outline with the character,
the word or the last variable that a function has named, the bracket that is open, the same with that variable, the word
before the bracket with the commas since, these with the word so far, a repetition) keep for each node of it a
probability with a count, and the last bits seen there; what such a history leads to is learned as well. A mixer adds
both in the logistic domain, with weights by node, by the place in a word and whether a repetition is under way, and by
each of the last two characters. It learns on its own program before the text, which costs no digits: that is Python
too, as short as the text is.

Every bundle brings the program for that along, so it is short, and text: a line with underscores stands for one line
per context, with its number in their place. Probabilities are integers, and the two tables are rounded logarithms
and exponentials, so every machine predicts the same.
"""

from __future__ import annotations

import base64
import lzma
import zlib
from functools import lru_cache
from typing import Any

from golf.contracts import SpecError

BASE = 93
# Printable characters that need no escape, in the order of their codes.
DIGITS = "".join(chr(code) for code in range(32, 127) if chr(code) not in '"\\')

# N: characters of the program P and the text T after it, with two in front.  E: bits of P.  D: digits, or bits to
# encode.  r: the range, c: how far into it the digits lie.
# S stretches a probability of 12 bits to ln(p / (1 - p)) in 1/256, Q squashes one of those to 16 bits.
# v: state of a node: probability, 16 bits; count, 6; last bits behind a leading one, 5.  R: rate, by count.
# X: by the bit, next count and history.  a: probability by history.  c, d: nodes by context, of this context.
# U: the text with one capital for all.  Z: its outline, a letter for each word.
# W, V, Y: weights.  B: open brackets, each with the word before and its commas.  M: the last capital, in the order of
# the alphabet, that a function has for a variable.  w: the word so far.  o: the last character.  k: contexts.
# H: where five characters last went on.  s: where the last word begins, less one.
# p: what is expected to come again, after l equal characters.  g: probability that the bit b is one.
_PROGRAM = """\
def run(N,D,c,P):
 import math
 S=[round(math.log((i+.5)/(4095.5-i))*256)for i in range(4096)]
 Q=[round(65536/(1+math.exp(((i>>11<<12)-i)/256)))for i in range(4096)]
 R=[];X=[],[];A=[32768]
 for i in range(2048):
  R.append(131072//((i>>5)*2+3))
  for b in 0,1:X[b].append(min(i+32,2047)&~31|(i%32*2+b if i%32<16 else i%8*2+b|16))
 for i in range(1,32):A.append(int(65536*(bin(i).count("1")-.6)/(len(bin(i))-2.2)))
 a_=A[:];c_={};W_=[5000]*768;V_=[0]*16384;Y_=V_[:]
 H={};T=U=Z="  ";B=[T];M=T;s=p=l=0;r=1;E=(ord(x)>>i&1 for x in P for i in range(6,-1,-1))
 while len(T)<N:
  o=T[-1];w=T[s+1:];q=B[-1]
  k=(o,len(B)),T[-2:],T[-3:],U[-4:],U[-7:],(w,o),(Z[-4:],o),(Z[-8:],w),q[0],(q[0],M,o),(q[1:],o),l and(T[p],l>9),(q,w)
  k+=(M,Z[-4:]),w
  d_=c_.setdefault(k[0x_],{})
  n=1;t=(l>0)+2*min(len(w),2)<<7
  while n<128:
   x=0;m=n+t;h=n+ord(o)*128;f=n+ord(T[-2])*128
   v_=d_.get(n,1<<26|1);s_=S[v_>>15]+S[a_[v_&31]>>4];w_=W_[m]+V_[h]+Y_[f];x+=w_*s_
   x>>=16;g=Q[-2047 if x<-2047 else 2047 if x>2047 else x]
   while r<1<<24:r*=93;NEXT
   y=(r>>16)*g;b=next(E,2)
   if b>1:BIT
   g=b*65535-g;x=X[b]
   i=v_&2047;y=v_>>11;d_[n]=y+((b*65535-y)*R[i]>>16)<<11|x[i];i&=31;a_[i]+=b*65535-a_[i]>>7;j=g*s_>>17;W_[m]+=j;V_[h]+=j;Y_[f]+=j
   n+=n+b
  n=chr(n-128);l+=1;p+=1
  if l<2 or T[p-1]!=n:l=0
  if n in"([{":B.append(n+(w or o))
  if n==",":B[-1]+=n
  if n in")]}":B=B[:-1]or[T]
  Z+=""if n.isalnum()and Z[-1:]=="a"else"a"if n.isalnum()else n;T+=n;U+="A"if"@"<n<"["else n
  if not n.isidentifier():s=len(T)-1;M="@"if w=="def"else max(M,w)if len(w)<2 and w<"["else M
  n=T[-5:]
  if l<1 and n in H:p=H[n];l=1
  H[n]=len(T)
 return T[len(P)+2:],c
"""
DECODE = _PROGRAM.replace("NEXT", "x=next(D);c=c*93+x-32-(x>34)-(x>92)").replace(
    "BIT", "b=c<y;c-=0 if b else y;r=y if b else r-y"
)
ENCODE = _PROGRAM.replace("NEXT", "c*=93").replace("BIT", "b=next(D);c+=0 if b else y;r=y if b else r-y")

# Makes `run` of the program.
_UNROLL = (
    'exec("\\n".join(";".join(dict.fromkeys(l.replace("_",f"{i:x}")for i in range(15)))for l in P.split("\\n")))\n'
)


def self_expanding(text: str) -> str:
    """Python source that binds T to `text`. Raises SpecError for characters beyond ASCII."""
    if not text.isascii():
        beyond = next(character for character in text if not character.isascii())
        raise SpecError(f"{beyond!r} is no ASCII character; spell it as an escape")
    program = base64.b85encode(zlib.compress(DECODE.encode(), 9)).decode()
    unpack = f'import base64,zlib\nP=zlib.decompress(base64.b85decode("{program}")).decode()\n'
    return f'{unpack}{_UNROLL}T,_=run({len(DECODE) + len(text) + 2},iter(b"{encode(text)}"),0,P)\n'


def compressed(text: str) -> str:
    """The same by LZMA: at once, in a quarter more characters."""
    packed = base64.b85encode(lzma.compress(text.encode(), format=lzma.FORMAT_ALONE, preset=9)).decode()
    return f'import base64,lzma\nT=lzma.decompress(base64.b85decode("{packed}")).decode()\n'


@lru_cache(maxsize=4)  # seconds of work, and seeds of one recipe share it
def encode(text: str) -> str:
    """The digits that the program expands to `text`."""
    bits = (ord(character) >> place & 1 for character in text for place in range(6, -1, -1))
    _, number = program(ENCODE)(len(DECODE) + len(text) + 2, bits, 1, DECODE)
    digits = []
    while number > 1:  # the one in front keeps digits that are zero
        number, digit = divmod(number, BASE)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


def program(source: str) -> Any:
    scope: dict[str, Any] = {"P": source}
    exec(_UNROLL, scope)
    return scope["run"]
