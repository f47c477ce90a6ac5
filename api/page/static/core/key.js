// The API key: kept for this tab and no longer (sessionStorage), sent in a header, shown to nobody.

const NAME = "penstock-key";
const listeners = new Set();
let wanted = false;

export const readKey = () => sessionStorage.getItem(NAME) ?? "";

export function keepKey(key) {
  if (key) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
  tell(false);
}

export function refuseKey() {
  tell(true);
}

export function acceptKey() {
  if (wanted) tell(false);
}

/** Calls `listener(wanted)` whenever a key is asked for, or is good again. */
export function onKey(listener) {
  listeners.add(listener);
}

function tell(now) {
  wanted = now;
  for (const listener of listeners) listener(now);
}
