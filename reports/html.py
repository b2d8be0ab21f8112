"""The document as one HTML page that needs nothing else: styles inline, figures as data URIs, no scripts."""

from base64 import b64encode

from jinja2 import Environment

from reports.document import Document, finding, published

STYLE = """
:root { --ink: #1c2024; --soft: #5b6470; --line: #dfe3e8; --tint: #f6f7f9; --good: #1a7f37; --bad: #b42318; --open: #9a6700; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .2rem; }
p { margin: .4rem 0; max-width: 75ch; }
.soft, .notes, figcaption { color: var(--soft); font-size: .88rem; }
.claim { display: grid; grid-template-columns: 9.5rem 1fr; gap: .2rem 1.2rem; align-items: start; padding: 1rem 1.2rem;
  margin: .8rem 0; border: 1px solid var(--line); border-left: 5px solid var(--soft); border-radius: 6px; }
.claim h3 { margin: 0; }
.badge { display: inline-block; padding: .12rem .6rem; border-radius: 1rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap; color: #fff; background: var(--soft); }
.reproduced { border-left-color: var(--good); } .not-reproduced { border-left-color: var(--bad); }
.inconclusive { border-left-color: var(--open); }
.badge.reproduced, .badge.pass { background: var(--good); } .badge.not-reproduced, .badge.below { background: var(--bad); }
.badge.inconclusive { background: var(--open); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .42rem 1rem .42rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 2px solid var(--ink); white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
.folded table { font-size: .8rem; }
.folded td, .folded tbody th { font-weight: 400; }
.notes { margin: .2rem 0; }
figure { margin: 1.4rem 0 2rem; }
figcaption { max-width: 85ch; }
figcaption b { color: var(--ink); font-size: .98rem; }
img { display: block; max-width: 100%; height: auto; margin-top: .5rem; }
details { margin-top: 2.4rem; border-top: 1px solid var(--line); padding-top: .8rem; }
summary { cursor: pointer; font-size: 1.2rem; font-weight: 600; }
@media (max-width: 640px) { .claim { grid-template-columns: 1fr; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ document.title }}</title>
<style>{{ style }}</style>
</head>
{% macro body(section) %}
{% if section.text %}<p class="soft">{{ section.text }}</p>{% endif %}
{% for table in section.tables %}
<h3 id="{{ table.name }}">{{ table.title }}</h3>
<p class="soft">{{ table.caption }}</p>
<div class="scroll"><table>
<thead><tr>{% for name in table.header %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>
{%- for cell in row %}
{%- if loop.first %}<th scope="row">{{ cell }}</th>
{%- elif cell in badges %}<td><span class="badge {{ cell }}">{{ cell }}</span></td>
{%- else %}<td>{{ cell }}</td>{% endif %}
{%- endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% for note in table.notes %}<p class="notes">{{ note }}</p>
{% endfor %}
{% endfor %}
{% for figure in section.figures %}
<figure id="{{ figure.name }}">
<figcaption><b>{{ figure.title }}</b><br>{{ figure.caption }}</figcaption>
<img alt="{{ figure.title }}" src="data:image/png;base64,{{ b64(figure.png) }}">
</figure>
{% endfor %}
{% endmacro %}
<body><main>
<h1>{{ document.title }}</h1>
<p>{{ document.introduction }}</p>
<h2>Claims</h2>
{% for result in document.claims %}{% set kind = result.verdict.replace(" ", "-") %}
<div class="claim {{ kind }}" id="{{ result.claim.id }}">
<div><span class="badge {{ kind }}">{{ result.verdict }}</span></div>
<div><h3>{{ result.claim.statement }}</h3>
<p>{{ finding(result) }}</p>
<p class="soft">{{ published(result) }}</p></div>
</div>
{% endfor %}
{% for section in document.sections %}
{% if section.folded %}<details class="folded"><summary>{{ section.heading }}</summary>{{ body(section) }}</details>
{% else %}<section><h2>{{ section.heading }}</h2>{{ body(section) }}</section>{% endif %}
{% endfor %}
</main></body>
</html>
"""


def render_html(document: Document) -> str:
    """The whole page; everything that comes from records is escaped."""
    page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    return page.render(
        document=document,
        style=STYLE,
        badges=("pass", "below"),
        b64=lambda png: b64encode(png).decode("ascii"),
        finding=finding,
        published=published,
    )
