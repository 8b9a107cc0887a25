/* SPDX-License-Identifier: BSD-3-Clause */
/* Draws the charts that the page's JSON describes, with uPlot; bars and intervals are drawn by its hooks.

   A chart is {id, title, note, kind, wide, x: {label, values, text}, y: {label, log}, series: [{name, colour, dash, mid,
   low, high}]}. kind: "lines" (values are numbers), "bars" or "stack" (values are names). mid, low and high are of each
   value, null where there is none. Bars may have goals, one of each value, and a reference, a line through all. */
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const drawn = [];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (s) => css("--s" + (s.colour % 7));
  const short = (v) => {
    if (v === null || v === undefined) return "\u2013";
    const a = Math.abs(v);
    const cut = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
    return a >= 1e9 ? cut(v / 1e9) + "G" : a >= 1e6 ? cut(v / 1e6) + "M" : a >= 1e3 ? cut(v / 1e3) + "k" : cut(v);
  };
  const wrap = (text, columns) => {
    const lines = [""];
    for (const word of String(text).split(" ")) {
      const last = lines[lines.length - 1];
      if (last && last.length + 1 + word.length > columns) lines.push(word);
      else lines[lines.length - 1] = last ? last + " " + word : word;
    }
    return lines.join("\n");
  };
  const top = (c) => {
    const sums = c.x.values.map((_, i) => c.series.reduce((all, s) => all + (s.mid[i] || 0), 0));
    const highs = [...c.series.flatMap((s) => [...s.mid, ...(s.high || [])]), ...(c.goals || []), c.reference];
    return Math.max(...(c.kind === "stack" ? sums : highs).filter((v) => v > 0), 1e-9);
  };
  const least = (c) => Math.min(...c.series.flatMap((s) => [...s.mid, ...(s.low || [])]).filter((v) => v > 0), 1e9);

  const whisker = (u, x, s, i, ratio) => {
    if (!s.low || s.low[i] === null || s.low[i] === undefined || s.mid[i] === null) return;
    if (s.low[i] === s.high[i]) return;
    const ctx = u.ctx, a = u.valToPos(s.low[i], "y", true), b = u.valToPos(s.high[i], "y", true), w = 4 * ratio;
    ctx.beginPath();
    for (const y of [a, b]) { ctx.moveTo(x - w, y); ctx.lineTo(x + w, y); }
    ctx.moveTo(x, a);
    ctx.lineTo(x, b);
    ctx.stroke();
  };
  const clipped = (u, fn) => {
    const ctx = u.ctx;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top - 20, u.bbox.width, u.bbox.height + 20);
    ctx.clip();
    ctx.lineWidth = 1.5 * devicePixelRatio;
    fn(ctx);
    ctx.restore();
  };
  const drawLines = (c) => (u) => clipped(u, (ctx) => {
    c.series.forEach((s) => {
      ctx.strokeStyle = colour(s);
      u.data[0].forEach((x, i) => whisker(u, u.valToPos(x, "x", true), s, i, devicePixelRatio));
    });
  });
  const drawBars = (c) => (u) => clipped(u, (ctx) => {
    const n = c.x.values.length, all = u.bbox.width / n, zero = u.valToPos(0, "y", true);
    const room = Math.min(all * 0.8, 56 * devicePixelRatio * c.series.length), each = room / c.series.length;
    for (let i = 0; i < n; i++)
      c.series.forEach((s, k) => {
        if (s.mid[i] === null) return;
        const left = u.valToPos(i, "x", true) - room / 2 + k * each, y = u.valToPos(s.mid[i], "y", true);
        ctx.fillStyle = colour(s);
        ctx.fillRect(left + each * 0.06, y, each * 0.88, zero - y);
        ctx.strokeStyle = css("--ink");
        whisker(u, left + each / 2, s, i, devicePixelRatio);
        if (c.labels) {
          ctx.fillStyle = css("--ink");
          ctx.font = 11 * devicePixelRatio + "px system-ui, sans-serif";
          ctx.textAlign = "center";
          let high = s.high && s.high[i] !== null ? Math.min(u.valToPos(s.high[i], "y", true), y) : y;
          const goal = c.goals && c.goals[i] !== null ? u.valToPos(c.goals[i], "y", true) : high;
          if (goal < high && goal > high - 20 * devicePixelRatio) high = goal; /* not across the figure */
          if (each > 30 * devicePixelRatio) ctx.fillText(short(s.mid[i]), left + each / 2, high - 7 * devicePixelRatio);
        }
      });
    drawMarks(c, u, ctx);
  });
  const drawMarks = (c, u, ctx) => {
    const across = (value, from, to) => {
      const y = u.valToPos(value, "y", true);
      ctx.beginPath();
      ctx.moveTo(from, y);
      ctx.lineTo(to, y);
      ctx.stroke();
    };
    const half = u.bbox.width / c.x.values.length * 0.42;
    ctx.strokeStyle = css("--s6");
    ctx.lineWidth = 2 * devicePixelRatio;
    (c.goals || []).forEach((goal, i) => {
      const x = u.valToPos(i, "x", true);
      if (goal !== null) across(goal, x - half, x + half);
    });
    ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.strokeStyle = css("--soft");
    if (c.reference) across(c.reference, u.bbox.left, u.bbox.left + u.bbox.width);
    ctx.setLineDash([]);
  };
  const drawStack = (c) => (u) => clipped(u, (ctx) => {
    const n = c.x.values.length, room = Math.min((u.bbox.width / n) * 0.6, 110 * devicePixelRatio);
    for (let i = 0; i < n; i++) {
      let from = 0;
      const left = u.valToPos(i, "x", true) - room / 2;
      for (const s of c.series) {
        const to = from + (s.mid[i] || 0), y = u.valToPos(to, "y", true);
        ctx.fillStyle = colour(s);
        ctx.fillRect(left, y, room, u.valToPos(from, "y", true) - y);
        from = to;
      }
      ctx.fillStyle = css("--ink");
      ctx.font = "600 " + 12 * devicePixelRatio + "px system-ui, sans-serif";
      ctx.textAlign = "center";
      if (from > 0) ctx.fillText(short(from), left + room / 2, u.valToPos(from, "y", true) - 6 * devicePixelRatio);
    }
  });

  const axis = (label, more) => Object.assign({
    label, labelSize: 24, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", stroke: css("--soft"),
    grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--line"), width: 1, size: 5 },
  }, more);

  const options = (c, width) => {
    const lines = c.kind === "lines", n = c.x.values.length, high = top(c), low = least(c);
    const columns = Math.max(9, Math.floor((width - 90) / n / 7.2));
    const names = c.x.values.map((v, i) => (lines ? (c.x.text ? c.x.text[i] : short(v)) : wrap(v, columns)));
    const rows = Math.max(...names.map((name) => String(name).split("\n").length));
    const at = place(c);
    return {
      width, height: c.wide ? 340 : 310, padding: [22, 14, 0, 0],
      legend: { show: false }, cursor: { drag: { x: false, y: false }, points: { show: lines } },
      scales: {
        x: { time: false, range: () => (lines ? [at[0] - 0.35, at[n - 1] + 0.35] : [-0.5, n - 0.5]) },
        y: c.y.log ? { distr: 3, range: () => [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high))] }
          : { range: () => [0, high * 1.1] },
      },
      axes: [
        axis(c.x.label, { splits: () => at, values: () => names, size: 14 + 15 * rows, grid: { show: false } }),
        axis(c.y.label, { values: (u, splits) => splits.map((v) => (v === null ? "" : short(v))),
          size: (u, values) => 16 + 7.5 * Math.max(3, ...(values || []).map((v) => v.length)) }),
      ],
      series: [{}, ...c.series.map((s) => ({
        label: s.name, stroke: colour(s), width: 2.25, dash: s.dash ? [6, 5] : undefined, spanGaps: true,
        ...(lines ? { points: { show: true, size: 7, fill: colour(s), stroke: colour(s) } } : { paths: () => null, points: { show: false } }),
      }))],
      hooks: {
        draw: [(lines ? drawLines : c.kind === "stack" ? drawStack : drawBars)(c)],
        setCursor: [(u) => legend(c, u.cursor.idx)],
      },
    };
  };
  /* Where values stand: numbers by their logarithm. */
  const place = (c) => c.x.values.map((v, i) => (c.kind === "lines" && typeof v === "number" ? Math.log2(v) : i));

  const legend = (c, i) => {
    c.keys.forEach((key, k) => {
      const s = c.series[k], v = i === null || i === undefined ? undefined : s.mid[i];
      const range = v !== undefined && v !== null && s.low && s.low[i] !== null ? ` (${short(s.low[i])} \u2013 ${short(s.high[i])})` : "";
      key.textContent = s.name + (v === undefined ? "" : ": " + short(v) + range);
    });
  };

  const draw = (c) => {
    if (c.plot) c.plot.destroy();
    /* Names need their room: on a small screen such a chart is moved sideways. */
    const width = Math.max(280, c.figure.clientWidth - 36, c.kind === "lines" ? 0 : c.x.values.length * 72 + 90);
    c.plot = new uPlot(options(c, width), [place(c), ...c.series.map((s) => s.mid)], c.canvas);
    c.keys.forEach((key, k) => key.style.setProperty("--c", colour(c.series[k])));
  };

  const make = (tag, text, parent) => {
    const e = document.createElement(tag);
    if (text) e.textContent = text;
    parent.append(e);
    return e;
  };
  document.documentElement.classList.add("js");
  const room = document.querySelector(".charts");
  charts.forEach((c, i) => { /* what would stand alone beside nothing is wide */
    const before = charts.slice(0, i).reduce((n, each) => (each.wide ? 0 : n + 1), 0);
    if (!c.wide && before % 2 === 0 && (i + 1 === charts.length || charts[i + 1].wide)) c.wide = true;
  });
  for (const c of charts) {
    c.figure = make("figure", "", room);
    c.figure.id = "chart-" + c.id;
    if (c.wide) c.figure.classList.add("wide");
    make("h3", c.title, c.figure);
    make("figcaption", c.note, c.figure);
    c.canvas = make("div", "", c.figure);
    c.canvas.className = "scroll";
    const keys = make("div", "", c.figure);
    keys.className = "legend";
    c.keys = c.series.map((s) => make("span", s.name, keys));
    c.series.forEach((s, k) => c.keys[k].classList.toggle("dash", !!s.dash));
    drawn.push(c);
  }
  const all = () => drawn.forEach(draw);
  all();
  let last = room.clientWidth;
  addEventListener("resize", () => { if (room.clientWidth !== last) { last = room.clientWidth; all(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  addEventListener("beforeprint", all);
  addEventListener("afterprint", all);
  matchMedia("print").addEventListener("change", all);
})();
