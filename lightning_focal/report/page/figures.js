"use strict";
// Figures: choices above, a plot, a legend of buttons below.
report.drawFigures = async function () {
  performance.mark('start');
  const [library, packed] = await Promise.all([report.unpack("library"), report.unpack("figures")]);
  performance.mark('unpacked');
  const script = document.createElement("script");
  script.nonce = report.nonce;
  script.textContent = library;
  document.head.append(script);
  performance.mark("library");
  const all = JSON.parse(packed);
  for (const [name, figure] of Object.entries(all)) {
    const section = document.getElementById(name);
    if (section) await report.drawFigure(section, figure);
    performance.mark(name);
  }
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
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  if (matchMedia("(pointer: coarse)").matches) view.layout.dragmode = false; // a finger scrolls the page
  await Plotly.react(plot, view.data, view.layout, config);
  const groups = (name) => view.data.flatMap((trace, i) => (trace.legendgroup === name ? [i] : []));
  const buttons = view.legend.map((entry) => {
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
