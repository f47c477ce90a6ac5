// Asks again and again, at the pace that the API names, and not at all while nobody looks.

import { pause, shown } from "./visible.js";
import { lost, reached } from "./link.js";

const FIRST_RETRY_SECONDS = 1;
const LAST_RETRY_SECONDS = 15;

/**
 * Calls `look()` until `signal` ends. It answers how many seconds to wait before the next look, or null to stop. One
 * that fails because the API cannot serve is tried again, later each time. `onError` hears of the others, and may
 * answer true to go on. `again()` of what this answers looks at once.
 */
export function poll(signal, look, onError = () => false) {
  let waiting = new AbortController();
  run().catch((error) => {
    if (!signal.aborted) console.error(error);
  });
  return { again: () => waiting.abort() };

  async function run() {
    let failures = 0;
    while (!signal.aborted) {
      await shown(signal);
      waiting = new AbortController();
      let seconds;
      try {
        seconds = await look();
        failures = 0;
        reached();
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === undefined) throw error; // a defect of the page
        if (!passing(error)) {
          if (!onError(error)) return;
          seconds = LAST_RETRY_SECONDS;
        } else {
          failures += 1;
          seconds = retrySeconds(error, failures);
          lost(error, seconds);
        }
      }
      if (seconds === null) return;
      await pause(seconds, AbortSignal.any([signal, waiting.signal]));
    }
  }
}

/** Whether an error may be gone the next time. */
export function passing(error) {
  return error.status === 0 || error.status === 429 || error.status >= 500;
}

export function retrySeconds(error, failures) {
  return error.retryAfter ?? Math.min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (failures - 1));
}

/** The API's word on when something will be done, as a pace for watching it: a tenth of it, from 1 to 5 seconds. */
export const watchSeconds = (retryAfter) => Math.min(5, Math.max(1, (retryAfter ?? 20) / 10));
