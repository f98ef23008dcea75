"use strict";
// Figures: choices above, a plot, a legend of buttons below. What is drawn comes as lightning_focal.report.figures has it.
report.drawFigures = async function () {
  const [library, unpacked] = await Promise.all([report.unpack("library"), report.unpack("figures")]);
  const script = document.createElement("script");
  script.nonce = report.nonce;
  script.textContent = library;
  document.head.append(script);
  const { palette, grey, all } = JSON.parse(unpacked);
  report.palette = palette;
  report.grey = grey;
  for (const figure of all) await report.drawFigure(document.getElementById(figure.name), figure);
};

report.drawFigure = function (section, figure) {
  const plot = section.querySelector(".plot");
  const selects = figure.choices.map((choice, i) => {
    const values = [...new Set(figure.views.map((view) => view.choice[i]))];
    const select = report.make("select", { name: choice });
    report.fillSelect(select, values.map((value) => [value, value]));
    if (values.length > 1) section.querySelector(".choices").append(report.make("label", {}, choice, select));
    return select;
  });
  const show = (changed) => {
    // The view that fits the choices; where there is none, the first that fits the one that was changed.
    const wanted = selects.map((select) => select.value);
    const fits = (view) => view.choice.every((value, i) => value === wanted[i]);
    const view = figure.views.find(fits) || figure.views.find((v) => changed === undefined || v.choice[changed] === wanted[changed]);
    view.choice.forEach((value, i) => { selects[i].value = value; });
    return report.drawView(section, plot, view);
  };
  selects.forEach((select, i) => select.addEventListener("change", () => show(i)));
  return show();
};

report.drawView = async function (section, plot, view) {
  const { data, layout, legend } = view.panels ? report.course(view) : report.intervals(view);
  if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
  await Plotly.react(plot, data, layout, { responsive: true, displayModeBar: false, doubleClick: "reset" });
  const groups = (name) => data.flatMap((trace, i) => (trace.legendgroup === name ? [i] : []));
  const buttons = legend.map((entry) => {
    const button = report.make("button", { type: "button", "aria-pressed": "true", title: "click: hide or show" });
    button.append(report.swatch(entry), report.make("span", {}, entry.name));
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      Plotly.restyle(plot, { visible: shown }, groups(entry.name));
    });
    return [entry, button];
  });
  const coloured = buttons.filter(([entry]) => !entry.grey).map(([, button]) => button);
  const grey = buttons.length - coloured.length;
  const one = grey === 1 ? buttons.find(([entry]) => entry.grey)[0].name : `${grey} others, in grey`;
  const rest = grey ? [report.make("span", { class: "caption" }, one)] : [];
  section.querySelector(".legend").replaceChildren(...(buttons.length > 1 ? [...coloured, ...rest] : []));
};

report.swatch = function (entry) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [name, value] of [["width", 22], ["height", 10], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
  const shape = document.createElementNS(space, entry.solid ? "rect" : "line");
  const attributes = entry.solid
    ? { x: 6, y: 1, width: 8, height: 8, rx: entry.round ? 4 : 2, fill: entry.hollow || entry.dash ? "none" : entry.colour, stroke: entry.colour, "stroke-width": 2 }
    : { x1: 0, x2: 22, y1: 5, y2: 5, stroke: entry.colour, "stroke-width": 2.5, "stroke-dasharray": entry.dash ? "6 4" : "none" };
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  svg.append(shape);
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

// Panels above each other, on one axis of batches.
report.course = function ({ panels }) {
  const height = 165, gap = 34, n = panels.length, inner = n * height + (n - 1) * gap; // pixels
  const layout = report.layout({ height: inner + 70, margin: { l: 52, r: 14, t: 26, b: 44, pad: 2 }, annotations: [] });
  const last = n > 1 ? `y${n}` : "y";
  layout.xaxis = report.axis({ title: { text: "rollout batch", standoff: 8 }, anchor: last, rangemode: "tozero", nticks: 9 });
  const data = [], legend = new Map();
  panels.forEach((panel, i) => {
    const top = 1 - (i * (height + gap)) / inner, number = i ? String(i + 1) : "";
    layout[`yaxis${number}`] = report.axis({ domain: [Math.max(0, top - height / inner), top], nticks: 5, range: report.span(panel) });
    const place = { xref: "paper", yref: "paper", x: 0, y: top, xanchor: "left", yanchor: "bottom", yshift: 3 };
    layout.annotations.push({ ...place, text: report.label(panel.title, 200), showarrow: false, font: { size: 13 } });
    for (const curve of panel.curves) {
      data.push(...report.curveTraces(curve, `y${number}`, panel.stacked));
      const { name, hue, points } = curve;
      const entry = { name, colour: report.colour(hue), dash: report.dashed(hue), grey: hue < 0, solid: points || panel.stacked, round: points };
      if (!legend.has(name)) legend.set(name, entry);
    }
  });
  return { data, layout, legend: [...legend.values()] };
};

report.curveTraces = function (curve, yaxis, stacked) {
  const { name, x, y, low, high, faint, hue } = curve, colour = report.colour(hue), dashed = report.dashed(hue), traces = [];
  const shared = { type: "scatter", mode: "lines", x, xaxis: "x", yaxis, legendgroup: name, showlegend: false };
  if (low.length && curve.banded) {
    const edge = { ...shared, line: { width: 0 }, hoverinfo: "skip" };
    traces.push({ ...edge, y: low, fill: "none" }, { ...edge, y: high, fill: "tonexty", fillcolor: report.faded(colour, 0.15) });
  }
  if (faint.length) traces.push({ ...shared, y: faint, line: { width: 1, color: colour }, opacity: 0.22, hoverinfo: "skip", connectgaps: true });
  const main = {
    ...shared, y, name: report.label(name, 60), customdata: x.map((_, i) => (low.length ? report.between(low[i], high[i]) : "")),
    hovertemplate: "%{fullData.name}<br>%{y:.3f}%{customdata} at batch %{x}<extra></extra>",
    line: { color: colour, width: hue < 0 ? 1 : 2, dash: dashed ? "dash" : "solid" },
  };
  if (stacked) {
    Object.assign(main, { line: { width: 0.5, color: colour }, stackgroup: yaxis, fillcolor: report.faded(colour, 0.75) });
    if (dashed) main.fillpattern = { shape: "/", size: 7, solidity: 0.45, fgcolor: colour, bgcolor: report.faded(colour, 0.25) };
  } else if (curve.points || x.length === 1) {
    Object.assign(main, { mode: "lines+markers", marker: { size: 8, color: colour }, cliponaxis: false });
    main.line.dash = "dot";
  } else Object.assign(main, { connectgaps: true, opacity: hue < 0 ? 0.5 : 1 });
  return [...traces, main];
};

// Of the vertical axis: from 0 where nothing is below it.
report.span = function ({ span, stacked, curves }) {
  if (span) return stacked ? span : report.widened(span);
  const known = (lists) => lists.flat().filter((value) => value !== null);
  const shown = known(curves.flatMap((curve) => [curve.y, curve.faint]));
  const bands = known(curves.filter((curve) => curve.banded).map((curve) => curve.high));
  if (!shown.length || Math.min(...shown) < -1e-9) return null; // sums that were taken apart again may end a little below 0
  const most = Math.max(...shown), top = most > 1 ? most : Math.min(1, Math.max(most, ...bands)); // a band past what can be is cut
  return [0, 1.06 * top || 1];
};
report.widened = ([low, high]) => [low - 0.02 * (high - low), high + 0.02 * (high - low)];

// Rows of values with intervals: before as rings, after as dots.
report.intervals = function ({ rows, before, after, title, span }) {
  const data = [], legend = [];
  for (const [name, points, hue, shift] of [["before", before, -1, -0.22], ["after", after, 0, 0.22]]) {
    const colour = report.colour(hue), hollow = hue < 0;
    const away = (end) => points.map((point) => (point[end] === null ? 0 : Math.abs(point[end] - point.value)));
    data.push({
      type: "scatter", mode: "markers", name, legendgroup: name, showlegend: false, cliponaxis: false,
      x: points.map((point) => point.value), y: points.map((_, row) => row + shift),
      customdata: points.map((point, row) => [report.label(rows[row], 60), report.between(point.low, point.high)]),
      hovertemplate: "%{customdata[0]}, %{fullData.name}<br>%{x:.3f}%{customdata[1]}<extra></extra>",
      marker: { color: colour, size: 9, symbol: hollow ? "circle-open" : "circle", line: { width: 2, color: colour } },
      error_x: { type: "data", symmetric: false, array: away("high"), arrayminus: away("low"), color: colour, thickness: 1.6, width: 4 },
    });
    legend.push({ name, colour, solid: true, hollow, round: true });
  }
  const ticks = rows.map((row) => report.label(row)), longest = Math.max(0, ...rows.map((row) => Math.min(32, row.length)));
  const layout = report.layout({
    height: 30 * rows.length + 76, margin: { l: Math.min(250, 24 + 7 * longest), r: 18, t: 12, b: 44, pad: 4 },
    xaxis: report.axis({ title: { text: report.label(title, 200), standoff: 8 }, range: span ? report.widened(span) : null }),
    yaxis: report.axis({ tickvals: rows.map((_, row) => row), ticktext: ticks, range: [rows.length - 0.4, -0.6], showgrid: false }),
  });
  return { data, layout, legend };
};
