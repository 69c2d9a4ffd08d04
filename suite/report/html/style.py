"""The looks of our pages: light and dark, on paper, and on a screen 400 pixels wide.

Colours are those of Okabe and Ito, told apart with every common kind of colour blindness: on white
the darker ones, on black the brighter ones. Whatever has a colour also has a shape, a dash or a
name. Text in charts is in the colour of text.
"""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2024; --faint: #565c63; --line: #d5d9de;
  --page: #ffffff; --rest: #eef1f4; --link: #00599b; --focus: #d55e00;
  --c0: #0072b2; --c1: #d55e00; --c2: #008761; --c3: #b5598d; --c4: #1c2024; --grey: #6b7178; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --faint: #a9b0b7; --line: #3a4047;
  --page: #16191c; --rest: #262b30; --link: #7cc4f0; --focus: #f0e442;
  --c0: #56b4e9; --c1: #e69f00; --c2: #2fc598; --c3: #dd8fbb; --c4: #f0e442; --grey: #949ba3; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .8rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { max-width: 48rem; margin: .5rem 0; }
a { color: var(--link); }
code { font: .92em ui-monospace, monospace; background: var(--rest); padding: 0 .25em; }
.faint { color: var(--faint); }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--page); padding: .3rem .6rem; z-index: 1; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0;
  margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th { text-align: left; font-weight: normal; color: var(--faint); font-size: .85rem;
  vertical-align: bottom; }
td, th { padding: .15rem .9rem .15rem 0; }
tbody td { vertical-align: top; }
tbody tr { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
.scroll { overflow-x: auto; max-width: 100%; margin: .5rem 0; overflow-wrap: normal; }
.scroll td { white-space: nowrap; }
.scroll .wide { white-space: normal; min-width: 14rem; }
@media (max-width: 34rem) { .scroll td, .scroll th { padding-right: .6em; }
  .scroll td.name { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem; } }
details .scroll { max-height: 26rem; overflow-y: auto; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; padding: .15rem 0; }
.heard { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.note { font-size: .8em; text-decoration: none; padding: 0 .15em; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(23rem, 100%), 1fr));
  gap: 1.8rem 2rem; margin: 1rem 0; align-items: start; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; max-width: 32rem; height: auto; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .3rem; }
.charts.pictures { gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); }
.pictures figcaption { font-weight: normal; font-size: .85rem; color: var(--faint);
  margin-top: .2rem; }
.counts { display: flex; flex-wrap: wrap; gap: .6rem; list-style: none; padding: 0;
  margin: 1rem 0; }
.counts li { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .9rem; }
.counts b { font-size: 1.5rem; font-variant-numeric: tabular-nums; margin-right: .35rem; }
.sources li { margin: .8rem 0; padding-left: .3rem; }
.sources li:target { background: var(--rest); }
.missing { padding-left: 1.2rem; } .missing li { margin: .3rem 0; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg .small { font-size: 11px; } svg .faint { fill: var(--faint); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .axis { stroke: var(--grey); fill: none; } svg .grid { stroke: var(--line); fill: none; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .thin { stroke-width: 1.2; }
svg .s0 { stroke: var(--c0); } svg .s1 { stroke: var(--c1); } svg .s2 { stroke: var(--c2); }
svg .s3 { stroke: var(--c3); } svg .s4 { stroke: var(--c4); } svg .grey { stroke: var(--grey); }
svg .f0 { fill: var(--c0); } svg .f1 { fill: var(--c1); } svg .f2 { fill: var(--c2); }
svg .f3 { fill: var(--c3); } svg .f4 { fill: var(--c4); } svg .fgrey { fill: var(--grey); }
svg .hollow { fill: var(--page); stroke-width: 1.6; }
svg .d1 { stroke-dasharray: 7 3; } svg .d2 { stroke-dasharray: 2 3; }
svg .d3 { stroke-dasharray: 9 3 2 3; } svg .d4 { stroke-dasharray: 4 4 1 4; }
svg .bar { fill: var(--c0); } svg .rest { fill: var(--rest); }
@media print {
  :root { color-scheme: light; --text: #000000; --faint: #333333; --line: #bbbbbb;
    --page: #ffffff; --rest: #f0f0f0; --link: #000000; --c0: #0072b2; --c1: #d55e00;
    --c2: #008761; --c3: #b5598d; --c4: #000000; --grey: #666666; }
  body { font-size: 10pt; margin: 0; padding: 0; max-width: none; }
  nav, .skip, figure details:not([open]), .optional:not([open]) { display: none; }
  h2, h3, figcaption { break-after: avoid; }
  figure, tr, .sources li { break-inside: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  .scroll, details .scroll { overflow: visible; max-height: none; }
  .scroll table, .scroll th { font-size: 8pt; } .scroll td { white-space: normal; }
  .scroll td, .scroll th { padding-right: .5em; }
  details.sources::details-content { content-visibility: visible; block-size: auto; }
}
"""
