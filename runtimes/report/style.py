"""The style of the written pages: readable at 360 pixels, in light and dark, and on paper. No fonts or files from elsewhere.

Colours keep a contrast of 4.5 for text and 3 for lines and marks against what they stand on (WCAG 2.2, 1.4.3 and 1.4.11); a
browser test computes it.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #57606c; --rule: #d9dee4; --link: #1f5aa8;
  --mark: #2563b8; --whisker: #0d2f5f; --good: #1a7f4b; --warning: #8f6000; --bad: #b42318;
  --series-0: #2563b8; --series-1: #b4500a; --series-2: #0f766e; --series-3: #7c3aed; --series-4: #9f1239;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1d2127; --ink: #e6e9ed; --quiet: #9aa4b1; --rule: #3a424d; --link: #8ab8f5;
    --mark: #6ea3ee; --whisker: #d5e4fb; --good: #4cc38a; --warning: #e2b340; --bad: #ff8a80;
    --series-0: #6ea3ee; --series-1: #f0a35e; --series-2: #4fd1c5; --series-3: #b79cf6; --series-4: #f687a5;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.4rem 0 .7rem; font-size: 1.2rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
a { color: var(--link); }
.quiet, figcaption, caption, .note { color: var(--quiet); }
figcaption, caption, .small, .note { font-size: .85rem; }
.note { margin: .4rem 0 1.2rem; max-width: 46rem; }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 1rem 0 0; font-size: .9rem; }
nav a { padding: .3rem 0; }
.verdict { margin: 1.2rem 0 0; padding: .9rem 1.1rem; background: var(--card); border-left: 4px solid var(--good); border-radius: 4px; }
.verdict.warning { border-color: var(--warning); }
.verdict.bad { border-color: var(--bad); }
.headline { margin: 0 0 .5rem; font-size: 1.15rem; font-weight: 600; }
.verdict ul { margin: 0; padding: 0; list-style: none; }
.verdict li { padding: .1rem 0 .1rem 1.5rem; position: relative; overflow-wrap: anywhere; }
.verdict li::before { position: absolute; left: 0; font-weight: 700; }
.verdict li.good::before { content: "\\2713"; color: var(--good); }
.verdict li.warning::before { content: "!"; color: var(--warning); left: .3rem; }
.verdict li.bad::before { content: "\\2717"; color: var(--bad); }
.scroll { overflow-x: auto; margin: .6rem 0 0; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
thead th { font-weight: 600; color: var(--quiet); font-size: .85rem; vertical-align: bottom; }
.scroll table { font-size: .95rem; }
.scroll th, .scroll td { padding-left: .5rem; padding-right: .5rem; }
.scroll td { white-space: nowrap; }
th:first-child, table.facts td, table.facts th, table.prose th, table.prose td { text-align: left; }
tbody th { font-weight: 600; white-space: nowrap; }
.scroll th:first-child { position: sticky; left: 0; background: var(--paper); }
table.prose td:last-child { white-space: normal; min-width: 12rem; }
td.missing { color: var(--quiet); font-style: italic; font-size: .85rem; }
table.facts { font-size: .95rem; }
table.facts th, table.facts td { padding-top: .25rem; padding-bottom: .25rem; overflow-wrap: anywhere; white-space: normal; }
table.facts th { width: 13rem; color: var(--quiet); font-size: .9rem; }
table.files { table-layout: fixed; font-size: .85rem; }
table.files tbody th { font-weight: 400; }
table.files th, table.files td { white-space: normal; overflow-wrap: anywhere; }
table.files th:nth-child(2) { width: 6rem; }
table.files td:last-child, table.files th:last-child { text-align: left; }
table.files td:last-child, code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .8rem; }
pre { margin: 0; padding: .8rem 1rem; background: var(--card); border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { padding: .3rem 0; cursor: pointer; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.2rem; align-items: start; }
.verdict + .plots { margin-top: 1rem; }
figure { margin: 0; padding: .9rem; background: var(--card); border-radius: 4px; max-width: 36rem; }
svg { display: block; width: 100%; height: auto; max-width: 32rem; margin: 0 auto .4rem; }
svg text { font-size: 11px; font-family: inherit; }
svg .quiet { fill: var(--quiet); }
svg .ink { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .lead { stroke: var(--quiet); stroke-width: .75; stroke-opacity: .6; }
svg .stage { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 3 3; }
svg .roof { stroke: var(--quiet); stroke-width: 1.5; }
svg .mark { fill: var(--mark); }
svg circle.mark { fill-opacity: .8; }
svg .hollow { fill: var(--card); stroke: var(--mark); stroke-width: 2; }
svg .whisker { stroke: var(--whisker); stroke-width: 1.5; }
svg .area-anonymous { fill: var(--mark); }
svg .area-mapped { fill: var(--mark); fill-opacity: .35; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .hollow-marker { fill: var(--card); stroke-width: 1.5; }
svg .line.series-0, svg .hollow-marker.series-0 { stroke: var(--series-0); } svg .marker.series-0 { fill: var(--series-0); }
svg .line.series-1, svg .hollow-marker.series-1 { stroke: var(--series-1); } svg .marker.series-1 { fill: var(--series-1); }
svg .line.series-2, svg .hollow-marker.series-2 { stroke: var(--series-2); } svg .marker.series-2 { fill: var(--series-2); }
svg .line.series-3, svg .hollow-marker.series-3 { stroke: var(--series-3); } svg .marker.series-3 { fill: var(--series-3); }
svg .line.series-4, svg .hollow-marker.series-4 { stroke: var(--series-4); } svg .marker.series-4 { fill: var(--series-4); }
@media screen and (min-width: 60rem) {
  .plots > figure:only-child { display: grid; grid-template-columns: 32rem 1fr; gap: 1.5rem; align-items: center; max-width: none; }
  .plots > figure:only-child svg { margin: 0; }
}
footer { margin-top: 2.5rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
@media screen and (max-width: 46rem) {
  th, td { padding: .4rem .5rem; }
  table.facts th { width: 8.5rem; }
  table.files td:last-child { font-size: .7rem; }
  body { padding: 1.2rem .75rem 3rem; }
  figure { padding: .3rem; }
  figcaption { padding: 0 .3rem .3rem; }
  .scroll tbody th { max-width: 9rem; white-space: normal; overflow-wrap: break-word; }
}
@media print {
  @page { margin: 12mm; }
  :root { --paper: #ffffff; --card: #ffffff; --ink: #000000; --quiet: #444444; --rule: #bbbbbb; --link: #000000; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  nav { display: none; }
  h2 { break-after: avoid; margin-top: 1.4rem; }
  tr, figure, .verdict, .note { break-inside: avoid; }
  figcaption, .note, .small { font-size: 8pt; }
  th, td { padding: .15rem .4rem; }
  thead { display: table-header-group; }
  figure, .verdict, pre { border: 1px solid var(--rule); }
  figure { max-width: 88mm; }
  .plots { display: flex; flex-wrap: wrap; gap: 4mm; }
  .scroll { overflow: visible; }
  .scroll table { font-size: 7.5pt; }
  .scroll th, .scroll td, .scroll tbody th, .scroll table.prose td:last-child {
    padding: .15rem .25rem; font-size: 7.5pt; white-space: normal; overflow-wrap: break-word; min-width: 0;
  }
  details::details-content { content-visibility: visible; display: block; }
}
"""
