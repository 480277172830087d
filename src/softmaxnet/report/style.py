"""The style sheet of a report: light and dark, wide and narrow, screen and paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #1b1f24; --soft: #5d6670; --line: #dfe3e7;
  --for: #1f5fa8; --against: #c8501e; --good: #1d7a45; --fair: #94680a; --poor: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e8eaed; --soft: #a3abb5; --line: #343a42;
    --for: #7db4f2; --against: #f29a6b; --good: #6ccf95; --fair: #e3b554; --poor: #ff8f85;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
header { margin-bottom: 22px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.22rem; margin: 44px 0 6px; }
h3 { font-size: 1rem; margin: 18px 0 4px; }
p { margin: 6px 0; max-width: 70ch; }
.from { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.note, figcaption, caption, .place { color: var(--soft); font-size: .86rem; }
.lead { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px; }
.lead p { font-size: 1.06rem; margin: 7px 0; }
.lead .call { font-weight: 600; border-left: 4px solid var(--tone); padding-left: 10px; }
.good { --tone: var(--good); } .fair { --tone: var(--fair); } .poor { --tone: var(--poor); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); gap: 12px; margin: 16px 0 6px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.tile b { display: block; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: .82rem; line-height: 1.35; }
.tile .what { color: var(--ink); font-size: .88rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 22px;
  align-items: start; }
figure { margin: 10px 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px; }
figure svg { display: block; width: 100%; height: auto; max-width: 620px; margin: 0 auto; }
figcaption { margin-top: 6px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px; }
.panels figure { margin: 0; padding: 10px; }
.panels figcaption b { color: var(--ink); overflow-wrap: anywhere; }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--soft); }
svg text.label { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; fill: none; }
svg .frame { stroke: var(--soft); stroke-width: 1; fill: none; }
svg .diagonal { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; fill: none; }
svg .curve { stroke: var(--for); stroke-width: 2.4; fill: none; stroke-linejoin: round; }
svg circle.curve { fill: var(--for); stroke: none; }
svg .thin { stroke: var(--for); stroke-width: 1.2; opacity: .55; fill: none; }
svg .other { stroke: var(--against); stroke-width: 1.6; stroke-dasharray: 2 3; fill: none; }
svg .other-point { fill: var(--against); }
svg .band { fill: var(--for); opacity: .17; }
svg .point { fill: var(--card); stroke: var(--for); stroke-width: 1.6; }
svg .whisker { stroke: var(--for); stroke-width: 1.1; opacity: .6; fill: none; }
svg .target { fill: var(--against); stroke: var(--card); stroke-width: 1.5; }
svg .bar { fill: var(--for); opacity: .55; }
svg .paper { fill: var(--paper); }
svg .miss { fill: var(--against); }
.key { display: inline-block; width: 1.5em; height: 0; border-top: 3px solid var(--for); vertical-align: middle;
  margin-right: .3em; }
.key.other { border-top: 3px dotted var(--against); } .key.dash { border-top: 2px dashed var(--soft); }
.key.area { height: .9em; border: 0; background: var(--for); opacity: .25; }
.key.dot { width: .7em; height: .7em; border: 0; border-radius: 50%; background: var(--against); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; padding: 4px 10px 4px 0; vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; font-size: .84rem; }
td.num, th.num { text-align: right; white-space: nowrap; }
table.plain { width: 100%; max-width: 760px; }
table.plain tbody tr { border-top: 1px solid var(--line); }
table.plain tbody td, table.plain tbody th { overflow-wrap: anywhere; min-width: 6ch; }
table.plain td.num { overflow-wrap: normal; }
table.plain .nw { white-space: nowrap; }
table.plain tbody th { font-weight: 500; }
.scroll { overflow-x: auto; max-width: 100%; }
caption { text-align: left; padding: 2px 0 6px; caption-side: top; }
.matrix th { font-weight: 500; padding: 3px 8px 3px 4px; max-width: 15em; }
.matrix thead th.up { vertical-align: bottom; text-align: center; padding: 4px 3px; font-size: .8rem; }
.matrix.long thead th.up bdi { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg);
  white-space: nowrap; }
.matrix tbody th { text-align: right; font-size: .86rem; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.matrix tbody td { text-align: center; min-width: 2.2em; padding: 5px 3px; border: 1px solid var(--card); }
.matrix td.right { background: color-mix(in srgb, var(--for) calc(var(--v) * .62), var(--card)); }
.matrix td.wrong { background: color-mix(in srgb, var(--against) calc(var(--v) * .8), var(--card)); }
.matrix td.none { color: var(--soft); opacity: .55; }
.matrix .n { text-align: right; color: var(--soft); }
.share { display: inline-block; height: .7em; background: var(--against); border-radius: 2px; opacity: .8;
  width: var(--w); min-width: 2px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--card-width, 300px)), 1fr));
  gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  break-inside: avoid; display: flex; flex-direction: column; }
.verdict { display: flex; flex-direction: column; gap: 1px; margin: 8px 0 2px; }
.verdict .said b { color: var(--for); } .verdict .was b { color: var(--against); }
.verdict .num { color: var(--soft); font-size: .88rem; }
.verdict b { overflow-wrap: anywhere; }
.place { margin: 2px 0 0; }
.pair { display: flex; gap: 8px; }
.pixels { width: calc(50% - 4px); image-rendering: pixelated; border: 1px solid var(--line); border-radius: 4px;
  background: #fff; }
.text { margin: 0; font-size: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16em;
  overflow: hidden; }
mark { color: inherit; border-radius: 3px; padding: 0 1px; }
mark.for { background: color-mix(in srgb, var(--for) var(--v), transparent); }
mark.against { background: color-mix(in srgb, var(--against) var(--v), transparent); }
.cells { width: 100%; font-size: .86rem; table-layout: fixed; }
.cells th { font-weight: 500; color: var(--soft); width: 36%; overflow-wrap: anywhere; }
.cells td { overflow-wrap: anywhere; padding-right: 6px; }
.cells .bars { width: 18%; } .cells .num { width: 3.4em; }
span.bar { display: inline-block; height: .7em; width: var(--w); min-width: 2px; border-radius: 2px; }
span.bar.for { background: var(--for); } span.bar.against { background: var(--against); }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--for); }
footer { margin-top: 48px; color: var(--soft); font-size: .86rem; border-top: 1px solid var(--line);
  padding-top: 12px; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 18px 14px 40px; } h1 { font-size: 1.4rem; } .lead { padding: 12px 14px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } figure { padding: 8px 6px; }
  .tile b { font-size: 1.25rem; } svg text { font-size: 15px; } .panels { grid-template-columns: repeat(2, 1fr); }
  .panels svg text { font-size: 13px; } .share { display: none; }
  table.plain tbody th, table.plain tbody td:not(.num):not(:empty) { min-width: 9ch; }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --for: #1f5fa8; --against: #c8501e;
    --good: #1d7a45; --fair: #94680a; --poor: #b3261e; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } body { font-size: 11px; } html { font-size: 11px; } h2 { margin-top: 22px; }
  .two { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px; } .tile { padding: 6px 8px; }
  .tiles { grid-template-columns: repeat(7, 1fr); gap: 6px; } .tile b { font-size: 1.2rem; }
  .panels { grid-template-columns: repeat(4, 1fr); } .cards { grid-template-columns: repeat(3, 1fr); }
  figure svg { max-height: 420px; } th, td { padding: 2px 6px 2px 0; } .panels figure { padding: 6px; }
  figure, .card, .tile, tr, .lead { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""
