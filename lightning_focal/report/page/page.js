"use strict";
// Light and dark, and everything in its order.
report.nonce = document.currentScript.nonce;

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme === "dark" || (root.dataset.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "light" : "dark";
});

(async () => {
  const fail = (error) => {
    const place = document.getElementById("failure");
    place.hidden = false;
    place.textContent = `This browser could not draw the report (${error}); one of 2023 or later can.`;
    throw error;
  };
  const figures = report.drawFigures().then(() => performance.mark("figures"));
  const rollouts = figures.then(() => report.openRollouts()).then(() => performance.mark("rollouts"));
  await rollouts.catch(fail);
  document.documentElement.dataset.ready = "true";
})();

// Figures are as wide as the paper, not as the window.
let widths = [];
addEventListener("beforeprint", () => {
  widths = [...document.querySelectorAll(".plot")];
  for (const plot of widths) if (plot.layout) Plotly.relayout(plot, { width: 680, autosize: false });
});
addEventListener("afterprint", () => {
  for (const plot of widths) if (plot.layout) Plotly.relayout(plot, { width: null, autosize: true });
});
