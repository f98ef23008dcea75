"use strict";
// What the page carries: base64 of deflated text.
const report = { theme: "auto" };

report.unpack = async function (name) {
  const place = document.getElementById("packed-" + name);
  if (!place) return "";
  const raw = atob(place.textContent);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
};

// An element with attributes and children; strings become text, never markup.
report.make = function (tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") made.className = value || "";
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) made.append(child);
  return made;
};

report.fillSelect = function (select, options) {
  select.replaceChildren(...options.map(([value, text]) => report.make("option", { value }, text)));
};
