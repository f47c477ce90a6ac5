// Whether somebody looks at the page. What repeats itself waits here while nobody does.

/** Resolves once the page is shown; at once if it is. Rejects with the signal's reason. */
export function shown(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const done = () => {
      if (document.hidden) return;
      clear();
      resolve();
    };
    const stop = () => {
      clear();
      reject(signal.reason);
    };
    const clear = () => {
      document.removeEventListener("visibilitychange", done);
      signal.removeEventListener("abort", stop);
    };
    document.addEventListener("visibilitychange", done);
    signal.addEventListener("abort", stop);
  });
}

/** A signal that ends with `signal`, or as soon as the page is hidden. */
export function whileShown(signal) {
  const ended = new AbortController();
  const hide = () => document.hidden && ended.abort(new DOMException("hidden", "AbortError"));
  document.addEventListener("visibilitychange", hide, { signal: ended.signal });
  signal.addEventListener("abort", () => ended.abort(signal.reason), { signal: ended.signal });
  if (signal.aborted) ended.abort(signal.reason);
  return ended.signal;
}

/** Resolves after `seconds`, or when `signal` ends. */
export function pause(seconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(done, seconds * 1000);
    function done() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done);
  });
}
