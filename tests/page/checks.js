// What a person with a screen reader, a keyboard or weak eyes would stumble over, as sentences. Run in the page.
() => {
  const problems = [];
  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const named = (element) =>
    (element.getAttribute("aria-label") ?? "").trim() ||
    (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("").trim() ||
    [...(element.labels ?? [])].map((label) => label.textContent).join("").trim() ||
    (["A", "BUTTON", "SUMMARY"].includes(element.tagName) && element.textContent.trim()) ||
    element.getAttribute("alt");
  const told = (element) => `${element.tagName.toLowerCase()}.${element.className?.baseVal ?? element.className} "${element.textContent.slice(0, 40)}"`;

  for (const control of all("input, select, textarea, button, a, summary, [role=progressbar], meter, progress, dialog")) {
    if (!named(control)) problems.push(`no name: ${told(control)}`);
  }
  for (const image of all("img")) if (!image.hasAttribute("alt")) problems.push("an image without alt");
  for (const drawing of all("svg")) if (drawing.getAttribute("aria-hidden") !== "true") problems.push(`a drawing that is read out: ${told(drawing)}`);
  const levels = all("h1, h2, h3, h4").map((heading) => Number(heading.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1) problems.push(`not one h1: ${levels}`);
  levels.forEach((level, index) => {
    if (level > (levels[index - 1] ?? 0) + 1) problems.push(`headings leave a level out: ${levels}`);
  });
  for (const landmark of ["header", "main", "nav"]) if (!all(landmark).length) problems.push(`no landmark ${landmark}`);
  for (const nav of all("nav, section")) if (!named(nav)) problems.push(`a landmark without a name: ${told(nav)}`);
  for (const table of all("table")) {
    if (!table.caption) problems.push("a table without a caption");
    for (const head of table.querySelectorAll("th")) if (!head.scope) problems.push(`a heading without a scope: ${told(head)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((one, index) => ids.indexOf(one) !== index))) problems.push(`an id twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")) {
    for (const name of ["aria-labelledby", "aria-describedby", "for"]) {
      for (const id of (element.getAttribute(name) ?? "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) problems.push(`${name} names nothing: ${id}`);
      }
    }
  }
  for (const element of all("[tabindex]")) if (element.tabIndex > 0) problems.push(`a tab order of its own: ${told(element)}`);
  if (!document.documentElement.lang) problems.push("no language");
  if (document.documentElement.scrollWidth > innerWidth) problems.push(`wider than the screen: ${document.documentElement.scrollWidth} of ${innerWidth}`);
  return [...new Set([...problems, ...faint()])];

  // Contrast, as WCAG 2.2 reckons it: 4.5 for text, 3 for large text.
  function faint() {
    const found = [];
    for (const element of all("body *")) {
      const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
      if (!own || element.closest("svg, option, noscript, [aria-disabled=true]") || hiddenFromEyes(element)) continue;
      const style = getComputedStyle(element);
      const size = parseFloat(style.fontSize);
      const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
      const ratio = contrast(colour(style.color), behind(element));
      if (ratio < needed) found.push(`contrast ${ratio.toFixed(2)}: ${told(element)}`);
    }
    return found;
  }
  function hiddenFromEyes(element) {
    const { width, height } = element.getBoundingClientRect();
    return width <= 1 || height <= 1 || element.closest(".unseen, .skip, .setting span") !== null;
  }
  function colour(text) {
    const canvas = (colour.canvas ??= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }));
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { r, g, b, a: a / 255 };
  }
  function behind(element) {
    for (let place = element; place; place = place.parentElement) {
      const found = colour(getComputedStyle(place).backgroundColor);
      if (found.a > 0.99) return found;
    }
    return { r: 255, g: 255, b: 255 };
  }
  function contrast(one, other) {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  }
  function luminance({ r, g, b }) {
    const [x, y, z] = [r, g, b].map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  }
}
