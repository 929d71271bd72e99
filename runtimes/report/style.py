"""The style of report.html: readable at 360 pixels, in light and dark, and on paper. No fonts or files from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #5b6470; --rule: #d9dee4;
  --mark: #2563b8; --whisker: #0d2f5f; --good: #1a7f4b; --warning: #9a6700; --bad: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1d2127; --ink: #e6e9ed; --quiet: #9aa4b1; --rule: #343b45;
    --mark: #6ea3ee; --whisker: #d5e4fb; --good: #4cc38a; --warning: #e2b340; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
p { margin: .4rem 0; }
.quiet, figcaption, caption { color: var(--quiet); }
figcaption, caption, .small { font-size: .85rem; }
.verdict { margin: 1.2rem 0 0; padding: .9rem 1.1rem; background: var(--card); border-left: 4px solid var(--good); border-radius: 4px; }
.verdict.warning { border-color: var(--warning); }
.verdict.bad { border-color: var(--bad); }
.headline { margin: 0 0 .5rem; font-size: 1.15rem; font-weight: 600; }
.verdict ul { margin: 0; padding: 0; list-style: none; }
.verdict li { padding: .1rem 0 .1rem 1.5rem; position: relative; }
.verdict li::before { position: absolute; left: 0; font-weight: 700; }
.verdict li.good::before { content: "\\2713"; color: var(--good); }
.verdict li.warning::before { content: "!"; color: var(--warning); left: .3rem; }
.verdict li.bad::before { content: "\\2717"; color: var(--bad); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { font-weight: 600; color: var(--quiet); font-size: .85rem; white-space: nowrap; vertical-align: bottom; }
th:first-child, td:first-child, table.facts td, table.facts th { text-align: left; }
td:first-child { font-weight: 600; }
table.facts td { overflow-wrap: anywhere; font-weight: 400; }
table.facts th { width: 11rem; vertical-align: top; padding-top: .5rem; white-space: normal; }
table.files th:last-child, table.files td:last-child { text-align: left; }
table.files td:last-child { font: .75rem ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
td.missing { color: var(--quiet); font-style: italic; font-size: .85rem; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85em; }
pre { margin: 0; padding: .8rem 1rem; background: var(--card); border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.2rem; }
figure { margin: 0; padding: .9rem; background: var(--card); border-radius: 4px; }
svg { display: block; width: 100%; height: auto; max-width: 30rem; margin: 0 auto .4rem; }
svg text { font-size: 11px; font-family: inherit; }
svg .quiet { fill: var(--quiet); }
svg .ink { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .lead { stroke: var(--quiet); stroke-width: .75; stroke-opacity: .6; }
svg .mark { fill: var(--mark); }
svg circle.mark { fill-opacity: .8; }
svg .hollow { fill: var(--card); stroke: var(--mark); stroke-width: 2; }
svg .whisker { stroke: var(--whisker); stroke-width: 1.5; }
footer { margin-top: 2.5rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
@media screen and (max-width: 46rem) {
  table.wide thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table.wide, table.wide tbody, table.wide tr, table.wide caption { display: block; width: 100%; }
  table.wide { display: flex; flex-direction: column; }
  table.wide caption { order: 1; padding-top: 0; }
  table.wide tr { margin-bottom: .8rem; padding: .5rem .8rem; background: var(--card); border-radius: 4px; }
  table.wide td { display: flex; justify-content: space-between; gap: 1rem; padding: .15rem 0; border: 0; }
  table.wide td::before { content: attr(data-label); color: var(--quiet); font-weight: 400; font-style: normal; flex: none; }
  table.wide td:first-child { font-size: 1.05rem; }
  table.wide td:first-child::before { content: none; }
  table.files td:last-child { display: block; }
  table.files td:last-child::before { display: block; font: .85rem system-ui, sans-serif; }
  table.facts th { width: 7rem; }
}
@media print {
  :root {
    --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --rule: #bbb;
    --mark: #2563b8; --whisker: #000; --good: #000; --warning: #000; --bad: #000;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; }
  tr, figure, .verdict { break-inside: avoid; }
  figure, .verdict, pre { border: 1px solid var(--rule); }
  th, td { padding: .2rem .35rem; }
}
"""
