// Whether the API can be reached, for the banner that says so.

const listeners = new Set();
let broken = null;

export const onLink = (listener) => listeners.add(listener);

export function lost(error, seconds) {
  broken = error;
  for (const listener of listeners) listener({ message: error.message, seconds });
}

export function reached() {
  if (broken === null) return;
  broken = null;
  for (const listener of listeners) listener(null);
}
