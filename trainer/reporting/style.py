"""How a page of HTML looks and what it does when touched: CSS and JavaScript without any library."""

STYLE = """
:root { color-scheme: light dark; --ink: #222; --dim: #595959; --paper: #fff; --box: #f3f3f1; --line: #d5d5d0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --dim: #a8a8a3; --paper: #161616; --box: #242424; --line: #3c3c3a }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: var(--ink); background: var(--paper) }
main { max-width: 1400px; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; overflow-wrap: anywhere } h3 { font-size: 1rem }
section { border-top: 1px solid var(--line); margin-top: 1.5rem }
pre { background: var(--box); padding: .8rem; overflow: auto; font-size: .8rem; white-space: pre-wrap }
figure { margin: 0 }
figcaption { color: var(--dim); font-size: .8rem; overflow-wrap: anywhere }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)) }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)) }
.plots .controls { grid-column: 1 / -1 }
.plot { min-width: 0 }
.image img { width: 100%; height: auto; display: block }
.step { display: grid; gap: .3rem }
.step[hidden] { display: none }
.controls input { width: min(60vw, 24rem); vertical-align: middle }
button.zoom { padding: 0; border: 0; background: none; cursor: zoom-in; width: 100% }
button.zoom:focus-visible { outline: 3px solid #0072b2 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
dialog { width: 96vw; height: 94vh; max-width: none; max-height: none; padding: 0; border: 0; background: var(--paper) }
dialog[open] { display: flex; flex-direction: column }
dialog .bar { display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: .5rem; color: var(--ink); align-items: center }
dialog .bar label { white-space: nowrap }
dialog .bar small { color: var(--dim) }
dialog .view { flex: 1; min-height: 0; overflow: auto; display: grid; place-content: safe center; cursor: grab;
  touch-action: none }
dialog .view:focus-visible { outline: 3px solid #0072b2; outline-offset: -3px }
dialog .view.moved { cursor: grabbing }
dialog img { display: block; max-width: none }
"""

DIALOG = """<dialog id="closeup" aria-label="an image, closely">
<div class="bar"><button id="close">close</button>
<label>size <input type="range" id="scale" min="5" max="800" value="100"> <output id="scaled"></output></label>
<small>wheel, pinch or + and &minus;: size; drag or arrows: move; 0: all of it; 1: its own pixels</small></div>
<div class="view" tabindex="0" role="group" aria-label="an image that can be moved" autofocus>
<img alt="" draggable="false"></div>
</dialog>"""

SCRIPT = """
"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

for (const box of all(".previews")) {
  const steps = box.dataset.steps.split(","), choice = box.querySelector(".steps");
  if (choice) choice.addEventListener("input", () => {
    all(".step", box).forEach((step, number) => { step.hidden = number !== Number(choice.value); });
    box.querySelector("output").textContent = steps[choice.value];
  });
}

const closeup = document.getElementById("closeup"), view = closeup.querySelector("img"), room = view.parentElement;
const scale = document.getElementById("scale");
// At so many percent of its own pixels; what lies below a point of the window, by default in its middle, stays there.
const resize = (percent, x, y) => {
  const outer = room.getBoundingClientRect(), before = view.getBoundingClientRect();
  const left = x ?? outer.left + room.clientWidth / 2, top = y ?? outer.top + room.clientHeight / 2;
  const share = [(left - before.left) / before.width, (top - before.top) / before.height];
  const size = Math.max(Number(scale.min), Math.min(Number(scale.max), percent));
  scale.value = size;
  view.style.width = `${view.naturalWidth * size / 100}px`;
  view.style.imageRendering = size < 100 ? "auto" : "pixelated";
  document.getElementById("scaled").textContent = `${Math.round(size)} %`;
  const after = view.getBoundingClientRect();
  room.scrollLeft += after.left + share[0] * after.width - left;
  room.scrollTop += after.top + share[1] * after.height - top;
};
const percent = () => 100 * view.getBoundingClientRect().width / view.naturalWidth;
const fit = () => resize(100 * Math.min(room.clientWidth / view.naturalWidth, room.clientHeight / view.naturalHeight));
for (const button of all("button.zoom")) button.addEventListener("click", async () => {
  const image = button.querySelector("img");
  view.src = image.src;
  view.alt = image.alt;
  await view.decode();
  closeup.showModal();
  fit();
});
scale.addEventListener("input", () => resize(Number(scale.value)));
document.getElementById("close").addEventListener("click", () => closeup.close());
room.addEventListener("wheel", event => {
  event.preventDefault();
  resize(percent() * Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.clientX, event.clientY);
}, { passive: false });
room.addEventListener("keydown", event => {
  const size = { "+": percent() * 1.25, "=": percent() * 1.25, "-": percent() / 1.25, "1": 100 }[event.key];
  if (size) resize(size);
  else if (event.key === "0") fit();
});
const held = new Map();  // pointers that are down, and where they are
const middle = () => {
  const [one, other = one] = [...held.values()];
  return [(one.x + other.x) / 2, (one.y + other.y) / 2, Math.hypot(one.x - other.x, one.y - other.y)];
};
room.addEventListener("pointerdown", event => {
  if (event.button !== 0 || held.size === 2) return;
  event.preventDefault();
  room.focus();
  room.setPointerCapture(event.pointerId);
  held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  room.classList.add("moved");
});
room.addEventListener("pointermove", event => {
  if (!held.has(event.pointerId)) return;
  const [left, top, apart] = middle();
  held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  const [x, y, wide] = middle();
  room.scrollLeft += left - x;
  room.scrollTop += top - y;
  if (apart && wide) resize(percent() * wide / apart, x, y);
});
for (const ended of ["pointerup", "pointercancel"]) room.addEventListener(ended, event => {
  held.delete(event.pointerId);
  if (!held.size) room.classList.remove("moved");
});

const smoothing = document.getElementById("smoothing");
const smoothed = (values, weight) => {
  let mean = 0, mass = 0;
  return values.map(value => {
    if (!Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return mean / mass;
  });
};
if (smoothing) smoothing.addEventListener("input", () => {
  const weight = Number(smoothing.value);
  document.getElementById("smoothed").textContent = smoothing.value;
  for (const shown of Bokeh.documents) for (const root of shown.roots()) for (const line of root.renderers) {
    const source = line.data_source, data = source && source.data;
    if (data && data.smooth) source.data = { ...data, smooth: smoothed([...data.value], weight) };
  }
});
"""
