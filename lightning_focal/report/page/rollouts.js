"use strict";
// The rollouts: filters, a list that grows on demand, and the first and the last answers to one prompt.
const WORDS = { m: "met", p: "partly met", n: "not met", f: "failed to be judged", "-": "not judged" };
const STAGES = { train: "training", val: "held-out", test: "test", predict: "predicted" };
const SYMBOLS = { m: "✓", p: "◐", n: "✗", f: "!", "-": "–" };
const AT_ONCE = 8; // prompts
const AT_FIRST = 4; // responses to one of them

report.browser = null;

report.openRollouts = async function () {
  const packed = await report.unpack("rollouts");
  if (!packed) return;
  const data = JSON.parse(packed);
  data.lower = data.text.map((text, i) => [data.thought[i] ?? "", text, ...(data.said[i] ?? []).map((turn) => turn[1])].join("\n").toLowerCase());
  data.promptLower = data.prompts.map((chat) => chat.map((turn) => turn[1]).join("\n").toLowerCase());
  const form = document.getElementById("filters");
  report.browser = { data, form, shown: AT_ONCE, order: [] };
  report.fillFilters(data, form);
  const refresh = () => { report.browser.shown = AT_ONCE; report.filter(); };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  document.getElementById("show").addEventListener("change", refresh);
  document.getElementById("more").addEventListener("click", () => { report.browser.shown += AT_ONCE; report.showList(); });
  report.filter();
};

report.fillFilters = function (data, form) {
  const stages = [...new Set(data.groups.map((group) => group[1]))];
  const batches = [...new Set(data.groups.filter((group) => group[1] === "train").map((group) => group[2]))].sort((a, b) => a - b);
  report.fillSelect(form.elements.stage, [["", "all"], ...stages.map((stage) => [stage, STAGES[stage] || stage])]);
  form.elements.stage.parentElement.hidden = stages.length < 2;
  report.fillSelect(form.elements.batch, [["", "all"], ["first", "first"], ["last", "last"], ["both", "first and last"], ...batches.map((batch) => [String(batch), String(batch)])]);
  const keys = new Set(), names = new Set();
  for (const rubric of data.rubrics) for (const [name, key] of rubric) { keys.add(key); names.add(name); }
  const select = form.elements.criterion;
  const options = (prefix, values) => [...values].sort().map((value) => report.make("option", { value: prefix + value }, value.length > 60 ? value.slice(0, 59) + "…" : value));
  select.replaceChildren(report.make("option", { value: "" }, "any"), ...options("key:", keys));
  const more = [...names].filter((name) => !keys.has(name));
  if (more.length) select.append(report.make("optgroup", { label: "by name" }, ...options("name:", more)));
  const ends = new Map(); // first and last batch of each run and stage
  for (const [run, stage, batch] of data.groups) {
    const name = run + "/" + stage, known = ends.get(name) || [batch, batch];
    ends.set(name, [Math.min(known[0], batch), Math.max(known[1], batch)]);
  }
  data.ends = data.groups.map(([run, stage]) => ends.get(run + "/" + stage));
  data.sameprompt = new Map();
  data.groups.forEach((group, i) => {
    const name = group[0] + "/" + group[1] + "/" + group[3];
    data.sameprompt.set(name, [...(data.sameprompt.get(name) || []), i]);
  });
};

report.filter = function () {
  const { data, form } = report.browser, value = (name) => form.elements[name].value;
  const run = data.runs.indexOf(document.getElementById("show").value), stage = value("stage"), batch = value("batch"), criterion = value("criterion");
  const outcome = value("outcome"), words = value("text").trim().toLowerCase();
  // Places of the criterion in each rubric; null = any.
  const isName = criterion.startsWith("name:"), wanted = criterion.slice(criterion.indexOf(":") + 1);
  const places = criterion ? data.rubrics.map((rubric) => rubric.flatMap(([name, key], i) => ((isName ? name : key) === wanted ? [i] : []))) : null;
  const groupFits = data.groups.map((group, i) => {
    const [first, last] = data.ends[i];
    const when = !batch || (batch === "first" ? group[2] === first : batch === "last" ? group[2] === last
      : batch === "both" ? group[2] === first || group[2] === last : group[2] === Number(batch));
    return (run < 0 || group[0] === run) && (!stage || group[1] === stage) && when && (!places || places[group[4]].length > 0);
  });
  const promptFits = words ? data.promptLower.map((text) => text.includes(words)) : null;
  const order = [];
  for (let i = 0; i < data.group.length; i++) {
    const at = data.group[i];
    if (!groupFits[at]) continue;
    const group = data.groups[at];
    if (outcome) {
      const given = data.outcome[i];
      if (places ? !places[group[4]].some((k) => given[k] === outcome) : !given.includes(outcome)) continue;
    }
    if (words && !promptFits[group[3]] && !data.lower[i].includes(words)) continue;
    order.push(i);
  }
  report.sort(order, value("sort"));
  report.browser.order = order;
  report.showList();
};

report.sort = function (order, by) {
  const { data } = report.browser;
  const batch = (i) => data.groups[data.group[i]][2];
  const last = (i) => (data.change[i] === null ? -Infinity : 0); // what was not judged comes last
  const keys = {
    first: (i) => -batch(i), last: batch,
    lifted: (i) => data.change[i] ?? -Infinity, lowered: (i) => (last(i) || -data.change[i]),
    best: (i) => data.reward[i] ?? -Infinity, worst: (i) => (last(i) || -data.reward[i]),
    static: (i) => data.static[i] ?? -Infinity, long: (i) => data.tokens[i] ?? -Infinity,
  };
  const key = keys[by], ranks = new Map(order.map((i) => [i, key(i)]));
  order.sort((a, b) => (ranks.get(b) === ranks.get(a) ? a - b : ranks.get(b) > ranks.get(a) ? 1 : -1));
};

report.showList = function () {
  const { data, order, shown } = report.browser, prompts = new Map();
  for (const i of order) {
    const prompt = data.groups[data.group[i]][3];
    if (!prompts.has(prompt)) prompts.set(prompt, []);
    prompts.get(prompt).push(i);
  }
  document.getElementById("count").textContent = `${order.length} of ${data.group.length} responses, to ${prompts.size} ${prompts.size === 1 ? "prompt" : "prompts"}`;
  document.getElementById("list").replaceChildren(...[...prompts.values()].slice(0, shown).map(report.promptItem));
  document.getElementById("more").hidden = prompts.size <= shown;
};

report.promptItem = function (members) {
  const { data } = report.browser, group = data.groups[data.group[members[0]]], chat = data.prompts[group[3]];
  const asked = chat.length ? chat[chat.length - 1][1] : "", names = data.rubrics[group[4]].map(([name]) => name).join(" · ");
  const box = report.make("section", { class: "prompt" }, report.make("h3", {}, asked.length > 300 ? asked.slice(0, 299) + "…" : asked),
    report.make("p", { class: "names" }, names), ...members.slice(0, AT_FIRST).map(report.item));
  const rest = members.slice(AT_FIRST);
  if (rest.length) {
    const button = report.make("button", { type: "button" }, `${rest.length} more ${rest.length === 1 ? "response" : "responses"}`);
    button.addEventListener("click", () => button.replaceWith(...rest.map(report.item)));
    box.append(button);
  }
  return box;
};

const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));

report.facts = function (i) {
  const { data } = report.browser, group = data.groups[data.group[i]], change = data.change[i];
  const moved = change === null ? "not judged" : change === 0 ? "same place" : `${change > 0 ? "▲" : "▼"} ${Math.abs(change)} ${Math.abs(change) === 1 ? "place" : "places"}`;
  const line = report.make("div", { class: "line" });
  if (data.runs.length > 1) line.append(report.make("span", {}, data.runs[group[0]]));
  line.append(
    report.make("span", {}, `${STAGES[group[1]] || group[1]}, batch ${group[2]}, rollout ${data.number[i]}`),
    report.make("span", {}, "reward ", report.make("b", {}, number(data.reward[i]))),
    report.make("span", {}, `static score ${number(data.static[i])}`),
    report.make("span", { class: change > 0 ? "up" : change < 0 ? "down" : "" }, moved),
    report.make("span", {}, `${data.tokens[i] ?? "?"} tokens${data.cut[i] ? ", cut off" : ""}`),
    ...(data.out[i] ? [report.make("span", {}, "left out of the update")] : []),
  );
  return line;
};

report.dots = function (i) {
  const { data } = report.browser, rubric = data.rubrics[data.groups[data.group[i]][4]];
  const squares = [...data.outcome[i]].map((letter, k) => {
    const says = `${rubric[k][0]}: ${WORDS[letter]}`;
    return report.make("span", { class: letter, title: says, role: "img", "aria-label": says }, SYMBOLS[letter]);
  });
  return report.make("div", { class: "dots" }, ...squares);
};

report.item = function (i) {
  const teaser = report.browser.data.text[i].slice(0, 300).replace(/\s+/g, " ");
  const summary = report.make("summary", {}, report.facts(i), report.make("div", { class: "teaser" }, teaser), report.dots(i));
  const item = report.make("details", { class: "item" }, summary);
  item.addEventListener("toggle", () => { if (item.open && item.children.length === 1) item.append(report.body(i)); });
  return item;
};

report.body = function (i) {
  const { data } = report.browser, group = data.groups[data.group[i]];
  const body = report.make("div", { class: "body" });
  for (const [role, text] of data.prompts[group[3]]) body.append(report.make("h3", {}, role), report.make("p", { class: "text" }, text));
  body.append(report.make("h3", {}, "response"), ...report.response(i), report.verdicts(i));
  const same = data.sameprompt.get(group[0] + "/" + group[1] + "/" + group[3]);
  const batches = same.map((at) => data.groups[at][2]), first = Math.min(...batches), last = Math.max(...batches);
  if (first !== last) {
    const button = report.make("button", { type: "button" }, `first against last: batches ${first} and ${last}`);
    button.addEventListener("click", () => button.replaceWith(report.pair(same, first, last, data.number[i])));
    body.append(button);
  }
  return body;
};

report.response = function (i) { // all turns; or the thought, folded, and the answer
  const { data } = report.browser, thought = data.thought[i], said = data.said[i];
  if (said) return said.map(([role, text]) => report.make("p", { class: "text turn " + (role === "assistant" ? "answer" : "told") }, report.make("b", {}, role), " " + text));
  const answer = report.make("p", { class: "text answer" }, data.text[i] || (thought === null ? "" : "no answer"));
  if (thought === null) return [answer];
  return [report.make("details", { class: "thought" }, report.make("summary", {}, "thought"), report.make("p", { class: "text" }, thought)), answer];
};

report.verdicts = function (i) {
  const { data } = report.browser, group = data.groups[data.group[i]], rubric = data.rubrics[group[4]];
  const head = [["criterion"], ["verdict"], ["reason"], ["weight in the rubric", "num"], ["weight in this batch", "num"], ["saturation", "num"]];
  const rows = rubric.map(([name, , tags], k) => {
    const letter = data.outcome[i][k], score = data.score[i][k];
    const words = letter === "p" ? `partly met, ${number(score, 2)}` : data.fault[i].includes(k) ? "not met: fault found" : WORDS[letter];
    return report.make("tr", {},
      report.make("td", {}, name, report.make("div", { class: "tags" }, tags.join(" "))),
      report.make("td", {}, report.make("span", { class: "tag " + letter }, words)),
      report.make("td", {}, data.reasons[data.reason[i][k]]),
      ...[7, 5, 6].map((part) => report.make("td", { class: "num" }, number(group[part][k]))));
  });
  const table = report.make("table", { class: "verdicts" }, report.make("thead", {}, report.make("tr", {}, ...head.map(([cell, kind]) => report.make("th", { class: kind }, cell)))), report.make("tbody", {}, ...rows));
  return report.make("div", { class: "scroll" }, table);
};

report.pair = function (same, first, last, wanted) {
  const { data } = report.browser;
  const column = (batch, title) => {
    const at = same.find((group) => data.groups[group][2] === batch);
    const members = data.group.flatMap((group, i) => (group === at ? [i] : []));
    const chosen = members.find((i) => data.number[i] === wanted) ?? members[0];
    const box = report.make("div", {}, report.make("h3", {}, `${title}: batch ${batch}`));
    const show = (i) => {
      const select = report.make("select", { "aria-label": "rollout" });
      report.fillSelect(select, members.map((member) => [String(member), `rollout ${data.number[member]}, reward ${number(data.reward[member])}`]));
      select.value = String(i);
      select.addEventListener("change", () => show(Number(select.value)));
      box.replaceChildren(box.firstChild, select, report.facts(i), ...report.response(i), report.dots(i), report.verdicts(i));
    };
    show(chosen);
    return box;
  };
  return report.make("div", { class: "pair" }, column(first, "first"), column(last, "last"));
};
