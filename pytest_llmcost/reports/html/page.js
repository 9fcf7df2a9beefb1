"use strict";
/* Sorts, searches, unfolds and draws. Every figure comes written from the page's data. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const text = (number) => data.texts[number];
  const named = (fields, values) => Object.fromEntries(fields.map((name, at) => [name, values[at]]));
  const SIGNS = data.signs;
  const WORDS = { exceeded: "over budget or against a rule", unverified: "not checked", near: "near its budget" };
  const CHUNK = 200;

  const rows = data.rows.map((values, number) => {
    const row = named(data.rowFields, values);
    const models = new Set(row.found.map((call) => text(call[0])));
    row.number = number;
    row.file = text(row.group);
    row.haystack = `${row.file}::${row.name} ${[...models].join(" ")}`.toLowerCase();
    return row;
  });

  /** Make an element; texts become text nodes, so that no name is ever read as markup. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  }

  const part = (values) => ({ name: text(values[0]), width: values[1], figure: text(values[2]) });
  const figure = (value) => (typeof value === "number" ? value.toLocaleString("en-US") : value);

  /* The table */

  const TOKENS = data.tokens; // a key and a title for each column
  const COLUMNS = [
    { key: "name", title: "Test", value: (row) => `${row.file}::${row.name}` },
    { key: "cost", title: "Cost", value: (row) => row.usd },
    { key: "share", title: "Budget used", value: used },
    { key: "calls", title: "Calls", value: (row) => row.calls },
    ...TOKENS.map(([key, title]) => ({ key, title, value: (row) => quantity(row[key]) })),
  ];

  /** Return which share of its budget a row uses; what breaks a limit of nothing, more than any. */
  function used(row) {
    return row.share ?? (row.mark === "exceeded" ? Infinity : null);
  }

  function quantity(value) {
    const digits = value.replace(/\D/g, "");
    return digits ? Number(digits) : null;
  }

  const body = document.getElementById("rows");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const search = document.getElementById("search");
  const state = { key: "cost", descending: true, mark: "", found: [], shown: 0 };

  function sorted(found) {
    const { value } = COLUMNS.find((column) => column.key === state.key);
    const sign = state.descending ? -1 : 1;
    return found
      .map((row) => [value(row), row])
      .sort(([a, one], [b, two]) => {
        if (a === null || b === null) return (a === null) - (b === null) || one.number - two.number;
        return sign * (typeof a === "string" ? a.localeCompare(b) : a - b) || one.number - two.number;
      })
      .map(([, row]) => row);
  }

  /** Draw the rows that are asked for, or only this one. */
  function update(only = null) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const isAsked = (row) =>
      (!state.mark || row.mark === state.mark) && words.every((word) => row.haystack.includes(word));
    state.found = only ? [only] : sorted(rows.filter(isAsked));
    state.shown = 0;
    body.replaceChildren();
    show();
    for (const head of document.querySelectorAll("#heads th")) {
      const isOne = head.dataset.key === state.key;
      head.setAttribute("aria-sort", isOne ? (state.descending ? "descending" : "ascending") : "none");
    }
    for (const each of document.getElementById("filters").children) {
      each.setAttribute("aria-pressed", String(each.dataset.mark === state.mark));
    }
  }

  function show() {
    const next = state.found.slice(state.shown, state.shown + CHUNK);
    body.append(...next.map(drawRow));
    state.shown += next.length;
    const left = state.found.length - state.shown;
    more.hidden = left === 0;
    more.textContent = `Show ${Math.min(left, CHUNK)} more of ${figure(left)}`;
    const what = state.found.length === rows.length ? "" : ` of ${figure(rows.length)}`;
    const part = left ? `, the first ${figure(state.shown)} shown` : "";
    count.textContent = `${figure(state.found.length)}${what} ${rows.length === 1 ? "row" : "rows"}${part}`;
  }

  function drawRow(row) {
    const unfold = make(
      "button",
      { type: "button", class: "unfold", "aria-expanded": "false", onclick: () => toggle(row, line) },
      make(
        "span",
        { class: "name" },
        ...(row.mark
          ? [
              make("span", { class: "mark", "aria-hidden": "true" }, `${SIGNS[row.mark]} `),
              make("span", { class: "sr" }, `${WORDS[row.mark]}: `),
            ]
          : []),
        row.name,
      ),
      make("span", { class: "file" }, [row.file, text(row.outcome)].filter(Boolean).join(" · ")),
    );
    const line = make(
      "tr",
      { class: row.mark },
      make("th", { scope: "row", class: "c-name" }, unfold),
      make("td", { class: "c-cost number" }, row.cost),
      make("td", { class: "c-share" }, ...budget(row)),
      ...["calls", ...TOKENS.map(([key]) => key)].map((key) => number(key, row[key])),
    );
    return line;
  }

  const number = (key, value) =>
    make("td", { class: `c-${key} number${figure(value) === "0" ? " zero" : ""}` }, figure(value));

  function budget(row) {
    const limit = text(row.budget);
    if (!limit) return [];
    const line = make(
      "span",
      { class: "line" },
      make("span", { class: "used" }, row.used),
      make("span", { class: "limit-text" }, `of ${limit}`),
    );
    return row.share === null ? [line] : [line, bullet(row.share)];
  }

  /** Draw what is used of a limit, as the page does above the table. */
  function bullet(share) {
    const svg = document.getElementById("bullet").content.firstElementChild.cloneNode(true);
    svg.querySelector(".fill").setAttribute("width", Math.min(share, 1) * 100);
    svg.querySelector(".over").setAttribute("width", Math.max(0, Math.min(share - 1, 0.5)) * 100);
    return svg;
  }

  function toggle(row, line) {
    const button = line.querySelector(".unfold");
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) {
      while (line.nextSibling && line.nextSibling.classList.contains("inner")) line.nextSibling.remove();
    } else {
      line.after(...inner(row));
    }
  }

  /** Make the rows below a test: its verdicts, then a row for each call. */
  function* inner(row) {
    // Only over the columns that every width shows: a wider cell would make new ones.
    const wide = (...children) =>
      make(
        "tr",
        { class: "inner" },
        make("td", { colspan: 3 }, ...children),
        ...["calls", ...TOKENS.map(([key]) => key)].map((key) => make("td", { class: `c-${key}` })),
      );
    for (const [became, sentence, ...reasons] of row.verdicts) {
      yield wide(
        make("p", { class: became }, make("span", { class: "sign", "aria-hidden": "true" }, SIGNS[became]), ` ${sentence}`),
        ...reasons.map((reason) => make("p", { class: "muted" }, reason)),
      );
    }
    if (row.parts.length) {
      const parts = row.parts.map(part);
      yield wide(
        make("p", {}, "The parts of its largest prompt:"),
        make(
          "ul",
          { class: "parts" },
          ...parts.map(({ name, figure }) => make("li", {}, make("span", { class: "name" }, name), ` ${figure}`)),
          row.more_parts ? make("li", { class: "muted" }, `… ${figure(row.more_parts)} more; the JSON report has all`) : null,
        ),
      );
    }
    for (const values of row.found) {
      const call = named(data.callFields, values);
      const tokens = TOKENS.map(([key, title]) => `${title.toLowerCase()} ${call[key]}`).join(" · ");
      const note = text(call.note);
      yield make(
        "tr",
        { class: "inner call" },
        make(
          "td",
          { class: "c-name" },
          text(call.model),
          make("span", { class: "phone" }, tokens),
          note ? make("span", { class: "note" }, note) : "",
        ),
        make("td", { class: "c-cost number" }, call.cost),
        make("td", { class: "c-share" }),
        make("td", { class: "c-calls number" }),
        ...TOKENS.map(([key]) => number(key, call[key])),
      );
    }
    if (row.calls > row.found.length) yield wide(`… ${figure(row.calls - row.found.length)} more calls; the JSON report has all`);
    if (!row.calls && !row.verdicts.length) yield wide("No calls.");
  }

  for (const column of COLUMNS) {
    const sort = () => {
      state.descending = state.key === column.key ? !state.descending : column.key !== "name";
      state.key = column.key;
      update();
    };
    const isNumber = column.key !== "name" && column.key !== "share";
    document.getElementById("heads").append(
      make(
        "th",
        { scope: "col", class: `c-${column.key}${isNumber ? " number" : ""}`, "data-key": column.key },
        make("button", { type: "button", onclick: sort }, column.title),
      ),
    );
  }

  const marks = Object.keys(WORDS).filter((mark) => rows.some((row) => row.mark === mark));
  for (const mark of marks.length ? ["", ...marks] : []) {
    const label = mark ? `${SIGNS[mark]} ${figure(rows.filter((row) => row.mark === mark).length)} ${WORDS[mark]}` : "All";
    const press = () => {
      state.mark = mark;
      update();
    };
    document.getElementById("filters").append(
      make("button", { type: "button", "data-mark": mark, onclick: press }, label),
    );
  }

  search.addEventListener("input", () => update());
  more.addEventListener("click", () => {
    const next = state.shown;
    show();
    body.querySelectorAll("tr:not(.inner) .unfold")[next]?.focus();
  });

  /* The tree */

  const tree = document.getElementById("tree");
  const HEIGHT = 32;

  function node(packed, parent) {
    if (typeof packed === "number") {
      const row = rows[packed];
      const isCase = row.name.startsWith(`${parent.name}[`);
      const name = isCase ? row.name.slice(parent.name.length) : row.name;
      const leaf = { name, usd: row.usd, cost: row.cost, share: "", row, parent };
      leaf.children = [...row.parts, row.answer]
        .filter((each) => each && each[1])
        .map(part)
        .sort((a, b) => b.width - a.width)
        .map((each) => ({
          name: each.name, usd: row.usd * each.width, cost: each.figure, share: "", children: [], row, parent: leaf, isPart: true,
        }));
      return leaf;
    }
    const [name, usd, cost, share, children] = packed;
    const made = { name, usd, cost, share, row: null, parent };
    made.children = children.map((child) => node(child, made));
    return made;
  }

  const root = node(data.tree, null);
  let top = root;

  function wayTo(each) {
    return each.parent ? [...wayTo(each.parent), each] : [each];
  }

  function describe(each) {
    const way = wayTo(each).slice(1).map(({ name }) => (name.endsWith("/") ? name : `${name}::`));
    const test = each.row && `${each.row.file}::${each.row.name}${each.isPart ? `: ${each.name}` : ""}`;
    const name = test || way.join("").replace(/::$/, "");
    const state = each.row && !each.isPart && each.row.mark ? `, ${WORDS[each.row.mark]}` : "";
    return `${name || each.name} ${each.cost}${each.share ? `, ${each.share} of all` : ""}${state}`;
  }

  function drawTree() {
    const above = wayTo(top);
    const width = tree.clientWidth || 1000;
    const cells = [];
    above.forEach((each, level) => cells.push([each, level, 0, 1]));
    const below = (each, level, left, share) => {
      let at = left;
      for (const child of each.children) {
        const part = each.usd ? (child.usd / each.usd) * share : 0;
        if (part * width < 2) break; // sorted, so that all others are narrower
        cells.push([child, level, at, part]);
        below(child, level + 1, at, part);
        at += part;
      }
    };
    below(top, above.length, 0, 1);
    const levels = Math.max(...cells.map(([, level]) => level)) + 1;
    tree.style.height = `${levels * HEIGHT}px`;
    tree.replaceChildren(
      ...cells.map(([each, level, left, share]) => {
        const isNarrow = share * width < 28;
        const mark = each.row && !each.isPart ? each.row.mark : "";
        const kind = each.isPart ? "part" : each.row ? `leaf ${mark}` : `l${Math.min(level, 4)}`;
        const cell = make(
          "button",
          {
            type: "button",
            class: `cell ${kind}${isNarrow ? " narrow" : ""}`,
            tabindex: isNarrow ? -1 : 0,
            "aria-label": describe(each),
            title: describe(each),
            onclick: () => open(each),
          },
          ...(isNarrow ? [] : [mark ? `${SIGNS[mark]} ` : "", each.name, make("b", {}, each.cost)]),
        );
        cell.style.left = `${left * 100}%`;
        cell.style.width = `${share * 100}%`;
        cell.style.top = `${level * HEIGHT}px`;
        each.cell = cell;
        return cell;
      }),
    );
  }

  function open(each) {
    if (each.row) {
      state.mark = "";
      search.value = `${each.row.file}::${each.row.name}`;
      update(each.row);
      const button = body.querySelector(".unfold");
      button.click();
      button.focus();
      return;
    }
    top = each === top && each.parent ? each.parent : each;
    drawTree();
    top.cell.focus();
  }

  if (root.usd) {
    drawTree();
    let resized = 0;
    window.addEventListener("resize", () => {
      cancelAnimationFrame(resized);
      resized = requestAnimationFrame(drawTree);
    });
  } else {
    tree.closest("section").hidden = true;
  }
  document.getElementById("tests").hidden = !rows.length;
  update();
})();
