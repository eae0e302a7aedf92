"use strict";
// Tooltips, downloads and the schedule. All text enters the page as text, never as markup.
const el = (id) => document.getElementById(id);
const tip = el("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.classList.add("on");
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, innerWidth - box.width - 8);
  const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
}

document.addEventListener("pointermove", (event) => {
  const target = event.target.closest("[data-tip]");
  if (target) showTip(target.dataset.tip, event.clientX, event.clientY);
  else if (!event.target.closest(".span, .wait")) tip.classList.remove("on");
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-raw]");
  if (!link) return;
  event.preventDefault();
  const text = el(link.dataset.raw).textContent;
  let content = text;
  try {
    const value = JSON.parse(text);
    content = typeof value === "string" ? value : JSON.stringify(value, null, 1);
  } catch { /* Python's NaN: hand the text out as it is. */ }
  const saver = document.createElement("a");
  saver.href = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  saver.download = link.getAttribute("download");
  saver.click();
  setTimeout(() => URL.revokeObjectURL(saver.href), 1000);
});

function schedule(root) {
  const data = JSON.parse(el("gantt-data").textContent);
  const column = Object.fromEntries(data.fields.map((name, i) => [name, i]));
  const svgSpace = document.querySelector("svg")?.namespaceURI
    ?? new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
  const picker = el("step");
  const view = { from: 0, to: 1, whole: 1 };
  const duration = (us) => (us >= 1e6 ? `${(us / 1e6).toPrecision(3)} s`
    : us >= 1000 ? `${(us / 1000).toPrecision(3)} ms` : `${us.toPrecision(3)} µs`);

  function svg(name, attributes, text) {
    const node = document.createElementNS(svgSpace, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const chosen = { measured: () => el("show-measured").checked,
    predicted: () => el("show-predicted").checked };
  const measuredRows = (run) => run.measured[picker.value] ?? run.measured[run.shown] ?? [];
  const end = (rows) => rows.reduce((most, row) => Math.max(most, row[column.stop_us]), 0);

  function measureWhole() {
    view.whole = Math.max(1, ...data.runs.flatMap((run) => [end(run.predicted), end(measuredRows(run))]));
  }

  function zoom(factor, at = 0.5) {
    const width = Math.min(view.whole * 1.02, Math.max(view.whole / 400, (view.to - view.from) * factor));
    const centre = view.from + at * (view.to - view.from);
    move(centre - at * width, width);
  }

  function move(from, width) {
    view.from = Math.max(0, Math.min(from, view.whole * 1.02 - width));
    view.to = view.from + width;
    draw();
  }

  function fit() { measureWhole(); move(0, view.whole * 1.02); }

  function rowsOf(run) {
    // Pairs of sub-rows per lane: predicted thin above measured.
    const folded = run.fold.length && !el("all-ranks").checked ? new Set(run.fold) : null;
    const tall = { predicted: 6, measured: 11 };
    let y = 26, rank = null;
    const places = new Map();
    run.lanes.forEach((lane, index) => {
      if (folded && !folded.has(lane.rank)) return;
      if (lane.rank !== rank) { y += rank === null ? 4 : 14; rank = lane.rank; }
      const grow = lane.name === "compute" ? 5 : 0;
      const place = { first: y };
      for (const source of ["predicted", "measured"]) {
        if (!chosen[source]()) continue;
        place[source] = { y, height: tall[source] + grow };
        y += tall[source] + grow + 1;
      }
      if (y === place.first) return;
      place.last = y;
      y += 4;
      places.set(index, place);
    });
    return { places, height: y + 6 };
  }

  function describe(run, index, id) {
    const lane = run.lanes[index];
    const lines = [];
    for (const [source, rows] of [["predicted", run.predicted], ["measured", measuredRows(run)]]) {
      const row = rows.find((r) => r[column.id] === id);
      if (!row) { lines.push(`${source}: not recorded`); continue; }
      if (!lines.length || lines[0].startsWith("predicted: not")) {
        const batch = row[column.microbatch] === null ? "" : `, micro-batch ${row[column.microbatch]}`;
        const sent = row[column.bytes] ? `, ${(row[column.bytes] / 1e6).toPrecision(3)} MB` : "";
        lines.unshift(`${row[column.op].replaceAll("_", "-")}${batch}, instruction ${id}`,
          `rank ${lane.rank}, stage ${row[column.stage]}${lane.transport ? `, ${lane.transport}` : ""}${sent}`);
      }
      const took = row[column.stop_us] - row[column.wire_us];
      const waited = row[column.wire_us] - row[column.start_us];
      lines.push(`${source}: ${duration(took)} from ${duration(row[column.wire_us])}`
        + (waited > 0 ? `, after waiting ${duration(waited)}` : ""));
    }
    return lines.join("\n");
  }

  function drawAxis(node, x, width, gutter, height) {
    const raw = (view.to - view.from) / Math.max(2, Math.floor((width - gutter) / 110));
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((value) => value >= raw);
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
      node.append(svg("line", { x1: x(at), x2: x(at), y1: 20, y2: height, class: "grid" }),
        svg("text", { x: x(at), y: 13, class: "tick mid" },
          `${parseFloat((at / 1000).toPrecision(6))}`));
    }
    node.append(svg("text", { x: gutter - 10, y: 13, class: "tick end" }, "ms"));
  }

  function drawSpan(node, run, row, place, source, x) {
    const [from, wire, to] = [row[column.start_us], row[column.wire_us], row[column.stop_us]];
    if (to < view.from || from > view.to) return;
    const lane = run.lanes[row[column.lane]];
    const { y, height } = place[source];
    const left = (at) => x(Math.max(view.from, Math.min(view.to, at)));
    const common = { y, height, "data-id": row[column.id], "data-lane": row[column.lane] };
    if (wire > from) {
      node.append(svg("rect", { ...common, x: left(from), width: Math.max(0, left(wire) - left(from)),
        class: "wait" }));
    }
    const style = lane.transport ? `t-${lane.transport}` : `op-${row[column.op]}`;
    const width = Math.max(0.8, left(to) - left(wire) - 0.6);
    node.append(svg("rect", { ...common, x: left(wire), width, rx: 1.5,
      class: `span ${style} is-${source}` }));
    if (!lane.transport && source === "measured" && row[column.microbatch] !== null && width > 13) {
      node.append(svg("text", { x: left(wire) + width / 2, y: y + height - 4.5,
        class: `number${row[column.op] !== "forward" ? " on-dark" : ""}` }, row[column.microbatch]));
    }
  }

  function drawPanel(panel, run) {
    const width = Math.max(300, root.clientWidth);
    const gutter = width < 600 ? 122 : 196;
    const { places, height } = rowsOf(run);
    const x = (at) => gutter + ((at - view.from) / (view.to - view.from)) * (width - gutter - 4);
    const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": `schedule of ${run.name}` });
    node.style.height = `${height}px`;
    drawAxis(node, x, width, gutter, height);
    let rank = null;
    for (const [index, place] of places) {
      const lane = run.lanes[index];
      const middle = (place.first + place.last) / 2 + 4;
      if (lane.rank !== rank) {
        rank = lane.rank;
        const name = width < 600 ? `rank ${rank}` : `rank ${rank} ${lane.node}`;
        node.append(svg("text", { x: 0, y: middle, class: "rank-name" },
          name.length > 26 ? `${name.slice(0, 25)}…` : name));
      } else {
        node.append(svg("text", { x: gutter - 10, y: middle, class: "lane-name end" }, lane.label));
      }
    }
    const sources = { predicted: run.predicted, measured: measuredRows(run) };
    for (const [source, rows] of Object.entries(sources)) {
      if (!chosen[source]()) continue;
      for (const row of rows) {
        const place = places.get(row[column.lane]);
        if (place) drawSpan(node, run, row, place, source, x);
      }
      const finish = end(rows);
      if (finish && finish <= view.to && finish >= view.from) {
        node.append(svg("line", { x1: x(finish), x2: x(finish), y1: 20, y2: height,
          class: `finish is-${source}` }));
      }
    }
    panel.replaceChildren(heading(run, sources), node);
  }

  function heading(run, sources) {
    const title = document.createElement("h3");
    const note = document.createElement("small");
    const said = [];
    if (sources.measured.length) said.push(`measured ${duration(end(sources.measured))}`);
    if (sources.predicted.length) said.push(`predicted ${duration(end(sources.predicted))}`);
    note.textContent = said.join(", ");
    title.append(data.runs.length > 1 ? run.name : "", note);
    return title;
  }

  const panels = data.runs.map((run) => {
    const panel = document.createElement("div");
    panel.className = "panel";
    root.append(panel);
    attach(panel, run);
    return panel;
  });

  function draw() { data.runs.forEach((run, i) => drawPanel(panels[i], run)); }

  function attach(panel, run) {
    let held = null;
    panel.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") held = { x: event.clientX, from: view.from };
    });
    addEventListener("pointerup", () => { held = null; });
    panel.addEventListener("pointermove", (event) => {
      const span = view.to - view.from;
      if (held) {
        move(held.from - ((event.clientX - held.x) / panel.clientWidth) * span, span);
        return;
      }
      const hit = event.target.closest("[data-id]");
      panel.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit"));
      if (!hit) return;
      panel.querySelectorAll(`.span[data-id="${Number(hit.dataset.id)}"]`)
        .forEach((node) => node.classList.add("lit"));
      showTip(describe(run, Number(hit.dataset.lane), Number(hit.dataset.id)), event.clientX, event.clientY);
    });
    panel.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = panel.getBoundingClientRect();
      zoom(Math.exp(event.deltaY / 300), Math.max(0, (event.clientX - box.left) / box.width));
    }, { passive: false });
  }

  const steps = [...new Set(data.runs.flatMap((run) => Object.keys(run.measured)))]
    .sort((a, b) => a - b);
  for (const step of steps) picker.append(new Option(step, step));
  const usual = data.runs.find((run) => run.shown !== null);
  if (usual) picker.value = usual.shown;
  if (!steps.length) picker.parentElement.remove();
  el("unfold").hidden = !data.runs.some((run) => run.fold.length);
  el("in").onclick = () => zoom(0.5);
  el("out").onclick = () => zoom(2);
  el("fit").onclick = fit;
  picker.onchange = fit;
  for (const id of ["show-predicted", "show-measured", "all-ranks"]) el(id).onchange = draw;
  new ResizeObserver(draw).observe(root);
  fit();
}

if (el("gantt")) schedule(el("gantt"));
