"""The report in a browser: drawn whole, filtered, silent, and nobody's text is run."""

import csv
import io

import pytest

from lightning_focal.report import write_report
from tests.report.chromium import Chromium, find
from tests.report.made_run import NINE, make_run

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
  name: plot.closest("section").id, title: plot.closest(".panel").querySelector("h3").textContent,
  groups: [...new Set(plot.data.map(trace => trace.legendgroup))], entries: plot.closest(".panel").querySelector(".legend").textContent,
  colours: plot.data.filter(trace => trace.mode !== "markers" && trace.name).map(t => [t.line.color, t.line.dash, "fillpattern" in t].join()),
  ticks: [...plot.querySelectorAll(".ytick text, .xtick text")].map(t => t.textContent),
  span: plot.layout.yaxis.range || plot._fullLayout.yaxis.range, across: plot._fullLayout.xaxis.range,
  within: plot.data.flatMap(t => t.mode !== "markers" ? t.y : !t.error_x ? t.x : t.x.flatMap((x, i) =>
    [x - t.error_x.arrayminus[i], x + t.error_x.array[i]])),
  points: plot.data.map(trace => trace.y.filter(value => value !== null).length),
  drawn: plot.querySelectorAll(".scatterlayer .trace path").length,
  wrong: (Plotly.validate(plot.data, plot.layout) || []).map(found => found.msg),
}))"""
FIGURES = {
    "one": ["score", "criteria", "levels", "shares", "balance", "theory", "health"],
    "several": ["criteria", "levels", "shares", "balance", "theory", "health"],
    "many": ["criteria", "levels", "shares", "balance", "theory", "health"],
    "votes": ["criteria", "votes", "levels", "theory", "health"],
    "evil": ["criteria", "levels", "shares", "balance", "theory", "health"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_data(opened, name):
    shown = opened(name).run(SHOWN)
    assert list(dict.fromkeys(figure["name"] for figure in shown)) == FIGURES[name]
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
LEGEND = '[...document.querySelector("#levels .legend").querySelectorAll("button")].map(b => b.textContent)'
SWITCH = """(async value => {
  const select = document.getElementById("show");
  select.value = value;
  select.dispatchEvent(new Event("change"));
  const drawn = () => [...document.querySelectorAll(".panel")].every(panel => panel.querySelector(".legend").childElementCount);
  do await new Promise(done => setTimeout(done, 100)); while (!drawn());
  return [...select.options].map(option => option.value);
})"""


def test_views_and_legends(opened):
    page = opened("one")
    page.run(f'{CHOOSE}("by", "tag “level”")')
    assert page.run(LEGEND) == ["easy", "hard", "medium"]
    page.run('document.querySelector("#levels .legend button").click()')
    hidden = page.run('document.querySelector("#levels .plot").data.map(t => [t.legendgroup, t.visible])')
    assert {(name, shown) for name, shown in hidden} == {("easy", False), ("hard", None), ("medium", None)}


def test_one_switch_for_methods_and_runs(opened):
    page = opened("several")
    assert page.run(LEGEND) == ["FocalReward", "StaticReward"]
    titles = ["FocalReward, seed 0", "FocalReward, seed 1", "FocalReward, seed 2", "StaticReward"]
    assert page.run(f'{SWITCH}("every run")') == ["methods (means)", "every run", *titles]
    assert page.run(LEGEND) == titles
    page.run(f'{CHOOSE}("of", "weight")')
    assert page.run('[...document.querySelectorAll("#levels .panel h3")].map(h => h.textContent)').count("caution") == 1
    page.run(f'{SWITCH}("StaticReward")')
    assert len(page.run(LEGEND)) == 7  # its criteria
    assert page.run('document.querySelector("#levels select[name=of]").parentElement.hidden')
    runs = page.run("[...new Set(report.browser.order.map(i => report.browser.data.groups[report.browser.data.group[i]][0]))]")
    assert runs == [3]


def test_panels_share_one_axis(opened):
    page = opened("one")
    ranges = '[...document.querySelectorAll("#levels .plot")].map(p => p.layout.xaxis.range)'
    assert page.run(ranges) == [[0, 29]] * 4
    page.run('Plotly.relayout(document.querySelector("#levels .plot"), {"xaxis.range[0]": 5, "xaxis.range[1]": 9}).then(() => 0)')
    page.run("new Promise(done => setTimeout(done, 500))")
    assert page.run(ranges) == [[5, 9]] * 4
    assert len(page.run(LEGEND)) == 7  # one entry a criterion, not one a line


def test_bands_areas_and_rings(opened):
    page = opened("many")
    curve = "{name: 'a', x: [0, 1], y: [0.5, 0.4], low: [-3, -2], high: [4, 3], faint: [], hue: 0, points: false, banded: true}"
    band = page.run(f"report.course({{title: 'share', span: null, stacked: false, curves: [{curve}]}}, 1)")
    assert [trace.get("fill") for trace in band["data"]] == ["none", "tonexty", None]
    assert band["layout"]["yaxis"]["range"] == pytest.approx(
        [0, 1.02]
    )  # a share ends at 1; not stretched for a band past what can be
    assert band["data"][2]["customdata"] == [" [-3.000, 4.000]", " [-2.000, 3.000]"]
    areas = page.run('document.querySelector("#shares .plot").data.map(t => [t.line.color, "fillpattern" in t])')
    assert len({tuple(area) for area in areas}) == len(areas) == 10  # areas that repeat a colour are hatched
    dashed = "report.curveTraces({name: 'a', x: [0, 1], y: [0, 1], low: [], high: [], faint: [], hue: 8}, false, 2)[0]"
    assert page.run(f"[{dashed}.line.dash, {dashed}.marker.symbol]") == ["dash", "square"]  # as are lines, with markers
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
    assert (nothing["order"], nothing["shown"], nothing["count"]) == ([], 0, f"0 of {len(rollouts)} responses, to 0 prompts")
    for wanted in ({"criterion": "key:caution"}, {"text": "tea"}, {"sort": "lifted"}):  # quick, whatever else the machine does
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
    assert head[:5] == ["criterion", *(f"{part} in training {end}" for part in ("score", "saturation") for end in ("from", "to"))]
    assert head[-5:] == [f"held-out score {part}" for part in ("from", "to", "difference", "low", "high")]
    texts = page.run('[...document.querySelectorAll("#numbers tbody tr")].map(r => [...r.cells].map(c => c.textContent))')
    assert [[row[0], " → ".join(row[1:3])] for row in rows] == [cells[:2] for cells in texts]
    assert all(len(row) == len(head) for row in rows)
    page.run("""window.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.protocol]); };
        document.querySelector("#numbers button.csv").click()""")
    assert page.run("saved") == [["numbers.csv", "blob:"]]


def test_the_list_grows_and_opens_and_sets_first_against_last(opened):
    page = opened("one")
    prompts = 'document.querySelectorAll("#list .prompt").length'
    assert page.run(prompts) == 8
    page.run('document.getElementById("more").click()')
    assert page.run(prompts) == 16
    first = 'document.querySelector("#list .prompt").querySelectorAll(".item").length'
    page.run(f"{FILTER}({{'text': 'question train-3'}})")
    assert page.run(first) == 4
    page.run('document.querySelector("#list .prompt > button").click()')
    assert page.run(first) == 8  # of two batches
    asked = page.run('[...document.querySelectorAll("#list .prompt h3")].map(h => h.textContent)')
    assert len(asked) == len(set(asked)) > 1
    squares = page.run('[...document.querySelector("#list .dots").children].map(s => [s.className, s.textContent, s.ariaLabel])')
    assert len(squares) == 9
    symbols, words = (
        {"m": "✓", "n": "✗", "f": "!", "-": "–"},
        {"m": "met", "n": "not met", "f": "failed to be judged", "-": "not judged"},
    )
    for (kind, symbol, label), (name, _) in zip(squares, NINE, strict=True):
        assert (symbol, label) == (symbols[kind], f"{name}: {words[kind]}")
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
    cells = ["=1+1", "+x", "-x", "@x", 'a "b", c', "plain"]  # names in a CSV are no formulas
    assert page.run(f"{cells}.map(text => report.csvCell(text, true))") == ["'=1+1", "'+x", "'-x", "'@x", '"a ""b"", c"', "plain"]
    assert page.run("report.csvCell('-0.1', false)") == "-0.1"
    rows = list(csv.reader(io.StringIO(page.run('report.csv(document.querySelector("#numbers table"))'))))
    assert sorted(row[0] for row in rows[1:]) == sorted(NAMES)
    assert page.run("report.label('line\\nbreak <b> &' + 'x'.repeat(60), 20)") == "line break &lt;b&gt; &amp;xxx…"


def test_light_dark_and_paper(opened, tmp_path):
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
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "report.pdf").stat().st_size > 30_000


WIDE = """[...document.querySelectorAll(".panel, .legend button, h1, .facts dd, .verdict, #list .item")].filter(part =>
  part.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(part => part.className || part.tagName)"""


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Reports of 1 and of 8 runs."""
    top = tmp_path_factory.mktemp("sizes")
    runs = [make_run(top / f"{s}{i}", batches=4, seed=i, strategy=s) for i in range(4) for s in ("FocalReward", "StaticReward")]
    return {count: write_report(runs[:count], top / f"{count}.html").path for count in (1, 8)}


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("count", [1, 8])
def test_it_fits_and_says_what_is_what(sizes, count, width):
    """Without overflow, scores within [0, 1], each series in its panel's legend, no two of a panel alike, in light and dark."""
    with Chromium(width=width, height=900) as page:
        for dark in (False, True):
            page.look(dark=dark)
            page.open(sizes[count])
            for show in [None] if count == 1 else ["methods (means)", "every run", "FocalReward, seed 0"]:
                if show:
                    page.run(f"{SWITCH}({show!r})")
                assert page.run("document.documentElement.scrollWidth") <= width
                assert page.run(WIDE) == []
                for panel in page.run(SHOWN):
                    assert all(name in panel["entries"] for name in panel["groups"]), panel
                    assert len(set(panel["colours"])) == len(panel["colours"]), panel["title"]
                    scores = panel["name"] in ("score", "criteria", "shares") or panel["title"] in ("score", "saturation")
                    if scores or (panel["name"] == "levels" and show and count > 1 and "seed" not in show):
                        span = panel["across"] if panel["name"] == "criteria" else panel["span"]
                        assert -0.021 <= span[0] < span[1] <= 1.021, panel
                        ticks = [float(tick) for tick in panel["ticks"] if tick.replace(".", "").isdigit()]
                        assert ticks or panel["name"] == "criteria"
                        inside = [v for v in panel["within"] if v is not None]
                        assert all(-1e-6 <= value <= 1 + 1e-6 for value in inside), panel
            hint = page.run(
                '[...document.querySelectorAll(".scroll")].map(s => [s.classList.contains("wide"), s.scrollWidth > s.clientWidth + 1])'
            )
            assert all(told == wider for told, wider in hint)
            assert width > 420 or any(told for told, _ in hint)
        assert page.problems == []
        assert set(page.requests) == {sizes[count].absolute().as_uri()}
