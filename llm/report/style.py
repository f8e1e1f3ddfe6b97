"""style: the style sheet of the report page. System fonts, two colour schemes, one column on a phone."""

CSS = """
:root {
  --bg: #fbfaf7; --card: #ffffff; --ink: #1d2126; --soft: #5d6670; --line: #e3e0d8; --accent: #b4531f;
  --base: #8a8f98; --sft: #2f6fb3; --aligned: #b4531f; --drop: #d98b6a; --level: #4f7f68;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #14171a; --card: #1c2024; --ink: #e8e6e1; --soft: #a2a9b1; --line: #30363c; --accent: #f0935c;
    --base: #9aa1ab; --sft: #6fb0f0; --aligned: #f0935c; --drop: #b06c4d; --level: #6fae90;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0 0 .3rem; letter-spacing: -.02em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; color: var(--soft); font-weight: 600; }
p { margin: .4rem 0; }
header p, .note, footer { color: var(--soft); font-size: .92rem; }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; margin-top: .9rem; font-size: .92rem; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
footer { padding-top: 3rem; padding-bottom: 3rem; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin-top: 1.6rem; }
.tile, .chart, .picture, .sample { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: .8rem 1rem; }
.tile b {
  display: block; font-size: 1.3rem; white-space: nowrap; font-variant-numeric: tabular-nums; letter-spacing: -.01em; }
.tile span { color: var(--soft); font-size: .84rem; }
.scroll {
  overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .42rem .8rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 500; white-space: normal; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody:first-child tr:first-child > * { border-top: 0; }
tr.level1 > * { border-top: 0; padding-top: 0; color: var(--soft); }
tr.level1 th:first-child { padding-left: 2rem; }
th i, h4 i { display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .4em;
  background: var(--model, transparent); }
.m-base { --model: var(--base); } .m-sft { --model: var(--sft); } .m-aligned { --model: var(--aligned); }
.whiskers { width: 150px; height: 26px; display: block; margin-left: auto; }
.whiskers line { stroke: var(--model); stroke-width: 2; stroke-linecap: round; opacity: .6; }
.whiskers circle { fill: var(--model); }
.charts, .pictures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .75rem; }
figure { margin: 0; }
.chart { padding: .7rem .7rem .2rem; }
.chart figcaption { font-size: .86rem; color: var(--soft); display: flex; justify-content: space-between; }
.chart figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
.chart svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--line); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
.dot { fill: var(--accent); }
.funnel {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem .9rem;
  margin: .6rem 0; }
.step { display: grid; grid-template-columns: minmax(8rem, 15rem) 1fr 5rem 5.5rem; gap: .8rem; align-items: center;
  font-size: .9rem; padding: .18rem 0; }
.step .bar { height: .95rem; }
.step .bar i { display: block; height: 100%; border-radius: 3px; background: var(--level); }
.step.drop .bar i { background: var(--drop); }
.step.drop .name { color: var(--soft); padding-left: 1rem; }
.step.level .name, .step.level .num { font-weight: 600; }
.step .num { text-align: right; font-variant-numeric: tabular-nums; }
.step.drop .num { color: var(--soft); }
.sample { padding: .9rem 1.1rem 1rem; margin: .75rem 0; }
.sample .prompt { white-space: pre-wrap; margin: 0 0 .7rem; }
.sample .prompt span { display: block; color: var(--soft); font-size: .8rem; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .9rem; }
.answer { border-left: 3px solid var(--model, var(--line)); padding-left: .7rem; min-width: 0; }
.answer h4 { margin: 0 0 .2rem; font-size: .82rem; color: var(--soft); font-weight: 600; }
.answer h4 .score { float: right; font-weight: 400; }
.answer p { margin: 0; font-size: .93rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); margin-top: .75rem; }
.picture { padding: .6rem; }
.picture img { width: 100%; height: auto; display: block; border-radius: 6px; background: #fff; }
.picture figcaption { color: var(--soft); font-size: .86rem; padding-top: .4rem; }
.shares { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .75rem; }
.shares figure, .ranking, .reason { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem .9rem; }
.shares figcaption, .ranking h4 { font-size: .86rem; font-weight: 600; color: var(--soft); margin: 0 0 .4rem; }
.bars { display: grid; grid-template-columns: 3.2rem 1fr; gap: .3rem .6rem; align-items: center; font-size: .84rem;
  color: var(--soft); }
.bars .bar { display: flex; gap: 1px; height: .95rem; border-radius: 3px; overflow: hidden; }
.shares ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .5rem 0 0; padding: 0;
  font-size: .84rem; }
.shares li i { display: inline-block; width: .62em; height: .62em; border-radius: 2px; margin-right: .4em; }
.c0 { background: #4d7ea8; } .c1 { background: #d98b3f; } .c2 { background: #6fa06a; }
.c3 { background: #a86a9d; } .c4 { background: #b8a04a; } .c5 { background: #8a8f98; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-size: .92rem; color: var(--accent); }
.rankings { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); gap: .75rem;
  margin-top: .5rem; }
.ranking ol { list-style: none; margin: 0; padding: 0; font-size: .86rem; }
.ranking li { position: relative; display: flex; justify-content: space-between; gap: .6rem; padding: .1rem .3rem; }
.ranking li i { position: absolute; inset: 1px auto 1px 0; background: var(--accent); opacity: .14;
  border-radius: 3px; }
.ranking:last-child { grid-column: 1 / -1; }
.ranking li span { overflow-wrap: anywhere; }
.ranking li b { font-weight: 400; white-space: nowrap; color: var(--soft); font-variant-numeric: tabular-nums; }
.reasons { columns: 22rem; column-gap: .75rem; }
.reason { break-inside: avoid; margin-bottom: .75rem; }
.reason h4 { margin: 0; font-size: .92rem; display: flex; flex-wrap: wrap; justify-content: space-between;
  gap: 0 .8rem; }
.reason h4 span { font-weight: 400; color: var(--soft); font-size: .84rem; }
blockquote { margin: .5rem 0 0; padding-left: .7rem; border-left: 3px solid var(--drop); font-size: .88rem;
  overflow-wrap: anywhere; }
blockquote footer { padding: 0; margin: 0; font-size: .78rem; }
.pictures { padding-top: .6rem; }
@media (max-width: 38rem) {
  .step { grid-template-columns: 1fr 4.5rem 5rem; }
  .step .bar { grid-column: 1 / -1; grid-row: 2; }
  h1 { font-size: 1.7rem; }
}
"""
