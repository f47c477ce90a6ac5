// Starts the page: the frame around the views, and the view that the address names.

import { onKey, keepKey, readKey } from "./key.js";
import { onLink } from "./link.js";
import { readPlace, go } from "./router.js";
import { fill, h, setText } from "./dom.js";
import { icon } from "../parts/icons.js";
import { empty, link, refreshTimes } from "../parts/bits.js";
import { find } from "../views/search.js";
import * as overview from "../views/overview.js";
import * as jobs from "../views/jobs.js";
import * as job from "../views/job.js";
import * as batches from "../views/batches.js";
import * as batch from "../views/batch.js";
import * as workers from "../views/workers.js";
import * as newJob from "../views/new-job.js";
import * as newBatch from "../views/new-batch.js";

const TIMES_SECONDS = 5;
const main = document.getElementById("main");
let leaving = new AbortController();
let shownPath = null;

/** The view of a place: `{show(context)}`, which answers `{title, element}` and works until `context.signal` ends. */
function viewOf([first, second, ...rest]) {
  if (rest.length) return lostView;
  if (first === undefined) return overview;
  if (first === "jobs") return second === undefined ? jobs : job;
  if (first === "batches") return second === undefined ? batches : batch;
  if (first === "workers" && second === undefined) return workers;
  if (first === "new") return second === undefined ? newJob : second === "batch" ? newBatch : lostView;
  return lostView;
}

const lostView = {
  show: () => ({ title: "Nothing here", element: h("div", { class: "view" }, h("h1", {}, "Nothing here"), empty("This address names no view", "It may have been cut.", link("To the overview", "#/"))) }),
};

function show() {
  const place = readPlace();
  const focused = document.activeElement?.name;
  leaving.abort(new DOMException("left", "AbortError"));
  leaving = new AbortController();
  const view = viewOf(place.parts).show({ ...place, id: place.parts[1], signal: leaving.signal, retitle });
  const path = place.parts.join("/");
  fill(main, view.element);
  retitle(view.title);
  markPlace(place.parts[0] ?? "");
  if (shownPath !== null && shownPath !== path) arrive();
  else if (focused) stay(focused);
  shownPath = path;
}

/** Whoever works with the keyboard or a screen reader starts at the heading of the new view. */
function arrive() {
  scrollTo(0, 0);
  const heading = main.querySelector("h1");
  if (!heading) return;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
}

/** The same view with another filter: who chose it goes on choosing. */
function stay(name) {
  main.querySelector(`[name="${CSS.escape(name)}"]:checked`)?.focus();
}

function retitle(title) {
  document.title = `${title} · Penstock`;
}

function markPlace(first) {
  for (const item of document.querySelectorAll("[data-place]")) {
    if (item.dataset.place === first) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
}

// The frame: theme, key, search, banner.

function setUpTheme() {
  const names = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  const control = document.getElementById("theme");
  const paint = (choice) => fill(control, icon(choice), h("span", {}, names[choice]));
  control.addEventListener("click", () => paint(window.penstockTheme.next()));
  paint(window.penstockTheme.read());
}

function setUpKey() {
  const dialog = document.getElementById("key-dialog");
  const input = document.getElementById("key-input");
  const control = document.getElementById("key");
  const problem = document.getElementById("key-error");
  const paint = () => fill(control, icon("key"), h("span", {}, readKey() ? "API key: set" : "API key"));
  const ask = () => {
    if (dialog.open) return;
    input.value = readKey();
    document.getElementById("key-forget").hidden = !readKey();
    dialog.showModal();
  };
  const keep = (key) => {
    keepKey(key);
    dialog.close();
    paint();
    show();
  };
  control.addEventListener("click", ask);
  document.getElementById("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep(input.value.trim());
  });
  document.getElementById("key-forget").addEventListener("click", () => keep(""));
  document.getElementById("key-cancel").addEventListener("click", () => dialog.close());
  onKey((wanted) => {
    setText(problem, wanted ? (readKey() ? "The API does not know this key." : "The API asks for a key.") : "");
    if (wanted) ask();
  });
  paint();
}

function setUpSearch() {
  const form = document.getElementById("search");
  const input = document.getElementById("search-input");
  form.prepend(icon("search", 16));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const found = find(input.value);
    input.setCustomValidity(found.problem ?? "");
    if (found.problem) input.reportValidity();
    else {
      input.value = "";
      go(found.parts, found.query);
    }
  });
  input.addEventListener("input", () => input.setCustomValidity(""));
  addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    input.focus();
  });
}

function setUpBanner() {
  const banner = document.getElementById("banner");
  onLink((lost) => {
    banner.hidden = lost === null;
    if (lost !== null) fill(banner, icon("warning"), h("p", {}, `${lost.message} Trying again in ${Math.round(lost.seconds)} s.`));
  });
}

function setUpFrame() {
  for (const item of document.querySelectorAll("[data-icon]")) item.prepend(icon(item.dataset.icon, 20));
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  setInterval(() => !document.hidden && refreshTimes(), TIMES_SECONDS * 1000);
}

setUpFrame();
setUpTheme();
setUpKey();
setUpSearch();
setUpBanner();
addEventListener("hashchange", show);
show();
