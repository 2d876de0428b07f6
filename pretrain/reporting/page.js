"use strict";

// Tables: a click on a header sorts, words in the field above a long table filter its rows.
for (const header of document.querySelectorAll("thead th")) {
  const button = header.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const table = header.closest("table"), column = header.cellIndex;
    const up = header.getAttribute("aria-sort") === "descending";
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [Number(x), Number(y)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y, "en", {numeric: true}) : p - q;
      return up ? order : -order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}
for (const field of document.querySelectorAll("input[data-filter]")) {
  const table = field.closest(".filtered").querySelector("table");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase();
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(words);
  });
}

// Charts: a figure holds gzipped JSON {uses, plots} for each of its panels, and is drawn when it comes into sight.
async function unpacked(element) {
  const bytes = Uint8Array.from(atob(element.textContent), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

let library = null;
function plotly() {
  library ??= unpacked(document.getElementById("chart-library")).then(source => {
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    return window.Plotly;
  });
  return library;
}

const CONFIG = {responsive: true, displayModeBar: false, showTips: false, doubleClick: "reset"};
const touch = matchMedia("(pointer: coarse)");
const dark = matchMedia("(prefers-color-scheme: dark)");

function themed(value) {  // "var(--name)" is a colour of the page's style
  if (typeof value === "string" && value.startsWith("var(--"))
    return getComputedStyle(document.documentElement).getPropertyValue(value.slice(4, -1)).trim();
  if (Array.isArray(value)) return value.map(themed);
  if (value === null || typeof value !== "object" || "bdata" in value) return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, themed(one)]));
}

function layout(plot) {
  const axis = {gridcolor: "var(--grid)", zerolinecolor: "var(--grid)", linecolor: "var(--floor)",
    tickcolor: "var(--floor)", ticks: "outside", ticklen: 3, showline: true};
  const {xaxis, yaxis, ...rest} = plot.layout;
  const title = words => ({text: words ?? "", standoff: 6, font: {size: 12}});
  return themed({
    margin: {l: 60, r: 12, t: 8, b: 42}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: "system-ui, sans-serif", size: 11.5, color: "var(--muted)"}, showlegend: false,
    hovermode: "closest", dragmode: touch.matches ? false : "zoom",
    hoverlabel: {bgcolor: "var(--paper)", bordercolor: "var(--floor)", font: {color: "var(--ink)", size: 12}, namelength: 40},
    ...rest,
    xaxis: {...axis, ...xaxis, title: title(xaxis?.title)}, yaxis: {...axis, ...yaxis, title: title(yaxis?.title)},
  });
}

class Group {
  constructor(figure) {
    this.figure = figure;
    this.hidden = new Set();
    this.pickers = [...figure.querySelectorAll("select")];
    for (const picker of this.pickers) picker.addEventListener("change", () => this.draw());
    for (const button of figure.querySelectorAll(".legend button"))
      button.addEventListener("click", () => {
        const name = button.dataset.name, shown = this.hidden.delete(name);
        if (!shown) this.hidden.add(name);
        button.setAttribute("aria-pressed", String(shown));
        this.draw();
      });
  }

  async draw() {
    try {
      this.panels ??= unpacked(this.figure.querySelector("script")).then(JSON.parse);
      const [Plotly, panels] = await Promise.all([plotly(), this.panels]);
      const divs = this.figure.querySelectorAll(".plot");
      await Promise.all(panels.map((panel, place) => {
        const plot = panel.plots[panel.uses.map(picker => this.pickers[picker].value).join(",")];
        divs[place].closest(".panel").hidden = !plot;
        if (!plot) return null;
        const traces = themed(plot.traces).map(one => ({...one, visible: !this.hidden.has(one.legendgroup)}));
        const wanted = {height: panel.height, ...layout(plot)};
        divs[place].style.height = `${wanted.height}px`;
        return Plotly.react(divs[place], traces, wanted, CONFIG);
      }));
      this.figure.dataset.drawn = "true";
    } catch (error) {
      const words = document.createElement("p");
      words.className = "failed";
      words.textContent = typeof DecompressionStream === "undefined"
        ? "This browser cannot unpack the chart: use Chrome 80, Firefox 113, Safari 16.4 or a later one."
        : `The chart could not be drawn: ${error.message}`;
      this.figure.querySelector(".panels").replaceWith(words);
    }
  }
}

const groups = new Map([...document.querySelectorAll("figure.charts")].map(figure => [figure, new Group(figure)]));
const sight = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    sight.unobserve(entry.target);
    groups.get(entry.target).draw();
  }
}, {rootMargin: "400px"});
for (const figure of groups.keys()) sight.observe(figure);
addEventListener("beforeprint", () => {
  for (const group of groups.values()) if (!group.figure.closest("details:not([open])")) group.draw();
});
dark.addEventListener("change", () => { for (const group of groups.values()) if (group.panels) group.draw(); });
