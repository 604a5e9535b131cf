"""The look of the sandbox's few HTML pages: one shell, one style sheet, light and dark."""

import html

from starlette.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; --ground:#f6f7f9; --card:#fff; --ink:#1b2430; --soft:#5a6778;
  --line:#dde2e9; --blue:#1f5fd0; --blue-ink:#fff; --good:#18794e; --bad:#b42318; --warn:#8a5a00;
  --good-bg:#e3f5ec; --bad-bg:#fdeceb; --warn-bg:#fdf3dc; }
@media (prefers-color-scheme: dark) { :root { --ground:#12161c; --card:#1a2029; --ink:#e8edf4;
  --soft:#9daabb; --line:#303a47; --blue:#7cabff; --blue-ink:#0d1b33; --good:#6fd6a5;
  --bad:#ff9c92; --warn:#f0c36a; --good-bg:#143226; --bad-bg:#3d1d1b; --warn-bg:#382c12; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--ground); color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
main { max-width:80rem; margin:0 auto; padding:2.5rem 1.25rem 4rem; }
main.narrow { max-width:38rem; }
h1 { font-size:1.6rem; line-height:1.2; margin:0 0 .5rem; letter-spacing:-.01em; }
h2 { font-size:1.1rem; margin:2rem 0 .6rem; }
p { margin:.4rem 0 1rem; max-width:46rem; }
.soft { color:var(--soft); } small, .small { font-size:.85rem; }
code { font:.85em ui-monospace,SFMono-Regular,Menlo,monospace; overflow-wrap:anywhere; }
.card { background:var(--card); border:1px solid var(--line); border-radius:12px;
  padding:1.25rem 1.4rem; }
.scroll { overflow-x:auto; padding:0; }
table { border-collapse:collapse; width:100%; }
th, td { text-align:left; vertical-align:top; padding:.7rem .9rem;
  border-bottom:1px solid var(--line); }
tr:last-child td { border-bottom:0; }
th { font-size:.8rem; font-weight:600; color:var(--soft); white-space:nowrap; }
.try { display:flex; flex-wrap:wrap; gap:.4rem; min-width:17rem; }
td.nowrap { white-space:nowrap; }
.try form { display:inline-flex; gap:.4rem; }
button { font:inherit; font-size:.85rem; padding:.3rem .7rem; border-radius:7px; cursor:pointer;
  border:1px solid var(--line); background:var(--card); color:var(--ink); }
button:hover { border-color:var(--blue); }
button.main { background:var(--blue); color:var(--blue-ink); border-color:var(--blue);
  font-weight:600; }
.wide button { font-size:1rem; padding:.55rem 1.2rem; }
input[type=date] { font:inherit; font-size:.85rem; padding:.25rem .4rem; border-radius:7px;
  border:1px solid var(--line); background:var(--card); color:var(--ink); }
:focus-visible { outline:3px solid var(--blue); outline-offset:2px; }
.tag { display:inline-block; font-size:.8rem; padding:.1rem .55rem; border-radius:99px;
  margin:0 .25rem .25rem 0; white-space:nowrap; background:var(--ground); color:var(--soft); }
.tag.good { background:var(--good-bg); color:var(--good); }
.tag.bad { background:var(--bad-bg); color:var(--bad); }
.tag.warn { background:var(--warn-bg); color:var(--warn); }
fieldset { border:0; padding:0; margin:0; } legend { font-weight:600; padding:0;
  margin-bottom:.5rem; }
label.choice { display:flex; gap:.7rem; align-items:flex-start; padding:.55rem .7rem;
  border-radius:8px; cursor:pointer; }
label.choice:hover, label.choice:has(:checked) { background:var(--ground); }
label.choice input { margin-top:.35rem; accent-color:var(--blue); }
label.choice small { display:block; color:var(--soft); }
.choices { display:grid; grid-template-columns:repeat(auto-fill,minmax(13.5rem,1fr));
  margin:0 -.7rem; }
/* On a phone each row is a card; the roles keep it a table to a screen reader. */
@media (max-width: 56rem) {
  table, tbody, tr, td { display:block; }
  thead { position:absolute; clip-path:inset(50%); }
  tr { border-bottom:1px solid var(--line); padding:.9rem; }
  tr:last-child { border-bottom:0; }
  td { border-bottom:0; padding:.2rem 0; }
  .try { min-width:0; margin-top:.4rem; }
  .try button, input[type=date] { min-height:2.75rem; }
}
.row { display:flex; gap:.6rem; margin-top:1.2rem; }
ul.scopes { margin:.3rem 0 1rem; padding-left:1.2rem; }
"""


def page(title: str, content: str, *, narrow: bool = False, status: int = 200) -> HTMLResponse:
    """A whole document around `content`, which is trusted HTML; the title is not."""
    body = (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body><main{' class=narrow' if narrow else ''}>{content}</main></body></html>"
    )
    return HTMLResponse(body, status, headers={"Cache-Control": "no-store"})
