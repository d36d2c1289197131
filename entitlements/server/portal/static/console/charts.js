// Charts, drawn here: each has a table beside it that says the same. Signs and words tell up from
// down, colour only helps.

import { h, svg } from "../shared/elements.js";

const TEXT_PX = 13;
const LETTER_PX = 8; // a digit's width, and some

/**
 * @param {string} label what it shows, for whoever does not see it
 * @param {(width: number) => SVGElement} draw for so many pixels: text keeps its size
 */
function chart(label, draw) {
  const place = h("div", { class: "chart", role: "img", "aria-label": label });
  let drawn = 0;
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.floor(contentRect.width);
    if (width === drawn || !width) return;
    drawn = width;
    place.replaceChildren(draw(width));
  }).observe(place);
  return place;
}

function canvas(width, height, ...content) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...content);
}

function text(x, y, words, props = {}) {
  return svg("text", { x, y, "font-size": TEXT_PX, ...props }, words);
}

/**
 * From an opening to a closing, bar by bar.
 * @param {string} label
 * @param {{label: string, from: number, to: number, words: string, kind: "total" | "up" | "down"}[]} bars
 */
export function waterfall(label, bars) {
  const ends = bars.flatMap(({ from, to }) => [from, to]);
  const [low, high] = [Math.min(0, ...ends), Math.max(1, ...ends)];
  return chart(label, (width) => {
    const narrow = width < 560;
    const [row, bar, left, right] = narrow ? [46, 18, 0, 0] : [34, 20, 128, 118];
    const x = (value) => left + ((value - low) / (high - low)) * (width - left - right);
    const drawn = bars.map(({ from, to, words, kind, label: name }, index) => {
      const top = index * row + (narrow ? 22 : (row - bar) / 2);
      const [start, end] = [Math.min(x(from), x(to)), Math.max(x(from), x(to))];
      const middle = narrow ? index * row + 14 : top + bar / 2 + TEXT_PX / 3;
      const onward = !narrow && index < bars.length - 1; // where it is narrow, words stand between
      return [
        onward && svg("line", { class: "guide", x1: x(to), x2: x(to), y1: top, y2: top + row + bar }),
        from !== to && svg("rect", { class: kind, x: Math.min(start, width - right - 2), y: top, width: Math.max(2, end - start), height: bar, rx: 2 }),
        text(0, middle, name),
        text(width, middle, words, { "text-anchor": "end", class: "figure" }),
      ];
    });
    return canvas(width, bars.length * row + 4, ...drawn);
  });
}

/**
 * What something comes to from one instant on, until the next.
 * @param {string} label
 * @param {{at: number, value: number}[]} points in order; the last holds on
 * @param {{value: (value: number) => string, at: (at: number) => string}} words
 */
export function steps(label, points, words) {
  const values = points.map(({ value }) => value);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = (most - least || Math.abs(most) || 1) * 0.15;
  const [low, high] = [least - room, most + room];
  const [first, last] = [points[0].at, points[points.length - 1].at];
  const end = last + Math.max((last - first) * 0.08, 1);
  const left = 16 + LETTER_PX * Math.max(...[least, values[0], most].map((value) => words.value(value).length));
  return chart(label, (width) => {
    const [height, top, right, bottom] = [220, 10, 12, 30];
    const x = (at) => left + ((at - first) / (end - first)) * (width - left - right);
    const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
    const line = points.map(({ at, value }, index) => `${index ? `H${x(at)}V` : `M${x(at)} `}${y(value)}`).join("") + `H${x(end)}`;
    const lines = [...new Set([least, values[0], most])].map((value) => svg("line", { class: "guide", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    const marked = [least, values[0], most].filter((value, index, all) => all.findIndex((other) => Math.abs(y(other) - y(value)) < TEXT_PX + 2) === index);
    return canvas(
      width,
      height,
      ...lines,
      ...marked.map((value) => text(left - 8, y(value) + TEXT_PX / 3, words.value(value), { "text-anchor": "end", class: "figure" })),
      svg("path", { class: "line", d: line }),
      ...(points.length <= 40 ? points.map(({ at, value }) => svg("circle", { class: "point", cx: x(at), cy: y(value), r: 3.5 })) : []),
      text(left, height - 8, words.at(first)),
      ...(last > first ? [text(Math.max(x(last), left + 190), height - 8, words.at(last), { "text-anchor": "end" })] : []),
    );
  });
}
