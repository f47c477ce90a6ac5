// The drawings, on a grid of 24, in strokes. Always beside a word: a reader that cannot see them misses nothing.

import { svg } from "../core/dom.js";

const PATHS = {
  overview: ["M4 13a8 8 0 1 1 16 0", "M12 13l4-4", "M4 17h16"],
  jobs: ["M5 6h14", "M5 12h14", "M5 18h8"],
  batches: ["M4 8l8-4 8 4-8 4z", "M4 12l8 4 8-4", "M4 16l8 4 8-4"],
  workers: ["M7 7h10v10H7z", "M10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4"],
  plus: ["M12 5v14", "M5 12h14"],
  key: ["M15 9a4 4 0 1 0-3.5 4L13 14.5V17h2.500V19.500H19V16l-4-4z"],
  auto: ["M12 4a8 8 0 1 0 0 16z", "M12 4a8 8 0 0 1 0 16"],
  light: ["M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z", "M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.400 1.400M17.600 17.600L19 19M5 19l1.400-1.400M17.600 6.400L19 5"],
  dark: ["M20 14.500A8.500 8.500 0 1 1 9.500 4a7 7 0 0 0 10.500 10.500z"],
  book: ["M5 4h11a3 3 0 0 1 3 3v13H8a3 3 0 0 1-3-3z", "M5 17a3 3 0 0 1 3-3h11"],
  search: ["M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12z", "M15.500 15.500L20 20"],
  queued: ["M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16z", "M12 8v4l3 2"],
  running: ["M8 5l11 7-11 7z"],
  succeeded: ["M5 13l4 4L19 7"],
  failed: ["M6 6l12 12", "M18 6L6 18"],
  cancelled: ["M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16z", "M6.500 6.500l11 11"],
  expired: ["M7 4h10", "M7 20h10", "M8 4c0 5 8 6 8 11v5", "M16 4c0 5-8 6-8 11v5"],
  interrupted: ["M9 6v12", "M15 6v12"],
  lease_lost: ["M4 4l16 16", "M8 8a6 6 0 0 0 8 8", "M11 6a6 6 0 0 1 7 7"],
  replay: ["M5 12a7 7 0 1 1 2 5", "M5 20v-4h4"],
  copy: ["M9 9h10v11H9z", "M15 9V4H5v11h4"],
  download: ["M12 4v11", "M7 11l5 5 5-5", "M5 20h14"],
  upload: ["M12 16V5", "M7 9l5-5 5 5", "M5 20h14"],
  edit: ["M5 19l1-4L16 5l3 3L9 18z"],
  back: ["M14 6l-6 6 6 6"],
  next: ["M10 6l6 6-6 6"],
  warning: ["M12 4l9 16H3z", "M12 10v4", "M12 17v.500"],
  file: ["M7 3h7l4 4v14H7z", "M14 3v5h4"],
  close: ["M6 6l12 12", "M18 6L6 18"],
};

export function icon(name, size = 18) {
  const lines = (PATHS[name] ?? PATHS.queued).map((d) => svg("path", { d }));
  return svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" }, lines);
}
