"""A thousand texts that, taken for Markdown or HTML, ask a browser for something.

Each names ``/probe/N`` or an address of ``evil.example``, whatever else it is made of; the same
ones in every run.
"""

import random
from collections.abc import Iterator
from typing import Final

_ASKING: Final = r"""
![x](/probe/{n})
![x](//evil.example/{n})
![x][r{n}] [r{n}]: /probe/{n}
![x](</probe/{n}>)
[![x](/probe/{n})](http://evil.example/{n})
<img src=/probe/{n}>
<img src='/probe/{n}' onerror=alert(1)>
<iframe src=//evil.example/{n}></iframe>
<link rel=stylesheet href=/probe/{n}>
<script src=/probe/{n}></script>
<svg><image href='/probe/{n}'/></svg>
<style>@import '/probe/{n}'</style>
<video poster=/probe/{n}>
<object data=/probe/{n}></object>
<body background=/probe/{n}>
<a href=javascript:fetch('/probe/{n}')>x</a>
<form action=/probe/{n}><button>
<meta http-equiv=refresh content='0;url=/probe/{n}'>
&lt;img src=/probe/{n}&gt;
http://evil.example/{n}
www.evil.example/{n}
<http://evil.example/{n}>
![x](data:text/html,/probe/{n})
{{{{ '/probe/{n}' }}}}
a@evil.example.probe{n}
mailto:a@evil.example.probe{n}
HTTPS://EVIL.example/probe/{n}
![[x]](/probe/{n})
!\[x\](/probe/{n})
![x](/probe/{n} "y")
[r{n}]: /probe/{n} ![x][r{n}]
[^{n}]: ![x](/probe/{n}) [^{n}]
| ![x](/probe/{n}) | [x](//evil.example/{n}) |
`<img src=/probe/{n}>`
<picture><source srcset=/probe/{n}><img></picture>
<math href=//evil.example/{n}><mi>x</mi></math>
$\href{{//evil.example/{n}}}{{x}}$
&#33;&#91;x&#93;(/probe/{n})
""".strip().splitlines()
_INVISIBLE: Final = (
    *("!\u200b[x](/probe/{n})", "!\u2060[x](/probe/{n})", "[x](\u202e/probe/{n})"),
    "<img\u2028src=/probe/{n}>",
)

_WORDS: Final = r"""
| || \ \| ` `` * ** _ __ ~~ [ ]( ) < > & &#33; &#x5b; </td> </table> <!-- --> ]]> <p> </p> $ $$
' " "> '> ! ![ Ünïcode 名前 business
"""
_AROUND: Final = (
    *_WORDS.split(),
    *("```\n", "~~~\n", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\x85", "\t", "    ", "> ", "- "),
    *("1. ", "# ", "---\n", " "),
    "| a | b |\n|--|--|\n",
    *("\u202e", "\u200b", "\u2028", "\x00", "\x1b[31m"),
)


def hostile_texts(number: int = 1000) -> Iterator[str]:
    """So many texts."""
    dice = random.Random(13)  # noqa: S311 - the same ones every time
    for n in range(number):
        before = "".join(dice.choices(_AROUND, k=dice.randrange(4)))
        after = "".join(dice.choices(_AROUND, k=dice.randrange(4)))
        yield before + dice.choice((*_ASKING, *_INVISIBLE)).format(n=n) + after


REQUESTED: Final = """
() => [...document.querySelectorAll(
    'img, image, script, link, iframe, object, embed, video, source, form, meta, a'
)].map(one => one.outerHTML).filter(text => /^<[^>]*(probe|evil)/.test(text))
"""
"""Elements of a page that a text made: what one of them asks for is in its own tag."""
