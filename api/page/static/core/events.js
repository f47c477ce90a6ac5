// Follows a stream of server-sent events with `fetch`, because an EventSource cannot send a key. Comes back by itself
// after a cut, with the id of the last frame, so that nothing is missed and nothing comes twice.

import { open } from "./api.js";
import { passing, retrySeconds } from "./poll.js";
import { pause, shown, whileShown } from "./visible.js";

/**
 * Hands every frame `{event, id, data}` to `onFrame`, which answers true for the last one. `onState` hears `live`,
 * `waiting` (it will connect again) and `paused` (nobody looks). Ends with the stream or the signal; throws an ApiError
 * that another try cannot help.
 */
export async function follow(path, { signal, onFrame, onState = () => {} }) {
  const place = { id: "" };
  let failures = 0;
  while (!signal.aborted) {
    if (document.hidden) onState("paused");
    await shown(signal);
    try {
      if (await followOnce(path, place, signal, onFrame, () => { failures = 0; onState("live"); })) return;
      failures += 1;
    } catch (error) {
      if (signal.aborted) return;
      if (error.name === "AbortError") continue; // hidden
      if (error.status !== undefined && !passing(error)) throw error;
      failures += 1;
    }
    onState("waiting");
    await pause(retrySeconds({}, failures), signal);
  }
}

async function followOnce(path, place, signal, onFrame, onOpen) {
  const looked = whileShown(signal);
  const headers = { Accept: "text/event-stream", ...(place.id ? { "Last-Event-ID": place.id } : {}) };
  const reply = await open(path, { signal: looked, headers });
  onOpen();
  for await (const frame of frames(reply.body)) {
    if (frame.id !== null) place.id = frame.id;
    if (onFrame(frame)) return true;
    if (frame.event === "error") return false;
  }
  return false;
}

/** The frames of a body, as they come. A frame that was cut off is none. */
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const frame = parse(block);
        if (frame) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const frame = { event: "message", id: null, data: null };
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith(":")) continue;
    const [name, ...rest] = line.split(":");
    const value = rest.join(":").replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "event" || name === "id") frame[name] = value;
  }
  return data.length ? { ...frame, data: JSON.parse(data.join("\n")) } : null;
}
