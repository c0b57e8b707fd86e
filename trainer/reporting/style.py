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
dialog .bar { display: flex; gap: 1rem; padding: .5rem; color: var(--ink); align-items: center }
dialog .view { overflow: auto; height: calc(94vh - 4rem) }
dialog img { display: block; image-rendering: pixelated }
"""

DIALOG = """<dialog id="closeup" aria-label="an image, closely">
<div class="bar"><button id="close">close</button>
<label>size <input type="range" id="scale" min="10" max="800" value="100"> <output id="scaled"></output></label></div>
<div class="view"><img alt=""></div>
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

const closeup = document.getElementById("closeup"), view = closeup.querySelector("img");
const scale = document.getElementById("scale");
const resize = () => {
  view.style.width = `${view.naturalWidth * scale.value / 100}px`;
  document.getElementById("scaled").textContent = `${scale.value} %`;
};
for (const button of all("button.zoom")) button.addEventListener("click", () => {
  const image = button.querySelector("img");
  view.src = image.src;
  view.alt = image.alt;
  closeup.showModal();
  scale.value = Math.max(10, Math.min(800, Math.round(90 * window.innerWidth / image.naturalWidth)));
  resize();
});
scale.addEventListener("input", resize);
document.getElementById("close").addEventListener("click", () => closeup.close());

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
