"""Text as printable characters: bits predicted by mixed contexts, then a range coder in base 93.

The predictor is a small relative of lpaq (M. Mahoney). A character is seven bits, met on the way down a tree. Eighteen
contexts (the last character with how many brackets are open, with the word so far, with the line above; the last two
and three, two without the last; the last four and seven with all capitals alike; the word alone and with how the line
begins; the last steps of the outline with the character, the word or the last variable that a function has named; the
bracket that is open, the same with that variable; the word before the bracket with the commas since, these with the
word so far; a repetition) keep for each node of it the last bits seen there, ten at most; what such a history leads to
is learned. A mixer adds that up in the logistic domain, with weights by node, by the place in a word and whether a
repetition is under way, and by each of the last two characters. It learns on its own program before the text, which
costs no digits: that is Python too, as short as the text is.

Every bundle brings the program for that along, so it is short, and text. All nodes of a character's tree are predicted
at once by NumPy, and all that lie on its path are updated at once, unless the character was no surprise. Arrays hold
integers, and the two tables are rounded logarithms and exponentials, so every machine predicts the same.
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
# S stretches a probability of 12 bits to ln(p / (1 - p)) in 1/512, Q squashes one of those in 1/256 to 16 bits.
# K: contexts.  C: their numbers, by kind and value.  k: those at hand.  t, v: the history of each of their nodes, less
# one: the last bits behind a leading one.  X: by history and bit, the next.  F: where a context's histories begin.
# a: probability by context and history, A: the same stretched.  W, V: weights, f: the three sets of them in use.
# h, i, x: history of each context and node at hand, its place in a, its stretched probability.  g: their mixture.
# m, u, e: nodes on the path, their bits, by how much the probability that the bit is one, d, was too small.
# U: the text with one capital for all.  Z: its outline, a letter for each word.
# B: open brackets, each with the word before and its commas.  M: the last capital, in the order of the alphabet, that
# a function has for a variable.  w: the word so far.  o: the last character.  j: where the line begins, less one,
# y: the place above in the line before.
# H: where five characters last went on.  s: where the last word begins, less one.
# p: what is expected to come again, after l equal characters.
_PROGRAM = """\
def run(N,D,c,P):
 import math,numpy as z
 S=z.array([round(math.log((i+.5)/(4095.5-i))*512)for i in range(4096)],"i")
 Q=[round(65536/(1+math.exp(((i>>11<<12)-i)/256)))for i in range(4096)]
 K=18;F=z.arange(K)[:,None]<<11;i=z.arange(4094);X=z.where(i<2046,i+1,(i+2)%1024+1023)
 a=z.tile([int(65536*(bin(i).count("1")-.6)/(len(bin(i))-2.2))for i in range(1,2049)],K);A=S.take(a>>4)
 t=z.zeros((N*K,128),"H");v=t.ravel();C={};W=z.zeros((262,K,128),"i");W[:6]=4800;V=W.ravel()
 H={};T=U=Z="  ";B=[T];M=T;s=p=l=0;r=1;E=(ord(x)>>i&1 for x in P for i in range(6,-1,-1))
 while len(T)<N:
  o=T[-1];w=T[s+1:];q=B[-1];j=T.rfind("\\n");y=T.rfind("\\n",0,j)-j+len(T)
  k=z.array([C.setdefault(x,len(C))for x in enumerate(((o,len(B)),T[-2:],T[-3:],T[-3:-1],U[-4:],U[-7:],(w,o),(Z[-4:],o),
(Z[-8:],w),q[0],(q[0],M,o),(q[1:],o),l and(T[p],l>9),(q,w),(M,Z[-4:]),w,(T[j+1:j+6],w,o),(T[y-1:y+1],o)))])
  f=(l>0)+2*min(len(w),2),ord(o)+6,ord(T[-2])+134
  h=t.take(k,0);i=h+F;x=A.take(i);g=((W[f[0]]+W[f[1]]+W[f[2]])*x).sum(0,"i").tolist()
  n=1;m=[];u=[];e=[]
  while n<128:
   y=g[n]>>16;d=Q[-2047 if y<-2047 else 2047 if y>2047 else y]
   while r<1<<24:r*=93;NEXT
   y=(r>>16)*d;b=next(E,2)
   if b>1:BIT
   m.append(n);u.append(b);e.append(b*65535-d);n+=n+b
  if max(e)>999 or min(e)<-999:
   b=z.array(u);v[(k*128)[:,None]+m]=X.take(h.take(m,1)*2+b);i=i.take(m,1);z.add.at(a,i,b*65535-a[i]>>8);A[i]=S.take(a[i]>>4)
   V[(z.array(f)*K)[:,None,None]*128+(F>>4)+m]+=z.array(e)*x.take(m,1)>>17
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
DECODE = _PROGRAM.replace("NEXT", "y=next(D);c=c*93+y-32-(y>34)-(y>92)").replace(
    "BIT", "b=c<y;c-=0 if b else y;r=y if b else r-y"
)
ENCODE = _PROGRAM.replace("NEXT", "c*=93").replace("BIT", "b=next(D);c+=0 if b else y;r=y if b else r-y")


def self_expanding(text: str) -> str:
    """Python source that binds T to `text`. Raises SpecError for characters beyond ASCII."""
    if not text.isascii():
        beyond = next(character for character in text if not character.isascii())
        raise SpecError(f"{beyond!r} is no ASCII character; spell it as an escape")
    program = base64.b85encode(zlib.compress(DECODE.encode(), 9)).decode()
    unpack = f'import base64,zlib\nP=zlib.decompress(base64.b85decode("{program}")).decode()\n'
    return f'{unpack}exec(P)\nT,_=run({len(DECODE) + len(text) + 2},iter(b"{encode(text)}"),0,P)\n'


def compressed(text: str) -> str:
    """The same by LZMA: at once, in a quarter more characters."""
    packed = base64.b85encode(lzma.compress(text.encode(), format=lzma.FORMAT_ALONE, preset=9)).decode()
    return f'import base64,lzma\nT=lzma.decompress(base64.b85decode("{packed}")).decode()\n'


@lru_cache(maxsize=4)  # seconds of work, and seeds of one recipe share it
def encode(text: str, known: str = DECODE) -> str:
    """The digits that the program expands to `text`, once it has learned on `known`."""
    bits = (ord(character) >> place & 1 for character in text for place in range(6, -1, -1))
    _, number = program(ENCODE)(len(known) + len(text) + 2, bits, 1, known)
    digits = []
    while number > 1:  # the one in front keeps digits that are zero
        number, digit = divmod(number, BASE)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


def program(source: str) -> Any:
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope["run"]
