"use strict";
// Figures: one switch for all of them, choices above each, and of each panel a title, a note, a plot and a legend of buttons.
// What is drawn comes as lightning_focal.report.figures has it.
report.drawFigures = async function () {
  const [library, unpacked] = await Promise.all([report.unpack("library"), report.unpack("figures")]);
  const script = document.createElement("script");
  script.nonce = report.nonce;
  script.textContent = library;
  document.head.append(script);
  const { palette, grey, shows, all } = JSON.parse(unpacked);
  Object.assign(report, { palette, grey, shows });
  const select = document.getElementById("show"), draws = all.map((figure) => report.prepare(document.getElementById(figure.name), figure));
  const draw = async () => { for (const one of draws) await one(); };
  report.fillSelect(select, shows.map((show) => [show, show]));
  select.addEventListener("change", draw);
  return draw();
};

// Returns what draws a figure anew. Each choice offers what goes with those before it; the first is the switch of the page.
report.prepare = function (section, figure) {
  const selects = figure.choices.slice(1).map((choice) => report.make("select", { name: choice }));
  const labels = selects.map((select) => report.make("label", {}, select.name, select));
  section.querySelector(".choices").append(...labels);
  const draw = () => {
    let views = figure.views.filter((view) => view.choice[0] === document.getElementById("show").value);
    section.classList.toggle("empty", !views.length);
    selects.forEach((select, i) => {
      const values = [...new Set(views.map((view) => view.choice[i + 1]))].filter((value) => value !== undefined), wanted = select.value;
      report.fillSelect(select, values.map((value) => [value, value]));
      if (values.includes(wanted)) select.value = wanted;
      labels[i].hidden = values.length < 2;
      if (values.length) views = views.filter((view) => view.choice[i + 1] === select.value);
    });
    return report.drawView(section.querySelector(".panels"), views[0]);
  };
  selects.forEach((select) => select.addEventListener("change", draw));
  return draw;
};

report.drawView = async function (place, view) {
  for (const plot of place.querySelectorAll(".plot")) Plotly.purge(plot);
  const turn = place.turn = {}; // a later turn takes over
  place.replaceChildren();
  if (!view) return;
  const panels = view.panels || [view], ends = panels.flatMap((panel) => (panel.curves || []).flatMap((curve) => curve.x));
  const n = panels.length;
  const series = Math.max(...panels.map((panel) => (panel.curves || panel.marks).length));
  place.dataset.columns = n < 3 ? n : n === 4 || series > 4 ? 2 : n % 4 === 0 ? 4 : 3;
  for (const panel of panels) {
    const plot = report.make("div", { class: "plot", role: "img", "aria-label": panel.title });
    const legend = report.make("div", { class: "legend" }), note = panel.note ? report.make("p", { class: "note" }, panel.note) : null;
    place.append(report.make("div", { class: "panel" }, report.make("h3", {}, panel.title), note, plot, legend));
    const drawn = view.panels ? report.course(panel, Math.max(0, ...ends)) : report.intervals(panel);
    if (matchMedia("(pointer: coarse)").matches) drawn.layout.dragmode = false; // a finger scrolls the page
    await Plotly.newPlot(plot, drawn.data, drawn.layout, { responsive: true, displayModeBar: false, doubleClick: "reset" });
    if (place.turn !== turn) return;
    legend.append(...report.legend(plot, drawn));
    plot.on("plotly_relayout", (change) => report.follow(place, plot, change));
  }
};

// Panels of a figure have one axis of batches: where one is enlarged, so are the others.
report.follow = function (place, source, change) {
  const names = ["xaxis.range[0]", "xaxis.range[1]"].filter((name) => name in change);
  if (names.length < 2 || report.following || !source.layout.meta) return;
  report.following = true;
  const range = Object.fromEntries(names.map((name) => [name, change[name]]));
  Promise.all([...place.querySelectorAll(".plot")].filter((plot) => plot !== source).map((plot) => Plotly.relayout(plot, range)))
    .finally(() => { report.following = false; });
};

report.legend = function (plot, { data, legend }) {
  const groups = (name) => data.flatMap((trace, i) => (trace.legendgroup === name ? [i] : []));
  const coloured = legend.filter((entry) => !entry.grey), grey = legend.filter((entry) => entry.grey);
  const buttons = coloured.map((entry) => {
    const button = report.make("button", { type: "button", "aria-pressed": "true", title: "click: hide or show" });
    button.append(report.swatch(entry), report.make("span", {}, entry.name));
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      Plotly.restyle(plot, { visible: shown }, groups(entry.name));
    });
    return button;
  });
  const rest = grey.length === 1 ? `${grey[0].name}, in grey` : `${grey.length} others, in grey`;
  return [...buttons, ...(grey.length ? [report.make("span", { class: "caption" }, rest)] : [])];
};

report.swatch = function (entry) {
  const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
  const add = (name, attributes) => {
    const shape = name === "svg" ? svg : svg.appendChild(document.createElementNS(space, name));
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  };
  add("svg", { width: 26, height: 12, "aria-hidden": "true" });
  const solid = { fill: entry.hollow || entry.dash ? "none" : entry.colour, stroke: entry.colour, "stroke-width": 2 };
  if (!entry.solid) add("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: entry.colour, "stroke-width": 2.5, "stroke-dasharray": entry.dash ? "6 4" : "none" });
  if (entry.solid) add("rect", { x: 9, y: 2, width: 8, height: 8, rx: entry.round ? 4 : 2, ...solid });
  else if (entry.dash) add("rect", { x: 10, y: 3, width: 6, height: 6, fill: entry.colour });
  return svg;
};

report.colour = (hue) => (hue < 0 ? report.grey : report.palette[hue % report.palette.length]);
report.dashed = (hue) => hue >= report.palette.length;
report.faded = (colour, opacity) => colour + Math.round(255 * opacity).toString(16).padStart(2, "0");
// Plotly reads a little HTML in text: names are escaped for it.
report.label = function (text, limit = 32) {
  const letters = [...text.split(/\s+/).filter((word) => word).join(" ")];
  const short = letters.length > limit ? letters.slice(0, limit - 1).join("") + "…" : letters.join("");
  return short.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
};
report.between = (low, high) => (low === null || high === null ? "" : ` [${low.toFixed(3)}, ${high.toFixed(3)}]`);

// Text and grid have no colours here: those are the page's, by style sheet.
report.axis = (more) => ({ zeroline: false, automargin: false, ticks: "", ...more });
report.layout = (more) => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: "zoom", showlegend: false,
  font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif", size: 12 }, ...more,
});

// Curves over batches; `last` is where the axis ends.
report.course = function (panel, last) {
  const layout = report.layout({
    height: 210, margin: { l: 46, r: 14, t: 8, b: 40, pad: 2 }, meta: "course",
    xaxis: report.axis({ title: { text: "rollout batch", standoff: 6 }, nticks: 7, range: last > 0 ? [0, last] : null }),
    yaxis: report.axis({ nticks: 5, range: report.span(panel) }),
  });
  const most = panel.curves.length - 1, rim = most < 4; // where few lines lie on each other, the lower ones are wider
  const data = panel.curves.flatMap((curve, i) => report.curveTraces(curve, panel.stacked, rim ? 2 + Math.min(3, 1.5 * (most - i)) : 2));
  const legend = panel.curves.map(({ name, hue, points, x }) => ({
    name, colour: report.colour(hue), dash: report.dashed(hue), grey: hue < 0, solid: points || panel.stacked || x.length === 1, round: !panel.stacked,
  }));
  return { data, layout, legend };
};

report.curveTraces = function (curve, stacked, width) {
  const { name, x, y, low, high, faint, hue } = curve, colour = report.colour(hue), dashed = report.dashed(hue), traces = [];
  const shared = { type: "scatter", mode: "lines", x, legendgroup: name, showlegend: false };
  if (low.length && curve.banded) {
    const edge = { ...shared, line: { width: 0 }, hoverinfo: "skip" };
    traces.push({ ...edge, y: low, fill: "none" }, { ...edge, y: high, fill: "tonexty", fillcolor: report.faded(colour, 0.15) });
  }
  if (faint.length) traces.push({ ...shared, y: faint, line: { width: 1, color: colour }, opacity: 0.22, hoverinfo: "skip", connectgaps: true });
  const main = {
    ...shared, y, name: report.label(name, 60), customdata: x.map((_, i) => (low.length ? report.between(low[i], high[i]) : "")),
    hovertemplate: "%{fullData.name}<br>%{y:.3f}%{customdata} at batch %{x}<extra></extra>",
    line: { color: colour, width: hue < 0 ? 1 : width, dash: dashed ? "dash" : "solid" },
  };
  if (stacked) {
    Object.assign(main, { line: { width: 0.5, color: colour }, stackgroup: "all", fillcolor: report.faded(colour, 0.75) });
    if (dashed) main.fillpattern = { shape: "/", size: 7, solidity: 0.45, fgcolor: colour, bgcolor: report.faded(colour, 0.25) };
  } else if (curve.points || x.length === 1) {
    Object.assign(main, { mode: "lines+markers", marker: { size: 8, color: colour }, cliponaxis: false });
    main.line.dash = "dot";
  } else Object.assign(main, { connectgaps: true, opacity: hue < 0 ? 0.5 : 1 });
  if (dashed && !stacked) { // markers on a few of its points
    const step = Math.ceil(x.length / 8);
    Object.assign(main, { mode: "lines+markers", marker: { symbol: "square", color: colour, size: x.map((_, i) => (i % step ? 0 : 7)) } });
  }
  return [...traces, main];
};

// Of the vertical axis: from 0 where nothing is below it, and not beyond 1 where nothing is above it.
report.span = function ({ span, stacked, curves }) {
  if (span) return stacked ? span : report.widened(span);
  const known = (lists) => lists.flat().filter((value) => value !== null);
  const shown = known(curves.flatMap((curve) => [curve.y, curve.faint]));
  const bands = known(curves.filter((curve) => curve.banded).map((curve) => curve.high));
  if (!shown.length || Math.min(...shown) < -1e-9) return null; // sums that were taken apart again may end a little below 0
  const most = Math.max(...shown), top = most > 1 ? most : Math.min(1, Math.max(most, ...bands)); // a band past what can be is cut
  return [0, top > 1 ? 1.06 * top : Math.min(1.02, 1.06 * top) || 1];
};
report.widened = ([low, high]) => [low - 0.02 * (high - low), high + 0.02 * (high - low)];

// Rows of values with intervals. Of one: before (ring) above after (dot), both with bars. Of several a line each, a bar after training.
report.intervals = function ({ rows, marks, span }) {
  const alone = marks.length === 1, symbols = ["circle", "square"], data = [], legend = [];
  const places = alone ? 2 : marks.length;
  for (const [at, mark] of marks.entries())
    for (const end of ["before", "after"]) {
      const points = mark[end], hollow = end === "before", hue = alone && hollow ? -1 : mark.hue, colour = report.colour(hue);
      const name = alone ? [mark.name, end].filter((part) => part).join(", ") : mark.name, line = alone ? Number(!hollow) : at, symbol = symbols[Number(report.dashed(hue))];
      const away = (side) => points.map((point) => (point[side] === null ? 0 : Math.abs(point[side] - point.value)));
      data.push({
        type: "scatter", mode: "markers", name: report.label(name, 60), legendgroup: name, showlegend: false, cliponaxis: false,
        x: points.map((point) => point.value), y: rows.map((_, row) => row + 0.8 * ((line + 0.5) / places - 0.5)),
        customdata: points.map((point, row) => [report.label(rows[row], 60), end, report.between(point.low, point.high)]),
        hovertemplate: "%{customdata[0]}, %{fullData.name} (%{customdata[1]})<br>%{x:.3f}%{customdata[2]}<extra></extra>",
        marker: { color: colour, size: 9, symbol: hollow ? symbol + "-open" : symbol, line: { width: 2, color: colour } },
      });
      if (alone || !hollow) data.at(-1).error_x = { type: "data", symmetric: false, array: away("high"), arrayminus: away("low"), color: colour, thickness: 1.6, width: 4 };
      if (alone || !hollow) legend.push({ name, colour, solid: true, hollow, round: !report.dashed(hue) });
    }
  const ticks = rows.map((row) => report.label(row)), longest = Math.max(0, ...rows.map((row) => Math.min(32, row.length)));
  const narrow = document.documentElement.clientWidth < 640;
  const layout = report.layout({
    height: Math.max(30, 14 * places + 10) * rows.length + 44, margin: { l: Math.min(narrow ? 150 : 250, 24 + 7 * longest), r: 18, t: 8, b: 26, pad: 4 },
    xaxis: report.axis({ range: span ? report.widened(span) : null }),
    yaxis: report.axis({ tickvals: rows.map((_, row) => row), ticktext: ticks, range: [rows.length - 0.4, -0.6], showgrid: false }),
  });
  return { data, layout, legend };
};
