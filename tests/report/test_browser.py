"""The report in a browser: drawn whole, filtered, silent, and nobody's text is run."""

import csv
import io

import pytest

from lightning_focal.report import write_report
from tests.report.chromium import Chromium, find
from tests.report.made_run import make_run

pytestmark = [
    pytest.mark.slow,  # several starts of a browser
    pytest.mark.skipif(find() is None, reason="no chromium is installed"),
]

EVIL = 'Ends here</script><script>window.ran=1</script><img src=x onerror="window.ran=2"> [link](javascript:ran=3) {{1}} \u2028 "quote"'
NAMES = (
    '<img src=x onerror="window.ran=4">',
    "</script><script>window.ran=5</script>",
    '<a href="javascript:window.ran=6">click</a>',
    "a \"b\" 'c' & %{x}",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of one run, of several, without labels, of 64 criteria, and of one that means harm."""
    top = tmp_path_factory.mktemp("runs")

    def votes(batch):
        return {"train/vote/share": 0.5 + batch / 20, "train/vote/distinct": 3.0, "train/collapse/signs": float(batch > 3)}

    one = make_run(top / "focal0", batches=30, prompts=2, group=4, evaluations=(0, 10, None))
    several = [one, *(make_run(top / f"focal{s}", seed=s) for s in (1, 2)), make_run(top / "static", strategy="StaticReward")]
    many = [(f"criterion {i}", (f"axis:{i}", "level:easy")) for i in range(64)]
    evil = make_run(top / "evil", criteria=[(name, (f"axis:{name}",)) for name in NAMES], say=lambda *_: EVIL)
    runs = {"one": [one], "several": several, "many": [make_run(top / "many", criteria=many)], "evil": [evil]}
    runs["votes"] = [make_run(top / "votes", criteria=[("agrees", ())], extra=votes, batches=8)]
    return {name: write_report(folders, top / f"{name}.html").path for name, folders in runs.items()}


@pytest.fixture(scope="module")
def browser():
    with Chromium() as started:
        yield started


@pytest.fixture
def opened(browser, pages):
    """Open a report; afterwards the console was silent, and the page asked for nothing but itself."""

    def go(name):
        browser.problems.clear()
        browser.requests.clear()
        go.path = pages[name]
        browser.open(go.path)
        return browser

    yield go
    assert browser.problems == []
    assert browser.requests == [go.path.absolute().as_uri()]


# -- figures ---------------------------------------------------------------------------------------------------------------------

SHOWN = """[...document.querySelectorAll(".plot")].map(plot => ({
  name: plot.closest("section").id,
  points: plot.data.map(trace => trace.y.filter(value => value !== null).length),
  drawn: plot.querySelectorAll(".scatterlayer .trace path").length,
  wrong: (Plotly.validate(plot.data, plot.layout) || []).map(found => found.msg),
}))"""
FIGURES = {
    "one": ["score", "criteria", "levels", "shares", "balance", "health"],
    "several": ["scores", "criteria", "levels", "shares", "balance", "health"],
    "many": ["criteria", "levels", "shares", "balance", "health"],
    "votes": ["criteria", "votes", "levels", "health"],
    "evil": ["criteria", "levels", "shares", "balance", "health"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_data(opened, name):
    shown = opened(name).run(SHOWN)
    assert [figure["name"] for figure in shown] == FIGURES[name]
    for figure in shown:
        assert figure["points"], figure
        assert all(figure["points"]), figure
        assert figure["drawn"] >= len(figure["points"]) / 3, figure
        assert figure["wrong"] == [], figure


CHOOSE = """((name, value) => {
  const s = document.querySelector(`#levels select[name=${name}]`);
  s.value = value;
  s.dispatchEvent(new Event("change"));
  return [...document.querySelectorAll("#levels select")].map(s => s.value);
})"""
LEGEND = '[...document.querySelectorAll("#levels .legend button")].map(b => b.textContent)'


def test_views_and_legends(opened):
    page = opened("one")
    page.run(f'{CHOOSE}("by", "tag “level”")')
    assert page.run(LEGEND) == ["easy", "hard", "medium"]
    page.run('document.querySelector("#levels .legend button").click()')
    hidden = page.run('document.querySelector("#levels .plot").data.map(t => [t.legendgroup, t.visible])')
    assert {(name, shown) for name, shown in hidden} == {("easy", False), ("hard", None), ("medium", None)}


def test_a_view_that_does_not_fit_gives_way(opened):
    """Means over seeds are by criterion alone."""
    page = opened("several")
    assert page.run(f'{CHOOSE}("by", "criterion name")') == ["FocalReward, seed 0", "criterion name"]
    assert page.run(f'{CHOOSE}("run", "FocalReward, mean of 3 seeds")') == ["FocalReward, mean of 3 seeds", "criterion"]


def test_panels_share_one_axis_and_one_legend(opened):
    page = opened("one")
    traces = page.run('document.querySelector("#levels .plot").data.map(t => [t.xaxis, t.yaxis, t.legendgroup])')
    assert [set(part) for part in zip(*traces, strict=True)] == [{"x"}, {"y", "y2", "y3"}, set(page.run(LEGEND))]
    assert len(page.run(LEGEND)) == 7  # one entry a criterion, not one a line


def test_bands_areas_and_rings(opened):
    page = opened("many")
    curve = "{name: 'a', x: [0, 1], y: [0.5, 0.4], low: [-3, -2], high: [4, 3], faint: [], hue: 0, points: false, banded: true}"
    band = page.run(f"report.course({{panels: [{{title: 'share', span: null, stacked: false, curves: [{curve}]}}]}})")
    assert [trace.get("fill") for trace in band["data"]] == ["none", "tonexty", None]
    assert band["layout"]["yaxis"]["range"] == pytest.approx([0, 1.06])  # not stretched for a band past what can be
    assert band["data"][2]["customdata"] == [" [-3.000, 4.000]", " [-2.000, 3.000]"]
    areas = page.run('document.querySelector("#shares .plot").data.map(t => [t.line.color, "fillpattern" in t])')
    assert len({tuple(area) for area in areas}) == len(areas) == 10  # areas that repeat a colour are hatched
    assert page.run('document.querySelector("#criteria .plot").data.map(t => t.marker.symbol)') == ["circle-open", "circle"]


# -- rollouts and tables ---------------------------------------------------------------------------------------------------------

FILTER = """(wanted => {
  const form = document.getElementById("filters");
  form.reset();
  for (const [name, value] of Object.entries(wanted)) form.elements[name].value = value;
  const began = performance.now();
  form.dispatchEvent(new Event("input", {bubbles: true}));
  return {order: report.browser.order, ms: performance.now() - began, count: document.getElementById("count").textContent,
          shown: document.querySelectorAll("#list .item").length};
})"""


def test_filters_against_the_data(opened):
    page = opened("one")
    data = {
        name: page.run(f"report.browser.data.{name}")
        for name in ("group", "groups", "outcome", "change", "text", "rubrics", "reward")
    }
    asked = page.run("report.browser.data.prompts.map(chat => chat.map(turn => turn[1]).join())")
    rollouts = range(len(data["group"]))
    assert len(rollouts) == 30 * 2 * 4 + 2 * 4 * 4
    caution = [k for k, (_, key, _) in enumerate(data["rubrics"][0]) if key == "caution"]

    def group(i):
        return data["groups"][data["group"][i]]

    def found(**wanted):
        return page.run(f"{FILTER}({wanted})")["order"]

    assert found() == sorted(rollouts, key=lambda i: (group(i)[2], i))
    for letter in "mnf-":
        wanted = {i for i in rollouts if any(data["outcome"][i][k] == letter for k in caution)}
        assert set(found(criterion="key:caution", outcome=letter)) == wanted
    assert set(found(criterion="name:no filler", outcome="f")) == {i for i in rollouts if data["outcome"][i][1] == "f"}
    assert set(found(stage="val", batch="last")) == {i for i in rollouts if group(i)[1:3] == ["val", 30]}
    assert set(found(stage="train", batch="first")) == {i for i in rollouts if group(i)[1:3] == ["train", 0]}
    assert set(found(text="TEA BOIL")) == {i for i in rollouts if "tea boil" in data["text"][i]}
    assert set(found(text="question held-2")) == {i for i in rollouts if "held-2" in asked[group(i)[3]]}
    lifted, lowered = ([data["change"][i] for i in found(sort=way)] for way in ("lifted", "lowered"))
    assert lifted == sorted(lifted, key=lambda change: -1e9 if change is None else change, reverse=True)
    assert lowered == sorted(lowered, key=lambda change: 1e9 if change is None else change)
    best = [data["reward"][i] for i in found(sort="best")]
    assert best == sorted(best, reverse=True)
    nothing = page.run(f"{FILTER}({{'text': 'qqqq'}})")
    assert (nothing["order"], nothing["shown"], nothing["count"]) == ([], 0, f"0 of {len(rollouts)} rollouts")


def test_a_filter_is_quick(opened):
    """The quickest of five: other work on the machine is not the page's."""
    page = opened("one")
    for wanted in ({"criterion": "key:caution"}, {"text": "tea"}, {"sort": "lifted"}):
        assert min(page.run(f"{FILTER}({wanted})")["ms"] for _ in range(5)) < 200


def test_tables_as_csv(opened):
    page = opened("one")
    cells = ["0.46 → 0.56\n+0.10 [+0.07, +0.13]", "0.5\n[0.4, 0.6]", "? → 0.1", "-", "0, 1", ""]
    assert page.run(f"{cells}.map(report.cellParts)") == [
        {"from": "0.46", "to": "0.56", "difference": "+0.10", "low": "+0.07", "high": "+0.13"},
        {"": "0.5", "low": "0.4", "high": "0.6"},
        {"from": "?", "to": "0.1"},
        *({"": text} for text in cells[3:]),
    ]
    head, *rows = csv.reader(io.StringIO(page.run('report.csv(document.querySelector("#numbers table"))')))
    assert head[:5] == ["criterion", "score from", "score to", "saturation from", "saturation to"]
    assert head[-5:] == [f"held-out score {part}" for part in ("from", "to", "difference", "low", "high")]
    texts = page.run('[...document.querySelectorAll("#numbers tbody tr")].map(r => [...r.cells].map(c => c.textContent))')
    assert [[row[0], " → ".join(row[1:3])] for row in rows] == [cells[:2] for cells in texts]
    assert all(len(row) == len(head) for row in rows)
    page.run("""window.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.protocol]); };
        document.querySelector("#numbers button.csv").click()""")
    assert page.run("saved") == [["numbers.csv", "blob:"]]


def test_names_in_a_csv_are_no_formulas(opened):
    page = opened("evil")
    cells = ["=1+1", "+x", "-x", "@x", 'a "b", c', "plain"]
    assert page.run(f"{cells}.map(text => report.csvCell(text, true))") == ["'=1+1", "'+x", "'-x", "'@x", '"a ""b"", c"', "plain"]
    assert page.run("report.csvCell('-0.1', false)") == "-0.1"
    rows = list(csv.reader(io.StringIO(page.run('report.csv(document.querySelector("#numbers table"))'))))
    assert sorted(row[0] for row in rows[1:]) == sorted(NAMES)


def test_the_list_grows_and_opens_and_sets_first_against_last(opened):
    page = opened("one")
    items = 'document.querySelectorAll("#list .item").length'
    assert page.run(items) == 25
    page.run('document.getElementById("more").click()')
    assert page.run(items) == 50
    page.run(f"{FILTER}({{'stage': 'val'}})")
    page.run('document.querySelector("#list .item summary").click()')
    page.run("new Promise(done => setTimeout(done, 100))")
    assert page.run('document.querySelectorAll("#list .item .verdicts tbody tr").length') == 9
    page.run('document.querySelector("#list .item .body > button").click()')
    heads = page.run('[...document.querySelectorAll("#list .pair h3")].map(h => h.textContent)')
    assert heads == ["first: batch 0", "last: batch 30"]
    texts = page.run('[...document.querySelectorAll("#list .pair .answer")].map(p => p.textContent)')
    wanted = page.run(
        "[0, 30].map(batch => { const d = report.browser.data, i = report.browser.order[0];"
        " return d.text[d.group.findIndex((g, j) => d.groups[g][2] === batch && d.groups[g][1] === 'val'"
        " && d.groups[g][3] === d.groups[d.group[i]][3] && d.number[j] === d.number[i])]; })"
    )
    assert texts == wanted


# -- what it is safe from, and where it is read ----------------------------------------------------------------------------------


def test_text_of_others_stays_text(opened):
    page = opened("evil")
    page.run("for (const item of document.querySelectorAll('#list .item')) item.open = true")
    page.run("new Promise(done => setTimeout(done, 300))")
    assert page.run("window.ran") is None
    assert page.run("document.querySelectorAll('img, #list script, #list a, .plot a').length") == 0
    assert page.run('document.querySelector("#list .answer").textContent') == EVIL
    assert page.run(LEGEND) == sorted(NAMES)
    ticks = page.run('[...document.querySelectorAll("#criteria .ytick text")].map(t => t.textContent)')
    assert any(tick.startswith("<img src=x") for tick in ticks)
    assert page.run("report.label('line\\nbreak <b> &' + 'x'.repeat(60), 20)") == "line break &lt;b&gt; &amp;xxx…"


def test_light_dark_and_paper(opened):
    page = opened("one")
    body, tick = (
        "getComputedStyle(document.body).backgroundColor",
        "getComputedStyle(document.querySelector('#levels .xtick text')).fill",
    )
    colours = {}
    for name, look in (("light", {}), ("dark", {"dark": True}), ("paper", {"dark": True, "medium": "print"})):
        page.look(**look)
        colours[name] = page.run(f"[{body}, {tick}]")
    white, black = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    assert [colours[name][0] for name in ("light", "paper", "dark")] == [white, white, black]
    assert colours["dark"][1] != colours["light"][1]
    assert page.run("getComputedStyle(document.getElementById('rollouts')).display") == "none"
    page.look()
    for colour in (black, white):
        page.run("document.getElementById('theme').click()")
        assert page.run(body) == colour


def test_it_prints(opened, tmp_path):
    opened("one").pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "report.pdf").stat().st_size > 30_000


def test_on_a_phone(pages):
    with Chromium(width=390, height=800) as page:
        page.open(pages["several"])
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.problems == []
