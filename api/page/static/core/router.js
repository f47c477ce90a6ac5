// Which view is shown: read from what follows the # of the address, so that every view is a link.

/** `#/jobs/job_1?state=failed` as `{parts: ["jobs", "job_1"], query: {state: "failed"}}`. */
export function readPlace(hash = location.hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decode), query: Object.fromEntries(new URLSearchParams(search)) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The link to a place. */
export function href(parts, query = {}) {
  const set = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const path = `#/${parts.map(encodeURIComponent).join("/")}`;
  return set.length ? `${path}?${new URLSearchParams(set)}` : path;
}

export function go(parts, query) {
  location.hash = href(parts, query);
}

/** The same, without a step to come back to: for a filter that is being changed. */
export function swap(parts, query) {
  history.replaceState(history.state, "", href(parts, query));
}
